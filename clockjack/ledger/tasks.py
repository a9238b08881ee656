"""Tasks: registration and edits. Every change is one row in `task_events`, in the same transaction.

Pause, cancel and edit write the task row only; the verdict at the start of a run does the rest (runs.start), so that
the same happens for an UPDATE made with plain SQL.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from clockjack.ledger.database import changed, inserted, rows
from clockjack.schedules import Schedule, ScheduleError, first, next_after, validate, wants_seed
from clockjack.wallclock import TICK

DEFAULTS = {"timezone": "UTC", "jitter_s": 0, "dst_gap": "run_after", "dst_fold": "first", "tags": ""}
DEFAULTS |= {"misfire": "once", "max_misfires": 100, "overlap": "allow"}
_KINDS = ("run_at", "run_at_local", "cron", "every_s", "rrule")
SCHEDULE = (*_KINDS, "start_at", "end_at", "max_runs", "exclude", "timezone", "jitter_s", "dst_gap", "dst_fold")
POLICIES = ("misfire", "max_misfires", "max_lateness_s", "overlap", "pause_after_failures")
WORK = ("name", "tags", "handler", "queue", "payload", "timeout_s", "max_failures", "backoff_s", "backoff_max_s")
LIMITS = ("limit_key", "max_concurrent", "per_second")
STANDING = ("runs_claimed", "state", "next_run_at", "missed_since", "schedule_version", "version", "error")
SEEN = ("seen_state", "seen_schedule_version")  # what a writer of ours saw last: any other change came by plain SQL
IDENTITY = ("id", "namespace", "task_key", "group_key", "offset_s")
COLUMNS = ", ".join((*IDENTITY, *WORK, *LIMITS, *SCHEDULE, *POLICIES, *STANDING, *SEEN, "created_at", "updated_at"))
EDITABLE = (*SCHEDULE, *POLICIES, *WORK, *LIMITS)
Meant = Callable[[int | None], bool] | None  # of which version of the task a registration is meant; None: of any


class StateConflict(Exception):
    """The task is not in a state in which this can be done."""


class VersionConflict(Exception):
    """The task is not of a version that the change was meant for."""


@dataclass(frozen=True, slots=True)
class Registered:
    """What a registration did: the task's row, whether it is new, and whether anything was written."""

    task: dict[str, Any]
    created: bool
    changed: bool = True


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


def register(
    connection: Connection, namespace: str, fields: dict[str, Any], *, actor: str, meant: Meant = None
) -> Registered:
    """The task is in the ledger: a new one, or the one of the same `task_key` brought to `fields` (validated values).

    An unchanged schedule keeps its next_run_at; a changed one counts from now. A cancelled or invalid task of that key
    becomes active again; a paused one stays paused. A duplicate key raises IntegrityError (1062): call again after the
    rollback. ScheduleError if with the slots of its id it never fires. VersionConflict if it is not `meant` for that.
    """
    key = fields.get("task_key")
    task = None if key is None else of_key(connection, namespace, key, lock=True)
    if meant is not None and not meant(task["version"] if task else None):
        is_at = f"the task is at version {task['version']}" if task else "there is no task of this task_key"
        raise VersionConflict(f"{is_at}: read it and decide anew")
    return renew(connection, task, fields, actor=actor) if task else add(connection, namespace, fields, actor=actor)


def renew(connection: Connection, task: dict[str, Any], fields: dict[str, Any], *, actor: str) -> Registered:
    """The locked row `task` is brought to `fields` by another registration of its key."""
    row = edit(connection, task, filled(fields), actor=actor)
    return Registered(row, created=False, changed=row["version"] != task["version"])


def add(connection: Connection, namespace: str, fields: dict[str, Any], *, actor: str) -> Registered:
    """The task is in the ledger, as a new one; IntegrityError (1062) where there is one of its `task_key`."""
    now = connection.execute(sa.text("SELECT UTC_TIMESTAMP(6)")).scalar_one()
    row = filled(fields) | {name: fields.get(name) for name in ("task_key", "group_key", "offset_s")}
    row |= {"namespace": namespace, "created_at": now, "updated_at": now, "seen_state": "active"}
    seeded = wants_seed(schedule_of(row))
    row["next_run_at"] = None if seeded else _first_run(row, now)  # the slots are those of the id
    row["version"] = row["seen_schedule_version"] = 1
    names = list(row)
    row["id"] = inserted(
        connection, f"INSERT INTO tasks ({', '.join(names)}) VALUES ({', '.join(':' + n for n in names)})", **row
    )
    if seeded:
        row["next_run_at"] = _first_run(row, now)
        changed(
            connection, "UPDATE tasks SET next_run_at = :next WHERE id = :id", next=row["next_run_at"], id=row["id"]
        )
    event(connection, row | {"schedule_version": 1}, "registered", actor, words(row))
    standing = {"state": "active", "schedule_version": 1, "runs_claimed": 0, "missed_since": None, "error": None}
    return Registered(row | standing, created=True)


def filled(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What can be edited of a task, with the defaults of what `fields` does not say."""
    return {name: fields.get(name, DEFAULTS.get(name)) for name in EDITABLE}


def serial(task: Mapping[str, Any]) -> int | None:
    """What `live_task_id` of a live run of this task is: its id if its runs must not overlap, else None."""
    return None if task["overlap"] == "allow" else int(task["id"])


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
    return _one(connection, "id = :i AND namespace = :n", lock, i=task_id, n=namespace)


def of_key(connection: Connection, namespace: str, task_key: str, *, lock: bool = False) -> dict[str, Any] | None:
    """The row of the task of this `task_key`, or None."""
    return _one(connection, "namespace = :n AND task_key = :k", lock, n=namespace, k=task_key)


def _one(connection: Connection, where: str, lock: bool, **values: Any) -> dict[str, Any] | None:
    found = rows(connection, f"SELECT {COLUMNS} FROM tasks WHERE {where}" + (" FOR UPDATE" if lock else ""), **values)
    return found[0] if found else None


def edit(
    connection: Connection, task: dict[str, Any], values: dict[str, Any], *, actor: str, action: str = "edited"
) -> dict[str, Any]:
    """The locked row `task` has these values; returns it. Nothing is written when it had them.

    An unchanged schedule keeps its next_run_at; a changed one counts from now, and max_runs anew. A cancelled or
    invalid task becomes active again; a paused one stays paused.
    """
    now = connection.execute(sa.text("SELECT UTC_TIMESTAMP(6)")).scalar_one()
    new = {name: value for name, value in values.items() if value != task[name]}
    over = task["state"] in ("cancelled", "invalid")
    if over or any(name in new for name in SCHEDULE):
        new["schedule_version"] = task["schedule_version"] + 1
        new["runs_claimed"] = 0
        new["next_run_at"] = _first_run(task | values, now)
        if task["missed_since"] is None:
            leave(connection, task, now, "edited", now)
        else:
            close_pause(connection, task["id"], task["missed_since"], now)
            new["missed_since"] = None
    if over:
        new |= {"state": "active", "error": None}
    return update(connection, task, new, action, actor) if new else task


# claimed ahead while its task was paused: a resume makes it due again, and nobody has seen it since
EARLY = "state = 'skipped' AND reason = 'paused' AND first_started_at IS NULL"


def leave(connection: Connection, task: Mapping[str, Any], until: datetime | None, reason: str, now: datetime) -> None:
    """What was due and no dispatcher has seen yet has a row, now that the locked task moves on to `until` (None: for
    good); `reason` says why it never will run.
    """
    due = _due_first(task, now)
    due = due and without_row(connection, task, due, until or now, but=f"NOT ({EARLY})")
    if due is None:
        return
    state, why = ("skipped", "paused") if task["state"] == "paused" else ("cancelled", reason)
    values = {"due": due, "now": now, "until": until or now, "state": state, "why": why}
    values |= {name: task[name] for name in ("id", "schedule_version", "version", "queue")}
    # looked for without a lock: in a transaction of a guest's one on a row that is not there would keep its gap
    early = f"SELECT id FROM runs FORCE INDEX (occurrence) WHERE task_id = :id AND due_at = :due AND {EARLY}"
    for run in rows(connection, early, **values):
        sets = "state = :state, reason = :why, skipped_until = :until, finished_at = :now"
        where = f"id = :run AND due_at = :due AND {EARLY}"
        if changed(connection, f"UPDATE runs FORCE INDEX (PRIMARY) SET {sets} WHERE {where}", **values, run=run["id"]):
            return
    changed(
        connection,
        "INSERT INTO runs (task_id, due_at, schedule_version, task_version, queue, claimed_at, state, finished_at,"
        " reason, skipped_until)"
        " VALUES (:id, :due, :schedule_version, :version, :queue, :now, :state, :now, :why, :until)",
        **values,
    )


def without_row(
    connection: Connection, task: Mapping[str, Any], due: datetime, until: datetime, *, but: str = "TRUE"
) -> datetime | None:
    """The first occurrence from `due` up to before `until` that has no row for which `but` holds."""
    there = (
        "SELECT due_at FROM runs FORCE INDEX (occurrence) WHERE task_id = :t AND due_at >= :low AND due_at < :until"
        f" AND {but} ORDER BY due_at LIMIT 1000"
    )
    schedule, following, full = schedule_of(task), due, True
    while full:  # page by page, as long as all of one is taken
        page = [row["due_at"] for row in rows(connection, there, t=task["id"], low=following, until=until)]
        taken = set(page)
        while following in taken:
            after = next_after(schedule, following)
            if after is None:
                return None
            following = after
        full = len(page) == 1000 and following > page[-1]
    return following if following < until else None


def _due_first(task: Mapping[str, Any], now: datetime) -> datetime | None:
    """The first occurrence that is due at `now` and was not claimed; None in nearly every case."""
    stored = task["next_run_at"]
    used_up = task["max_runs"] is not None and task["runs_claimed"] >= task["max_runs"]
    if stored is None or stored > now or used_up:
        return None
    try:
        schedule = schedule_of(task)
        validate(schedule)
        due = first(schedule) if schedule.once else next_after(schedule, stored - TICK)
    except ScheduleError:  # it came by plain SQL
        return None
    return due if due is not None and due <= now else None


def close_pause(connection: Connection, task_id: int, missed_since: datetime, until: datetime | None) -> None:
    """The row that stands for what a pause missed ends before `until` (None: now)."""
    changed(
        connection,
        "UPDATE runs FORCE INDEX (occurrence) SET skipped_until = COALESCE(:until, UTC_TIMESTAMP(6))"
        " WHERE task_id = :t AND due_at = :d"
        " AND state = 'skipped' AND reason = 'paused' AND skipped_until IS NULL",
        t=task_id,
        d=missed_since,
        until=until,
    )


def update(
    connection: Connection, task: dict[str, Any], new: dict[str, Any], action: str, actor: str
) -> dict[str, Any]:
    """The locked row `task` has the values `new`, its version is one higher, and the event is written."""
    for unseen in done_by_sql(task):
        task = task | {"version": task["version"] + 1}
        event(connection, task, unseen, "sql", None)
    row = task | new | {"version": task["version"] + 1}
    sets = ", ".join(f"{name} = :{name}" for name in (*new, "version"))
    changed(
        connection,
        f"UPDATE tasks SET {sets}, updated_at = UTC_TIMESTAMP(6), seen_state = state,"
        " seen_schedule_version = schedule_version WHERE id = :id",
        **row,
    )
    row["updated_at"] = rows(connection, "SELECT updated_at FROM tasks WHERE id = :i", i=row["id"])[0]["updated_at"]
    row |= {"seen_state": row["state"], "seen_schedule_version": row["schedule_version"]}
    event(connection, row, action, actor, words(row) if "schedule_version" in new else None)
    return row


def done_by_sql(task: Mapping[str, Any]) -> list[str]:
    """What plain SQL did to the task since it was last seen."""
    if task["version"] == 0:
        return ["registered"]
    actions = ["edited"] if task["seen_schedule_version"] != task["schedule_version"] else []
    if task["seen_state"] != task["state"]:
        actions.append({"active": "resumed"}.get(task["state"], task["state"]))
    return actions


def words(row: dict[str, Any]) -> str:
    """The schedule in the words of its columns, as an event keeps it."""
    return ", ".join(f"{name}={row[name]}" for name in SCHEDULE if row[name] not in (None, DEFAULTS.get(name)))


def event(connection: Connection, row: dict[str, Any], action: str, actor: str, detail: str | None) -> None:
    """The change is in the audit trail, with the version that it made."""
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


def last_event(connection: Connection, task_id: int) -> int:
    """The id of the latest event of a locked task, 0 where it has none: whether it is there later tells of a COMMIT."""
    found = rows(connection, "SELECT MAX(id) AS id FROM task_events WHERE task_id = :t", t=task_id)
    return int(found[0]["id"] or 0)


def has_event(connection: Connection, event_id: int) -> bool:
    """Whether there is such an event."""
    return bool(rows(connection, "SELECT id FROM task_events WHERE id = :i", i=event_id))
