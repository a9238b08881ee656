"""Control: pause, resume, cancel, edit, run now. Each writes the task row and its event.

The verdict at the start of a run does the rest (runs.start), so that the same happens for an UPDATE with plain SQL.
What a change writes is decided by a pure function of the task's row, so that `bulk` writes the same for many.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from clockjack.ledger import tasks
from clockjack.ledger.database import inserted, rows
from clockjack.ledger.tasks import (
    StateConflict,
    VersionConflict,
    close_pause,
    event,
    first_run,
    get,
    leave,
    serial,
    update,
)

Row = Mapping[str, Any]
Versions = Collection[int] | None  # which versions of the task a change is meant for; None: any
EVENTS = {"pause": "paused", "resume": "resumed", "cancel": "cancelled"}


def to_pause(task: Row) -> dict[str, Any]:
    """What pausing this task writes; {}: it is paused. StateConflict when it is cancelled. Pure."""
    if task["state"] == "cancelled":
        raise StateConflict("the task is cancelled: register it again instead")
    return {} if task["state"] == "paused" else {"state": "paused"}


def to_resume(task: Row, now: datetime, *, catch_up: bool = False) -> dict[str, Any]:
    """What resuming this task writes; {}: it is active. Its pause ends before next_run_at if missed_since is there."""
    if task["state"] == "cancelled":
        raise StateConflict("the task is cancelled: register it again instead")
    if task["state"] == "active":
        return {}
    new: dict[str, Any] = {"state": "active", "error": None}
    since = task["missed_since"] or task["next_run_at"]
    if catch_up and since is not None and since <= now:
        return new | {"next_run_at": since}
    new["next_run_at"] = first_run(dict(task), now)
    if task["missed_since"] not in (None, new["next_run_at"]):
        new["missed_since"] = None
    return new


def to_cancel(task: Row) -> dict[str, Any]:
    """What cancelling this task writes; {}: it is cancelled. Pure."""
    if task["state"] == "cancelled":
        return {}
    new = {"state": "cancelled", "next_run_at": None}
    return new if task["missed_since"] is None else new | {"missed_since": None}


def end_range(connection: Connection, task: Row, new: Row, now: datetime) -> None:
    """What the locked task leaves behind has a row that ends before its next run, if these values move it on.

    That is what its pause missed, or else what was due and no dispatcher has seen yet.
    """
    if "missed_since" in new:
        close_pause(connection, task["id"], task["missed_since"], new["next_run_at"])
    elif "next_run_at" in new and task["missed_since"] is None:
        leave(connection, task, new["next_run_at"], "cancelled" if new["state"] == "cancelled" else "paused", now)


def pause(
    connection: Connection, namespace: str, task_id: int, *, actor: str, versions: Versions = None
) -> dict[str, Any] | None:
    """The task is paused (again); None where there is none. StateConflict when it was cancelled."""
    task = _locked(connection, namespace, task_id, versions)
    return task and _apply(connection, task, to_pause(task), "paused", actor)


def resume(
    connection: Connection,
    namespace: str,
    task_id: int,
    *,
    actor: str,
    catch_up: bool = False,
    versions: Versions = None,
) -> dict[str, Any] | None:
    """The task is active and due at its next occurrence; a one-time task that never ran is due at its time.

    What the pause missed stays skipped; with `catch_up` it is due again, and `misfire` says which of it runs.
    """
    task = _locked(connection, namespace, task_id, versions)
    if task is None:
        return None
    return _apply(connection, task, to_resume(task, _now(connection), catch_up=catch_up), "resumed", actor)


def cancel(
    connection: Connection, namespace: str, task_id: int, *, actor: str, versions: Versions = None
) -> dict[str, Any] | None:
    """The task is cancelled and fires no more; None where there is none."""
    task = _locked(connection, namespace, task_id, versions)
    return task and _apply(connection, task, to_cancel(task), "cancelled", actor)


def edit(
    connection: Connection,
    namespace: str,
    task_id: int,
    values: Callable[[dict[str, Any], datetime], dict[str, Any]],
    *,
    actor: str,
    versions: Versions = None,
) -> dict[str, Any] | None:
    """The task has the column values that `values` makes of its row and the time; None where there is none.

    `values` judges them. StateConflict when the task is cancelled. A paused task stays paused.
    """
    task = _locked(connection, namespace, task_id, versions)
    if task is None:
        return None
    if task["state"] == "cancelled":
        raise StateConflict("the task is cancelled: register it again instead")
    return tasks.edit(connection, task, values(task, _now(connection)), actor=actor)


def _locked(connection: Connection, namespace: str, task_id: int, versions: Versions) -> dict[str, Any] | None:
    task = get(connection, namespace, task_id, lock=True)
    if task is not None and versions is not None and task["version"] not in versions:
        raise VersionConflict(f"the task is at version {task['version']}: read it and decide anew")
    return task


def _apply(
    connection: Connection, task: dict[str, Any], new: dict[str, Any], action: str, actor: str
) -> dict[str, Any]:
    if not new:
        return task
    end_range(connection, task, new, _now(connection))
    return update(connection, task, new, action, actor)


def _now(connection: Connection) -> datetime:
    return connection.execute(sa.text("SELECT UTC_TIMESTAMP(6)")).scalar_one()  # type: ignore[no-any-return]


def run_now(connection: Connection, namespace: str, task_ids: Sequence[int], *, actor: str) -> list[dict[str, Any]]:
    """One more run of each of these tasks, due now; the same task may be named several times.

    The unique key (task_id, due_at) decides, so a run that is due this very microsecond moves the new one by one µs.
    Raises StateConflict for a cancelled or invalid task, KeyError for an unknown one; then nothing was added.
    """
    made: list[dict[str, Any]] = []
    now = _now(connection)
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
