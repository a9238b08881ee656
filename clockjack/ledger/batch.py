"""Registration of many tasks in one transaction: a few statements for each 500 that are new, whatever their number.

What is registered is what `tasks.register` would make of each alone; tasks whose task_key is known, and those whose
times depend on their id (`H`, jitter), go through it one by one. Known tasks are locked before anything is inserted, by
primary key; new ones are inserted in the order of their keys, so that two batches with the same keys do not deadlock.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from clockjack.ledger import tasks
from clockjack.ledger.database import chunks, rows
from clockjack.ledger.exact import literal, moment, text
from clockjack.ledger.tasks import DEFAULTS, EDITABLE
from clockjack.schedules import ScheduleError, wants_seed

Row = dict[str, Any]
AT_ONCE = 500
# what the table gives to a column that is not named: a column that has no other value in 500 rows is left out
LEFT_OUT = {
    "namespace": "default",
    "queue": "default",
    "payload": "null",
    "timeout_s": 60,
    "max_failures": 5,
    "backoff_s": 2,
}
LEFT_OUT |= {"backoff_max_s": 3600, **DEFAULTS}
# of a new task's row, what nobody has chosen
NEW: Row = dict.fromkeys(("group_key", "offset_s", "missed_since", "error"))
NEW |= {"schedule_version": 1, "runs_claimed": 0, "seen_state": "active", "seen_schedule_version": 1}
NAMES = ("namespace", "next_run_at", "task_key", *EDITABLE)
OF_ROW = itemgetter(*NAMES)
WRITERS: dict[str, Callable[[Any], str]] = {"next_run_at": moment, "run_at": moment, "payload": text, "task_key": text}


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
        due = None if values["task_key"] in known else _first(values, now)
        if due is None:
            _alone(connection, namespace, done, place, values, actor)
        else:
            new.append((place, values | {"namespace": namespace, "next_run_at": due}))
    for part in chunks(new, AT_ONCE):
        _insert(connection, part, actor, now)
    done.rows |= dict(new)
    done.created |= {place for place, _ in new}
    return done


def register_one(connection: Connection, namespace: str, values: Row, *, actor: str, now: datetime) -> tasks.Registered:
    """What `tasks.register` does; a new task without a task_key by two statements."""
    due = _first(values, now) if values["task_key"] is None else None
    if due is None:
        return tasks.register(connection, namespace, values, actor=actor)
    row = values | {"namespace": namespace, "next_run_at": due, "created_at": now, "updated_at": now}
    _insert(connection, [(0, row)], actor, now)
    return tasks.Registered(NEW | row, created=True)


def plain(values: Row) -> datetime | None:
    """When a new task with these values is due first, if that is its run_at and nothing else."""
    timed = values["jitter_s"] or values["exclude"] or values["start_at"] or values["end_at"]
    return None if timed else values["run_at"]


def _known(connection: Connection, namespace: str, keys: Sequence[str]) -> dict[str, int]:
    """The ids of the tasks that have these task_keys, whose rows are locked."""
    sql = "SELECT id FROM tasks WHERE namespace = :n AND task_key IN :keys"
    ids = [row["id"] for part in chunks(keys, AT_ONCE) for row in rows(connection, sql, n=namespace, keys=list(part))]
    sql = "SELECT id, task_key FROM tasks FORCE INDEX (PRIMARY) WHERE id IN :ids ORDER BY id FOR UPDATE"
    locked = [row for part in chunks(sorted(ids), AT_ONCE) for row in rows(connection, sql, ids=list(part))]
    return {row["task_key"]: row["id"] for row in locked}


def _first(row: Row, now: datetime) -> datetime | None:
    """When a new task with these values is due first; None if that is for `tasks.register` to say."""
    if due := plain(row):
        return due
    row = row | {"created_at": now}
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
    columns = dict(zip(NAMES, zip(*(OF_ROW(row) for _, row in part), strict=True), strict=True))
    alike = {name for name, values in columns.items() if values.count(values[0]) == len(values)} - {"next_run_at"}
    same = {name: literal(columns[name][0]) for name in NAMES if name in alike}
    names = [name for name in NAMES if name not in alike or columns[name][0] != LEFT_OUT.get(name)]
    # a column that all rows have alike is written out once, not row by row
    fixed = {"created_at": moment(now), "updated_at": moment(now), "seen_state": "'active'"}
    fixed |= {"seen_schedule_version": "1", "version": "1"} | {name: same[name] for name in names if name in alike}
    tail = f", {', '.join(fixed.values())})"
    own = [name for name in names if name not in alike]
    written = [map(WRITERS.get(name, literal), columns[name]) for name in own]
    rows_ = ",".join(f"({','.join(values)}{tail}" for values in zip(*written, strict=True))
    result = connection.exec_driver_sql(f"INSERT INTO tasks ({', '.join((*own, *fixed))}) VALUES {rows_}")
    first = int(result.lastrowid)  # one INSERT's ids are contiguous: server.check asserts what that needs
    for number, (_, row) in enumerate(part):
        row |= {"id": first + number, "version": 1, "state": "active"}
    by = text(actor[:100])
    words = _words(part, alike)
    connection.exec_driver_sql(
        "INSERT INTO task_events (task_id, actor, action, version, schedule_version, detail) VALUES "
        + ",".join(f"({row['id']},{by},'registered',1,1,{text(words(row)[:1000])})" for _, row in part)
    )


def _words(part: Sequence[tuple[int, Row]], alike: Collection[str]) -> Callable[[Row], str]:
    """What `tasks.words` says of each; where only run_at differs, the rest is said once."""
    first = part[0][1]
    if first["run_at"] is None or not set(tasks.SCHEDULE) - {"run_at"} <= set(alike):
        return tasks.words
    rest = tasks.words(first | {"run_at": None})
    tail = f", {rest}" if rest else ""
    return lambda row: f"run_at={row['run_at']}{tail}"
