"""Control: pause, resume, cancel, run now. Each writes the task row and its event.

The verdict at the start of a run does the rest (runs.start), so that the same happens for an UPDATE with plain SQL.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from clockjack.ledger.database import inserted, rows
from clockjack.ledger.tasks import StateConflict, end_pause, event, first_run, get, serial, update


def pause(connection: Connection, namespace: str, task_id: int, *, actor: str) -> dict[str, Any] | None:
    """The task is paused (again); None where there is none. StateConflict when it was cancelled."""
    task = get(connection, namespace, task_id, lock=True)
    if task is None or task["state"] == "paused":
        return task
    if task["state"] == "cancelled":
        raise StateConflict("the task is cancelled: register it again instead")
    return update(connection, task, {"state": "paused"}, "paused", actor)


def resume(
    connection: Connection, namespace: str, task_id: int, *, actor: str, catch_up: bool = False
) -> dict[str, Any] | None:
    """The task is active and due at its next occurrence; a one-time task that never ran is due at its time.

    What the pause missed stays skipped; with `catch_up` it is due again, and `misfire` says which of it runs.
    """
    task = get(connection, namespace, task_id, lock=True)
    if task is None or task["state"] == "active":
        return task
    if task["state"] == "cancelled":
        raise StateConflict("the task is cancelled: register it again instead")
    now = connection.execute(sa.text("SELECT UTC_TIMESTAMP(6)")).scalar_one()
    new: dict[str, Any] = {"state": "active", "error": None}
    since = task["missed_since"] or task["next_run_at"]
    if catch_up and since is not None and since <= now:
        new["next_run_at"] = since
    else:
        new["next_run_at"] = first_run(task, now)
        if new["next_run_at"] != task["missed_since"]:
            new |= end_pause(connection, task, new["next_run_at"])
    return update(connection, task, new, "resumed", actor)


def cancel(connection: Connection, namespace: str, task_id: int, *, actor: str) -> dict[str, Any] | None:
    """The task is cancelled and fires no more; None where there is none."""
    task = get(connection, namespace, task_id, lock=True)
    if task is None or task["state"] == "cancelled":
        return task
    new = {"state": "cancelled", "next_run_at": None} | end_pause(connection, task, None, "cancelled")
    return update(connection, task, new, "cancelled", actor)


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
            "INSERT INTO runs (task_id, due_at, live_task_id, schedule_version, task_version, queue, state, wake_at,"
            " origin, claimed_at)"
            " VALUES (:task_id, :due_at, :live, :schedule_version, :version, :queue, 'ready', :due_at, 'manual', :now)",
            live=serial(task),
            version=task["version"],
            now=now,
            **run,
        )
        event(connection, task, "run_now", actor, None)
        made.append(run)
    return made
