"""Backfill: runs for the occurrences of a span of the past that had none.

Done under the lock of the task's row, which everybody holds who makes runs of the task or brings skipped ones back; so
what is read here stays as it is. The runs are READY at once and are pushed one by one as their `wake_at` comes.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from clockjack.ledger.database import changed, chunks, rows
from clockjack.ledger.exact import update_locked
from clockjack.ledger.tasks import StateConflict, done_by_sql, event, get, schedule_of, serial
from clockjack.moments import text
from clockjack.schedules import Schedule, ScheduleError, next_after, occurrences

MOST, COUNTED = 1_000, 5_000  # counted under the lock: a session may be silent for 3 s
TICK = timedelta(microseconds=1)
ROWS = (
    "SELECT id, due_at, state, reason, attempt, skipped_until, first_started_at FROM runs"
    " WHERE task_id = :t AND due_at IN :moments"
)
REVIVE = (
    "state = 'ready', origin = 'backfill', attempt = attempt + 1, reason = NULL, finished_at = NULL, run_token = NULL,"
    " cancel_asked_at = NULL, skipped_until = NULL, wake_at = %s, claimed_at = %s, queue = %s, schedule_version = %s,"
    " task_version = %s, live_task_id = %s"
)


@dataclass(frozen=True, slots=True)
class Span:
    """Which occurrences (naive UTC, inclusive), and how many of their runs a second."""

    since: datetime
    until: datetime
    per_s: int = 10


@dataclass(frozen=True, slots=True)
class Filled:
    """Of one occurrence: whether it runs, from when on (`wake_at`), or why not."""

    due_at: datetime
    wake_at: datetime | None = None
    why: str | None = None


def backfill(
    connection: Connection, namespace: str, task_id: int, span: Span, *, actor: str, dry_run: bool = False
) -> tuple[dict[str, Any], list[Filled]] | None:
    """Each occurrence of the task's present schedule in the span has a run, if it had none that began; else why not.

    Returns the task's row and its occurrences; None where there is no such task. Doing it again adds nothing. In a dry
    run nothing is written.
    """
    task = get(connection, namespace, task_id, lock=not dry_run)
    if task is None:
        return None
    if task["state"] in ("cancelled", "invalid"):
        raise StateConflict(f"the task is {task['state']}: it cannot be backfilled")
    now = connection.execute(sa.text("SELECT UTC_TIMESTAMP(6)")).scalar_one()
    moments = _moments(schedule_of(task), span, now)
    there = {row["due_at"]: row for row in _rows(connection, task_id, moments)}
    filled: list[Filled] = []
    n = 0
    for moment in moments:
        why = _why_not(task, moment, there.get(moment))
        if why is None:
            filled.append(Filled(moment, now + timedelta(seconds=n / span.per_s)))
            n += 1
        else:
            filled.append(Filled(moment, None, why))
    if n and not dry_run:
        _fill(connection, task, [one for one in filled if one.wake_at], there, now)
        detail = f"from {text(span.since)} to {text(span.until)}, {n} runs, {span.per_s} a second"
        event(connection, task, "backfilled", actor, detail)
    return task, filled


def _moments(schedule: Schedule, span: Span, now: datetime) -> list[datetime]:
    if span.until < span.since:
        raise ScheduleError("to", "to must not be earlier than from")
    if span.until > now:
        raise ScheduleError("to", f"to lies in the future: it is {text(now)} by the database's clock")
    found = list(occurrences(schedule, span.since - TICK, until=span.until, count=COUNTED + 1))
    if len(found) > MOST:
        n = f"{len(found):,}" if len(found) <= COUNTED else f"more than {COUNTED:,}"
        raise ScheduleError("from", f"from and to hold {n} occurrences: at most {MOST:,} at once")
    return found


def _rows(connection: Connection, task_id: int, moments: Sequence[datetime]) -> Iterator[dict[str, Any]]:
    for part in chunks(moments):
        yield from rows(connection, ROWS, t=task_id, moments=list(part))


def _why_not(task: Mapping[str, Any], moment: datetime, run: Mapping[str, Any] | None) -> str | None:
    if task["next_run_at"] is not None and moment >= task["next_run_at"]:
        return "it is still to be claimed: the task's misfire says what becomes of it"
    if run is None or (run["state"] in ("skipped", "cancelled") and run["first_started_at"] is None):
        return None
    if run["state"] in ("ready", "running"):
        return f"its run is {run['state']}"
    return f"it ran: {run['state']}"


def _fill(
    connection: Connection,
    task: Mapping[str, Any],
    filled: Sequence[Filled],
    there: Mapping[datetime, Mapping[str, Any]],
    now: datetime,
) -> None:
    """These occurrences have READY runs; the ranges that began with one of them go on behind it."""
    tail = (now, task["queue"], task["schedule_version"], task["version"] + len(done_by_sql(task)), serial(task))
    revived = sorted((there[one.due_at]["id"], one) for one in filled if one.due_at in there)
    for run_id, one in revived:  # rows that are over and that the task's lock guards: nobody else changes them
        update_locked(connection, [(run_id, one.due_at)], REVIVE, one.wake_at, *tail)
    new = [(task["id"], one.due_at, one.wake_at, *tail) for one in filled if one.due_at not in there]
    for part in chunks(new):
        connection.exec_driver_sql(
            "INSERT INTO runs (task_id, due_at, wake_at, claimed_at, queue, schedule_version, task_version,"
            " live_task_id, state, origin) VALUES "
            + ", ".join(["(%s, %s, %s, %s, %s, %s, %s, %s, 'ready', 'backfill')"] * len(part)),
            tuple(value for row in part for value in row),
        )
    for _, one in revived:
        _go_on(connection, task, there[one.due_at], now)


def _go_on(connection: Connection, task: Mapping[str, Any], row: Mapping[str, Any], now: datetime) -> None:
    """What is left of the range of a row that runs now has a row of its own, from its first occurrence without one."""
    is_open = row["due_at"] == task["missed_since"] and row["reason"] == "paused" and row["skipped_until"] is None
    if not is_open and row["skipped_until"] is None:
        return
    rest = _first_without_row(connection, task, row["due_at"], row["skipped_until"] or now + TICK)
    if rest is not None:
        changed(
            connection,
            "INSERT INTO runs (task_id, due_at, schedule_version, task_version, queue, claimed_at, state, finished_at,"
            " reason, skipped_until) VALUES (:t, :due, :schedule_version, :version, :queue, :now, 'skipped', :now,"
            " :reason, :until)",
            t=task["id"],
            due=rest,
            schedule_version=task["schedule_version"],
            version=task["version"],
            queue=task["queue"],
            now=now,
            reason=row["reason"],
            until=row["skipped_until"],
        )
    if is_open:
        sets = "missed_since = :rest"
        if rest is None and task["state"] == "paused":  # what it misses from now on begins a range of its own
            sets += ", next_run_at = :next"
        following = next_after(schedule_of(task), now) if rest is None else None
        changed(connection, f"UPDATE tasks SET {sets} WHERE id = :t", t=task["id"], rest=rest, next=following)


def _first_without_row(
    connection: Connection, task: Mapping[str, Any], after: datetime, until: datetime
) -> datetime | None:
    """The first occurrence after `after` and before `until` that has no row."""
    schedule = schedule_of(task)
    while True:
        some = list(occurrences(schedule, after, until=until - TICK, count=500))
        have: Collection[datetime] = {row["due_at"] for row in _rows(connection, task["id"], some)}
        for moment in some:
            if moment not in have:
                return moment
        if len(some) < 500:
            return None
        after = some[-1]
