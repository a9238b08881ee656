"""Registration of many tasks in one transaction: a few statements for each 500 that are new, whatever their number.

What is registered is what `tasks.register` would make of each alone; tasks whose task_key is known, and those whose
times depend on their id (`H`, jitter), go through it one by one. Known tasks are locked before anything is inserted, by
primary key; new ones are inserted in the order of their keys, so that two batches with the same keys do not deadlock.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from clockjack.ledger import tasks
from clockjack.ledger.database import chunks, rows
from clockjack.ledger.exact import moment
from clockjack.ledger.tasks import DEFAULTS, EDITABLE
from clockjack.schedules import ScheduleError, wants_seed

Row = dict[str, Any]
AT_ONCE = 500
# what the table gives to a column that is not named: a column that has no other value in 500 rows is left out
LEFT_OUT = {"queue": "default", "payload": "null", "timeout_s": 60, "max_failures": 5, "backoff_s": 2}
LEFT_OUT |= {"backoff_max_s": 3600, **DEFAULTS}
NAMES = ("task_key", *EDITABLE)


@dataclass(slots=True)
class Batch:
    """What became of each registration, by its place: the task's row (of a new one only what is known), or why not."""

    rows: dict[int, Row] = field(default_factory=dict)
    created: set[int] = field(default_factory=set)
    refused: dict[int, ScheduleError] = field(default_factory=dict)

    @property
    def one(self) -> int | None:
        """The id of a task whose event says later whether this became true; None: nothing was created."""
        return self.rows[min(self.created)]["id"] if self.created else None


def register(connection: Connection, namespace: str, wanted: Sequence[tuple[int, Row]], *, actor: str) -> Batch:
    """Each of `wanted` (a place and validated values, task_keys differ) is a task, as `tasks.register` has it.

    What never fires with the slots of its id is refused alone; the others are there. Somebody else's task with one of
    the keys, made at this instant, raises IntegrityError (1062): call again after the rollback.
    """
    now = connection.execute(sa.text("SELECT UTC_TIMESTAMP(6)")).scalar_one()
    done = Batch()
    known = _known(connection, namespace, sorted(v["task_key"] for _, v in wanted if v["task_key"] is not None))
    new: list[tuple[int, Row]] = []
    for place, values in sorted(wanted, key=lambda one: (known.get(one[1]["task_key"], 0), one[1]["task_key"] or "")):
        due = None if values["task_key"] in known else _first(values | {"created_at": now}, now)
        if due is None:
            _alone(connection, namespace, done, place, values, actor)
        else:
            new.append((place, values | {"namespace": namespace, "next_run_at": due}))
    for part in chunks(new, AT_ONCE):
        _insert(connection, part, actor, now)
    done.rows |= dict(new)
    done.created |= {place for place, _ in new}
    return done


def _known(connection: Connection, namespace: str, keys: Sequence[str]) -> dict[str, int]:
    """The ids of the tasks that have these task_keys, whose rows are locked."""
    sql = "SELECT id FROM tasks WHERE namespace = :n AND task_key IN :keys"
    ids = [row["id"] for part in chunks(keys, AT_ONCE) for row in rows(connection, sql, n=namespace, keys=list(part))]
    sql = "SELECT id, task_key FROM tasks FORCE INDEX (PRIMARY) WHERE id IN :ids ORDER BY id FOR UPDATE"
    locked = [row for part in chunks(sorted(ids), AT_ONCE) for row in rows(connection, sql, ids=list(part))]
    return {row["task_key"]: row["id"] for row in locked}


def _first(row: Row, now: datetime) -> datetime | None:
    """When a new task with these values is due first; None if that is for `tasks.register` to say."""
    if row["run_at"] is not None and not (row["jitter_s"] or row["exclude"] or row["start_at"] or row["end_at"]):
        return row["run_at"]  # type: ignore[no-any-return]
    return None if wants_seed(tasks.schedule_of(row)) else tasks.first_run(row, now)


def _alone(connection: Connection, namespace: str, done: Batch, place: int, values: Row, actor: str) -> None:
    connection.exec_driver_sql("SAVEPOINT one")
    try:
        made = tasks.register(connection, namespace, values, actor=actor)
    except ScheduleError as error:
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT one")
        done.refused[place] = error
        return
    done.rows[place] = made.task
    if made.created:
        done.created.add(place)


def _insert(connection: Connection, part: Sequence[tuple[int, Row]], actor: str, now: datetime) -> None:
    """The rows are there, with their events, and know their ids."""
    names = [name for name in NAMES if any(row[name] != LEFT_OUT.get(name) for _, row in part)]
    names += ["namespace", "next_run_at"]
    at = moment(now)
    one = f"({', '.join(['%s'] * len(names))}, {at}, {at}, 'active', 1, 1)"
    result = connection.exec_driver_sql(
        f"INSERT INTO tasks ({', '.join(names)}, created_at, updated_at, seen_state, seen_schedule_version, version)"
        f" VALUES {', '.join([one] * len(part))}",
        tuple(row[name] for _, row in part for name in names),
    )
    first = int(result.lastrowid)  # one INSERT's ids are contiguous: server.check asserts what that needs
    for number, (_, row) in enumerate(part):
        row |= {"id": first + number, "version": 1, "state": "active"}
    connection.exec_driver_sql(
        "INSERT INTO task_events (task_id, actor, action, version, schedule_version, detail) VALUES "
        + ", ".join(f"({row['id']}, %s, 'registered', 1, 1, %s)" for _, row in part),
        tuple(value for _, row in part for value in (actor[:100], tasks.words(row)[:1000])),
    )
