"""What `explain` is told from: one task with what was done to it and what became of it lately. Read-only, bounded."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from clockjack.ledger.database import rows
from clockjack.ledger.queues import is_paused
from clockjack.ledger.reports import RUN_COLUMNS, list_events
from clockjack.ledger.tasks import get

RECENT, NEIGHBOURS, EVENTS = 20, 500, 100
_COLUMNS = ", ".join(name for name in RUN_COLUMNS.split(", ") if name != "r.result")
_BRIEF = "SELECT id, due_at, state, origin, first_started_at, finished_at FROM runs"


@dataclass(frozen=True, slots=True)
class History:
    """A task's row, its latest events and runs, and the runs that may have been in the way of those.

    The latest are the first. `now` is the database's.
    """

    now: datetime
    task: dict[str, Any]
    events: list[dict[str, Any]]
    runs: list[dict[str, Any]]
    neighbours: list[dict[str, Any]]
    queue_paused: bool = False


def history(connection: Connection, namespace: str, task_id: int) -> History | None:
    """What there is to tell of the task; None where this namespace has no such task."""
    task = get(connection, namespace, task_id)
    if task is None:
        return None
    runs = rows(
        connection,
        f"SELECT {_COLUMNS}, r.wake_at, r.lease_until, r.live_task_id FROM runs r FORCE INDEX (occurrence)"
        " WHERE r.task_id = :t ORDER BY r.due_at DESC LIMIT :n",
        t=task_id,
        n=RECENT,
    )
    return History(
        now=connection.execute(sa.text("SELECT UTC_TIMESTAMP(6)")).scalar_one(),
        task=task,
        events=list_events(connection, task_id, limit=EVENTS),
        runs=runs,
        neighbours=_neighbours(connection, task_id) if any(map(_met_another, runs)) else [],
        queue_paused=is_paused(connection, task["queue"]),
    )


def _met_another(run: dict[str, Any]) -> bool:
    waits = run["state"] == "ready" and run["live_task_id"] is not None and run["attempt"] > 0
    return waits or run["reason"] in ("overlap", "replaced")


def _neighbours(connection: Connection, task_id: int) -> list[dict[str, Any]]:
    """The runs of the task that have begun, of its latest ones; and those that live, however old."""
    late = f"({_BRIEF} FORCE INDEX (occurrence) WHERE task_id = :t ORDER BY due_at DESC LIMIT :n)"
    live = f"({_BRIEF} FORCE INDEX (live) WHERE live_task_id = :t LIMIT :n)"
    found = rows(connection, f"{late} UNION {live}", t=task_id, n=NEIGHBOURS)
    return [run for run in found if run["first_started_at"] is not None]
