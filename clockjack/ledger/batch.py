"""Registration of many tasks in one transaction: a few statements for each 500 that are new, whatever their number.

What is registered is what `tasks.register` would make of each alone; tasks whose task_key is known, and those whose
times depend on their id (`H`, jitter), go through it one by one. Known tasks are locked before anything is inserted, by
primary key; new ones are inserted in the order of their keys, so that two batches with the same keys do not deadlock.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import itemgetter
from typing import Any

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
TIMED = ("jitter_s", "exclude", "start_at", "end_at")
OF_ROW = itemgetter(*NAMES)


@dataclass(slots=True)
class Batch:
    """What became of each registration, by its place: the task's row (of a new one only what is known), or why not."""

    rows: dict[int, Row] = field(default_factory=dict)
    created: set[int] = field(default_factory=set)
    refused: dict[int, ScheduleError] = field(default_factory=dict)
    event: int | None = None  # its id says later whether this became true; None: nothing was created


def register(
    connection: Connection, namespace: str, wanted: Sequence[tuple[int, Row]], *, actor: str, now: datetime
) -> Batch:
    """Each of `wanted` (a place and validated values, task_keys differ) is a task, as `tasks.register` has it.

    What never fires with the slots of its id is refused alone; the others are there. Somebody else's task with one of
    the keys, made at this instant, raises IntegrityError (1062): call again after the rollback.
    """
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
        done.event = _insert(connection, part, actor, now)
    done.rows |= dict(new)
    if done.created and not new:
        done.event = tasks.last_event(connection, done.rows[min(done.created)]["id"])
    done.created |= {place for place, _ in new}
    return done


def register_one(
    connection: Connection, namespace: str, values: Row, *, actor: str, now: datetime, meant: tasks.Meant = None
) -> tasks.Registered:
    """What `tasks.register` does; a new task without a task_key by two statements."""
    row = tasks.filled(values) | {"namespace": namespace, "task_key": None, "created_at": now, "updated_at": now}
    due = _first(row, now) if values.get("task_key") is None else None
    if due is None:
        return tasks.register(connection, namespace, values, actor=actor, meant=meant)
    row["next_run_at"] = due
    _insert(connection, [(0, row)], actor, now)
    return tasks.Registered(NEW | row, created=True)


def plain(values: Row) -> datetime | None:
    """When a new task with these values is due first, if that is its run_at and nothing else."""
    return None if any(values.get(name) for name in TIMED) else values.get("run_at")


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


def _insert(connection: Connection, part: Sequence[tuple[int, Row]], actor: str, now: datetime) -> int:
    """The rows are there, with their events, and know their ids; returns the id of an event."""
    columns = dict(zip(NAMES, zip(*(OF_ROW(row) for _, row in part), strict=True), strict=True))
    alike = {name for name, values in columns.items() if values.count(values[0]) == len(values)} - {"next_run_at"}
    same = {name: literal(columns[name][0]) for name in NAMES if name in alike}
    names = [name for name in NAMES if name not in alike or columns[name][0] != LEFT_OUT.get(name)]
    # a column that all rows have alike is written out once, not row by row
    fixed = {"created_at": moment(now), "updated_at": moment(now), "seen_state": "'active'"}
    fixed |= {"seen_schedule_version": "1", "version": "1"} | {name: same[name] for name in names if name in alike}
    tail = f", {', '.join(fixed.values())})"
    own = [name for name in names if name not in alike]
    dues = [moment(due) for due in columns["next_run_at"]]
    once = columns["run_at"] == columns["next_run_at"]
    written = [
        dues if name == "next_run_at" or (once and name == "run_at") else map(literal, columns[name]) for name in own
    ]
    rows_ = ",".join(f"({','.join(values)}{tail}" for values in zip(*written, strict=True))
    result = connection.exec_driver_sql(f"INSERT INTO tasks ({', '.join((*own, *fixed))}) VALUES {rows_}")
    first = int(result.lastrowid)  # one INSERT's ids are contiguous: server.check asserts what that needs
    for number, (_, row) in enumerate(part):
        row |= {"id": first + number, "version": 1, "state": "active"}
    by = text(actor[:100])
    if once and set(tasks.SCHEDULE) - {"run_at"} <= alike:  # then the rest is said once
        rest = tasks.words(part[0][1] | {"run_at": None})
        words = [f"run_at={due[1:-1]}{rest and ', '}{rest}" for due in dues]
    else:
        words = [tasks.words(row) for _, row in part]
    result = connection.exec_driver_sql(
        "INSERT INTO task_events (task_id, actor, action, version, schedule_version, detail) VALUES "
        + ",".join(f"({first + n},{by},'registered',1,1,{text(said[:1000])})" for n, said in enumerate(words))
    )
    return int(result.lastrowid)
