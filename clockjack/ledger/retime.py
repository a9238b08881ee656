"""Stored next occurrences, brought to the rules of the zones as they are now: for after an upgrade of tzdata.

A stored time that is no occurrence under the new rules is not fired when it comes, only moved on. An occurrence that
these rules have earlier would then be lost; so both directions are brought up to date before they matter. What is due
within 10 s is left alone: it is being claimed. So is what plain SQL has changed and no dispatcher has seen yet: there
the stored time only says from when on to look.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from clockjack import moments, zones
from clockjack.ledger import acceptance
from clockjack.ledger.acceptance import Change
from clockjack.ledger.database import Database, chunks, rows
from clockjack.ledger.tasks import COLUMNS, done_by_sql, schedule_of
from clockjack.schedules import ScheduleError, first, next_after

PAGE, BATCH = 1000, 500
SOON = timedelta(seconds=10)

_COLUMNS = ", ".join(name for name in COLUMNS.split(", ") if name != "payload")
END = (
    "SELECT MAX(id) AS last, UTC_TIMESTAMP(6) AS now FROM (SELECT id FROM tasks FORCE INDEX (PRIMARY) WHERE id > :after"
    " ORDER BY id LIMIT :n) AS page"
)
CANDIDATES = (  # with exclude the zone's calendar counts for the other kinds, too
    f"SELECT {_COLUMNS} FROM tasks FORCE INDEX (PRIMARY) WHERE id > :after AND id <= :last"
    " AND timezone <> 'UTC' AND state IN ('active', 'paused') AND next_run_at > :now"
    " AND (cron IS NOT NULL OR rrule IS NOT NULL OR run_at_local IS NOT NULL OR exclude IS NOT NULL) ORDER BY id"
)
LOCKED = f"SELECT {_COLUMNS} FROM tasks FORCE INDEX (PRIMARY) WHERE id IN :ids ORDER BY id FOR UPDATE"
SEEN = "SELECT id FROM task_events WHERE task_id = :i AND version = :v AND action = 'retimed'"


@dataclass(frozen=True, slots=True)
class Retimed:
    """A task whose next occurrence is another one now; `new` is None when there is none, or when `error` says why."""

    task: Mapping[str, Any]
    new: datetime | None
    error: str | None = None


def changes(database: Database) -> Iterator[list[Retimed]]:
    """The tasks whose next occurrence is not the stored one, a page at a time, by ascending id. Nothing is changed."""
    after = 0
    while True:

        def page(connection: Connection, after: int = after) -> tuple[Any, list[dict[str, Any]]]:
            end = rows(connection, END, after=after, n=PAGE)[0]
            found = [] if end["last"] is None else rows(connection, CANDIDATES, after=after, **end)
            return end, found

        end, found = acceptance.read(database, page)
        if end["last"] is None:
            return
        yield [change for task in found if (change := judge(task, end["now"]))]
        after = end["last"]


def judge(task: Mapping[str, Any], now: datetime) -> Retimed | None:
    """Where the task goes under the rules as they are; None when it stays, or is not to be judged. Pure."""
    if not _movable(task, now):
        return None
    try:
        schedule = schedule_of(task)
        new = first(schedule) if schedule.once else next_after(schedule, now + SOON)
    except ScheduleError as error:
        return Retimed(task, None, f"{error.field}: {error}")
    return None if new == task["next_run_at"] else Retimed(task, new)


def apply(database: Database, found: Sequence[Retimed], *, actor: str) -> list[Retimed]:
    """The tasks have moved, each that is still as it was found or is to be moved all the same; returns those."""
    moved: list[Retimed] = []
    for part in chunks(sorted((c for c in found if c.error is None), key=lambda c: int(c.task["id"])), BATCH):
        made: list[Retimed] = []

        def work(connection: Connection, part: Sequence[Retimed] = part, made: list[Retimed] = made) -> Change:
            made[:] = _move(connection, part, actor)

            def seen(again: Connection) -> bool:
                return not made or bool(rows(again, SEEN, i=made[-1].task["id"], v=made[-1].task["version"] + 1))

            return Change(200, "", seen)

        acceptance.once(database, work)
        moved += made
    return moved


def _move(connection: Connection, part: Sequence[Retimed], actor: str) -> list[Retimed]:
    known = {change.task["id"]: change for change in part}
    locked = rows(connection, LOCKED, ids=[*known])
    now = connection.execute(sa.text("SELECT UTC_TIMESTAMP(6)")).scalar_one()
    made = []
    for task in locked:
        change: Retimed | None = known[task["id"]]
        # an answer that still holds is not reckoned again: nobody waits for that while the rows are locked
        holds = change and change.task == task and _movable(task, now) and (_once(task) or _later(change.new, now))
        change = change if holds else judge(task, now)
        if change and change.error is None:
            made.append(change)
    if not made:
        return []
    ids = [change.task["id"] for change in made]
    connection.exec_driver_sql(
        "UPDATE tasks FORCE INDEX (PRIMARY) SET version = version + 1, updated_at = UTC_TIMESTAMP(6),"
        " next_run_at = CASE id"
        + " WHEN %s THEN CAST(%s AS DATETIME(6))" * len(made)
        + f" END WHERE id IN ({', '.join(['%s'] * len(made))})",
        (*(value for change in made for value in (change.task["id"], change.new)), *ids),
    )
    connection.exec_driver_sql(
        "INSERT INTO task_events (task_id, actor, action, version, schedule_version, detail) VALUES "
        + ", ".join(["(%s, %s, 'retimed', %s, %s, %s)"] * len(made)),
        tuple(value for change in made for value in _event(change, actor)),
    )
    return made


def _event(change: Retimed, actor: str) -> tuple[Any, ...]:
    task = change.task
    went = f"{moments.text(task['next_run_at'])} -> {moments.text(change.new) if change.new else 'never'}"
    return task["id"], actor, task["version"] + 1, task["schedule_version"], f"{went}, tzdata {zones.version()}"


def _movable(task: Mapping[str, Any], now: datetime) -> bool:
    stored = task["next_run_at"]
    usable = task["state"] in ("active", "paused") and stored is not None and _later(stored, now)
    return usable and not done_by_sql(task)


def _later(moment: datetime | None, now: datetime) -> bool:
    return moment is None or moment > now + SOON


def _once(task: Mapping[str, Any]) -> bool:
    return task["run_at"] is not None or task["run_at_local"] is not None
