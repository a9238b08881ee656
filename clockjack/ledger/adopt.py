"""A due task whose occurrence already has a row: it was claimed, then paused, edited or resumed before it started."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.engine import Connection

from clockjack.ledger.advance import Claimed, Ready, first_look, insert, move_on, see
from clockjack.ledger.clock import Clock
from clockjack.ledger.database import changed, rows
from clockjack.ledger.decide import Skip, Step, decide, ran_before
from clockjack.ledger.tasks import schedule_of, serial, without_row
from clockjack.schedules import next_after

# what ended a run before it began, and is over when its task is due at that time again
REVIVED = ("paused", "edited", "cancelled", "invalid")


def adopt(
    connection: Connection,
    clock: Clock,
    found: Sequence[Mapping[str, Any]],
    ages: Mapping[str, float],
    *,
    staged: bool = True,
) -> Claimed:
    """A task whose occurrence already has a row moves on; a row that never started follows the task's new schedule.

    READY adopts the task's schedule_version; SKIPPED or CANCELLED by a change of the task (REVIVED) is READY again with
    the next attempt; anything else stays as it is.
    """
    if not found:
        return Claimed([], 0, 0, full=False)
    task = found[0]
    now = clock.observe(task["now"])
    step = decide(task, now)
    moments = [task["next_run_at"], *([step.skip.due_at] if step.skip else [])]
    there = rows(
        connection,
        "SELECT id, due_at, state, attempt, schedule_version, reason, skipped_until, first_started_at FROM runs"
        " FORCE INDEX (occurrence)"
        " WHERE task_id = :t AND due_at IN :moments FOR UPDATE",
        t=task["id"],
        moments=moments,
    )
    taken = {row["due_at"]: row for row in there}
    if step.skip and step.skip.due_at in taken:
        if step.skip.until is None:  # paused: its row says what becomes of it; the range begins with the next
            step.goes_to = next_after(schedule_of(task), step.skip.due_at)
            step.skip = step.missed_since = None
        else:
            due = without_row(connection, task, step.skip.due_at, step.skip.until)
            step.skip = None if due is None else Skip(due, step.skip.reason, step.skip.until)
    ready: list[Ready] = []
    run = taken.get(task["next_run_at"])
    if run is not None and step.ready:
        ready = _revive(connection, step, run, now, ages, staged)
        if step.counted:
            step.ready = False
        else:
            ran_before(step)
    ready += insert(connection, [step], now, ages, staged=staged)
    see(connection, [step])
    move_on(connection, [step])
    return Claimed(ready, int(step.invalid is not None), 1, full=step.misfired)


def _revive(
    connection: Connection, step: Step, run: Mapping[str, Any], now: datetime, ages: Mapping[str, float], staged: bool
) -> list[Ready]:
    task = step.task
    key = {"id": run["id"], "due": run["due_at"], "version": task["schedule_version"], "live": serial(task)}
    if run["first_started_at"] is not None:
        return []
    if run["state"] == "ready":
        step.counted = run["schedule_version"] != task["schedule_version"]  # an edit has set the count to 0
        sets = "schedule_version = :version, live_task_id = :live"
        changed(connection, f"UPDATE runs SET {sets} WHERE id = :id AND due_at = :due", **key)
        return []
    if run["state"] not in ("skipped", "cancelled") or run["reason"] not in REVIVED:
        return []
    step.counted = True
    wake_at = first_look(run["due_at"], now, ages.get(task["queue"]), staged)
    changed(
        connection,
        "UPDATE runs SET state = 'ready', attempt = attempt + 1, reason = NULL, finished_at = NULL, wake_at = :wake,"
        " schedule_version = :version, live_task_id = :live, queue = :queue, skipped_until = NULL, claimed_at = :now"
        " WHERE id = :id AND due_at = :due",
        **key,
        wake=wake_at,
        queue=task["queue"],
        now=now,
    )
    return [Ready(run["id"], run["due_at"], run["attempt"] + 2, task["queue"], serial(task))]
