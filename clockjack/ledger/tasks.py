"""Tasks: registration and control. Every change is one row in `task_events`, in the same transaction.

Pause, cancel and edit write the task row only; the verdict at the start of a run does the rest (runs.start), so that
the same happens for an UPDATE made with plain SQL.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from clockjack.ledger.database import changed, inserted, rows
from clockjack.schedules import Schedule, ScheduleError, first, next_after, validate, wants_seed

DEFAULTS = {"timezone": "UTC", "jitter_s": 0, "dst_gap": "run_after", "dst_fold": "first"}
_KINDS = ("run_at", "run_at_local", "cron", "every_s", "rrule")
SCHEDULE = (*_KINDS, "start_at", "end_at", "max_runs", "exclude", *DEFAULTS)
WORK = ("name", "handler", "queue", "payload", "timeout_s", "max_failures", "backoff_s", "backoff_max_s")
STANDING = ("runs_claimed", "state", "next_run_at", "schedule_version", "version", "error", "created_at", "updated_at")
COLUMNS = ", ".join(("id", "namespace", "task_key", *WORK, *SCHEDULE, *STANDING))


class StateConflict(Exception):
    """The task is not in a state in which this can be done."""


@dataclass(frozen=True, slots=True)
class Registered:
    """What a registration did: the task's row, and whether it is new."""

    task: dict[str, Any]
    created: bool


def schedule_of(row: Any) -> Schedule:
    """The schedule that a task's row describes. `H` and jitter have the slots of its id."""
    return Schedule(
        run_at=row["run_at"],
        cron=row["cron"],
        every_s=row["every_s"],
        timezone=row["timezone"],
        start_at=row["start_at"],
        end_at=row["end_at"],
        anchor=row["created_at"],
        rrule=row["rrule"],
        run_at_local=row["run_at_local"],
        exclude=row["exclude"],
        jitter_s=row["jitter_s"],
        seed=str(row.get("id", "")),
        dst_gap=row["dst_gap"],
        dst_fold=row["dst_fold"],
    )


def register(connection: Connection, namespace: str, fields: dict[str, Any], *, actor: str) -> Registered:
    """The task is in the ledger: a new one, or the one of the same `task_key` brought to `fields` (validated values).

    An unchanged schedule keeps its next_run_at; a changed one counts from now. A cancelled or invalid task of that key
    becomes active again; a paused one stays paused. A duplicate key raises IntegrityError (1062): call
    again after the rollback. ScheduleError if with the slots of its id the task never fires.
    """
    now = connection.execute(sa.text("SELECT UTC_TIMESTAMP(6)")).scalar_one()
    values = {name: fields.get(name, DEFAULTS.get(name)) for name in (*SCHEDULE, *WORK)}
    if fields.get("task_key") is not None:
        found = rows(
            connection,
            f"SELECT {COLUMNS} FROM tasks WHERE namespace = :n AND task_key = :k FOR UPDATE",
            n=namespace,
            k=fields["task_key"],
        )
        if found:
            return Registered(_bring_to(connection, found[0], values, now, actor), created=False)
    row = values | {"namespace": namespace, "task_key": fields.get("task_key"), "created_at": now, "updated_at": now}
    seeded = wants_seed(schedule_of(row))
    row["next_run_at"] = None if seeded else _first_run(row, now)  # the slots are those of the id
    row["version"] = 1
    names = list(row)
    row["id"] = inserted(
        connection, f"INSERT INTO tasks ({', '.join(names)}) VALUES ({', '.join(':' + n for n in names)})", **row
    )
    if seeded:
        row["next_run_at"] = _first_run(row, now)
        changed(
            connection, "UPDATE tasks SET next_run_at = :next WHERE id = :id", next=row["next_run_at"], id=row["id"]
        )
    _event(connection, row | {"schedule_version": 1}, "registered", actor, _words(row))
    return Registered(row | {"state": "active", "schedule_version": 1, "runs_claimed": 0, "error": None}, created=True)


def first_run(row: dict[str, Any], now: datetime) -> datetime | None:
    """When a task with this schedule is due first, seen from `now`; ScheduleError if it cannot be used."""
    schedule = schedule_of(row)
    validate(schedule)
    return first(schedule) if schedule.once else next_after(schedule, now)


def _first_run(row: dict[str, Any], now: datetime) -> datetime:
    found = first_run(row, now)
    if found is None:  # judged here again, for before there is an id nobody knows its slots
        kind = next(name for name in _KINDS if row[name] is not None)
        raise ScheduleError("end_at" if row["end_at"] else kind, "never fires: no occurrence is left")
    return found


def get(connection: Connection, namespace: str, task_id: int, *, lock: bool = False) -> dict[str, Any] | None:
    """The task's row, or None where this namespace has no such task."""
    found = rows(
        connection,
        f"SELECT {COLUMNS} FROM tasks WHERE id = :i AND namespace = :n" + (" FOR UPDATE" if lock else ""),
        i=task_id,
        n=namespace,
    )
    return found[0] if found else None


def pause(connection: Connection, namespace: str, task_id: int, *, actor: str) -> dict[str, Any] | None:
    """The task is paused (again); None where there is none. StateConflict when it was cancelled."""
    task = get(connection, namespace, task_id, lock=True)
    if task is None or task["state"] == "paused":
        return task
    if task["state"] == "cancelled":
        raise StateConflict("the task is cancelled: register it again instead")
    return _update(connection, task, {"state": "paused"}, "paused", actor)


def resume(connection: Connection, namespace: str, task_id: int, *, actor: str) -> dict[str, Any] | None:
    """The task is active and due at its next occurrence; a one-time task that never ran is due at its time."""
    task = get(connection, namespace, task_id, lock=True)
    if task is None or task["state"] == "active":
        return task
    if task["state"] == "cancelled":
        raise StateConflict("the task is cancelled: register it again instead")
    now = connection.execute(sa.text("SELECT UTC_TIMESTAMP(6)")).scalar_one()
    new = {"state": "active", "next_run_at": first_run(task, now), "error": None}
    return _update(connection, task, new, "resumed", actor)


def cancel(connection: Connection, namespace: str, task_id: int, *, actor: str) -> dict[str, Any] | None:
    """The task is cancelled and fires no more; None where there is none."""
    task = get(connection, namespace, task_id, lock=True)
    if task is None or task["state"] == "cancelled":
        return task
    return _update(connection, task, {"state": "cancelled", "next_run_at": None}, "cancelled", actor)


def run_now(connection: Connection, namespace: str, task_ids: Sequence[int], *, actor: str) -> list[dict[str, Any]]:
    """One more run of each of these tasks, due now; the same task may be named several times.

    The unique key (task_id, due_at) decides, so a run that is due this very microsecond moves the new one by one µs.
    Raises StateConflict for a cancelled or invalid task, KeyError for an unknown one; then nothing was added.
    """
    made: list[dict[str, Any]] = []
    now = connection.execute(sa.text("SELECT UTC_TIMESTAMP(6)")).scalar_one()
    taken: set[tuple[int, datetime]] = set()
    for task_id in sorted(task_ids):
        task = get(connection, namespace, task_id, lock=True)
        if task is None:
            raise KeyError(task_id)
        if task["state"] in ("cancelled", "invalid"):
            raise StateConflict(f"task {task_id} is {task['state']}")
        due = now
        while (task_id, due) in taken or rows(
            connection, "SELECT id FROM runs WHERE task_id = :t AND due_at = :d", t=task_id, d=due
        ):
            due += timedelta(microseconds=1)
        taken.add((task_id, due))
        run = {"task_id": task_id, "due_at": due, "schedule_version": task["schedule_version"], "queue": task["queue"]}
        run["id"] = inserted(
            connection,
            "INSERT INTO runs (task_id, due_at, schedule_version, queue, state, wake_at, origin)"
            " VALUES (:task_id, :due_at, :schedule_version, :queue, 'ready', :due_at, 'manual')",
            **run,
        )
        _event(connection, task, "run_now", actor, None)
        made.append(run)
    return made


def _bring_to(
    connection: Connection, task: dict[str, Any], values: dict[str, Any], now: datetime, actor: str
) -> dict[str, Any]:
    new = {name: value for name, value in values.items() if value != task[name]}
    if any(name in new for name in SCHEDULE) or task["state"] in ("cancelled", "invalid"):
        new["schedule_version"] = task["schedule_version"] + 1
        new["runs_claimed"] = 0
        new["next_run_at"] = _first_run(task | values, now)
    if task["state"] in ("cancelled", "invalid"):
        new |= {"state": "active", "error": None}
    return _update(connection, task, new, "edited", actor) if new else task


def _update(
    connection: Connection, task: dict[str, Any], new: dict[str, Any], action: str, actor: str
) -> dict[str, Any]:
    """The locked row `task` has the values `new`, its version is one higher, and the event is written."""
    row = task | new | {"version": task["version"] + 1}
    sets = ", ".join(f"{name} = :{name}" for name in (*new, "version"))
    changed(connection, f"UPDATE tasks SET {sets}, updated_at = UTC_TIMESTAMP(6) WHERE id = :id", **row)
    if "updated_at" in row:
        row["updated_at"] = connection.execute(sa.text("SELECT UTC_TIMESTAMP(6)")).scalar_one()
    _event(connection, row, action, actor, _words(row) if "schedule_version" in new else None)
    return row


def _words(row: dict[str, Any]) -> str:
    return ", ".join(f"{name}={row[name]}" for name in SCHEDULE if row[name] not in (None, DEFAULTS.get(name)))


def _event(connection: Connection, row: dict[str, Any], action: str, actor: str, detail: str | None) -> None:
    changed(
        connection,
        "INSERT INTO task_events (task_id, actor, action, version, schedule_version, detail)"
        " VALUES (:task_id, :actor, :action, :version, :schedule_version, :detail)",
        task_id=row["id"],
        actor=actor[:100],
        action=action,
        version=row["version"],
        schedule_version=row["schedule_version"],
        detail=detail and detail[:1000],
    )
