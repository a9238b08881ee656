"""A family of tasks kept in step with a list: those whose task_key begins with one prefix are what the list says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.engine import Connection

from clockjack.ledger import control, tasks
from clockjack.ledger.database import rows

Row = dict[str, Any]


@dataclass(slots=True)
class Kept:
    """The task_keys of what was added, changed, left as it was, and removed (cancelled)."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


def keep(connection: Connection, namespace: str, prefix: str, wanted: Mapping[str, Row], *, actor: str) -> Kept:
    """The active and paused tasks whose key begins with `prefix` are `wanted`, column values by task_key.

    Others of the prefix are cancelled. A paused task stays paused. All of it or, if this raises, none.
    """
    known = {
        row["task_key"]: row
        for row in rows(
            connection,
            "SELECT id, task_key, state, version FROM tasks WHERE namespace = :n AND task_key >= :low"
            " AND task_key < :high ORDER BY id LIMIT 10000",
            n=namespace,
            low=prefix,
            high=prefix[:-1] + chr(ord(prefix[-1]) + 1),
        )
    }
    kept = Kept()
    for key, row in known.items():  # by ascending id: so all that lock many tasks do it
        if key in wanted:
            made = tasks.register(connection, namespace, wanted[key], actor=actor)
            (
                kept.unchanged if not made.changed else kept.added if row["state"] == "cancelled" else kept.changed
            ).append(key)
        elif row["state"] != "cancelled":
            control.cancel(connection, namespace, row["id"], actor=actor)
            kept.removed.append(key)
    for key, values in wanted.items():
        if key not in known:
            tasks.register(connection, namespace, values, actor=actor)
            kept.added.append(key)
    return kept
