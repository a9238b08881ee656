"""What the end of a run means for its task: a run that waits for it has its turn, a task that keeps failing is paused.

Done after the outcome is committed, in transactions of their own, and only for tasks that ask for it. If the process
dies in between, or somebody keeps the task's row locked, the waiting run looks for itself within 5 s, and the next
failure is counted with this one.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy.engine import Connection

from clockjack.ledger.database import Database, rows
from clockjack.ledger.exact import lock_soon, update_locked
from clockjack.ledger.tasks import COLUMNS, update

WAITING = (
    "SELECT id, due_at, live_task_id, origin FROM runs FORCE INDEX (live) WHERE live_task_id IN :ids"
    " AND state = 'ready' AND attempt > 0 AND run_token IS NOT NULL"  # a backfill's that waits for its turn has none
    " AND first_started_at IS NULL AND due_at <= UTC_TIMESTAMP(6) AND wake_at > UTC_TIMESTAMP(6)"
    " FOR UPDATE SKIP LOCKED"
)
LAST_ENDS = (
    "SELECT state, finished_at > COALESCE((SELECT MAX(at) FROM task_events WHERE task_id = :t"
    " AND action IN ('resumed', 'edited')), '2000-01-01') AS counts FROM runs FORCE INDEX (occurrence)"
    " WHERE task_id = :t AND state IN ('succeeded', 'failed') ORDER BY due_at DESC LIMIT :n"
)


def asks(row: Mapping[str, Any]) -> bool:
    """Whether the end of a run of this task means anything beyond itself."""
    return row["overlap"] != "allow" or row["pause_after_failures"] is not None


def settle(database: Database, ended: Iterable[tuple[Mapping[str, Any], bool]]) -> int:
    """What follows from these runs having ended (each with whether it failed for good) is written.

    `ended` rows need task_id, overlap and pause_after_failures. Returns how many runs are to be looked at now.
    """
    waited_for = {row["task_id"] for row, _ in ended if row["overlap"] not in (None, "allow")}
    failing = {row["task_id"] for row, failed in ended if failed and row["pause_after_failures"] is not None}
    woken = 0
    if waited_for:
        woken = database.transaction(lambda c: _wake(c, sorted(waited_for)))
    for task_id in sorted(failing):
        database.transaction(lambda c, t=task_id: _pause(c, t))  # type: ignore[misc]
    return woken


def _wake(connection: Connection, task_ids: list[int]) -> int:
    found = rows(connection, WAITING, ids=task_ids)
    found.sort(key=lambda run: (run["origin"] == "backfill", run["due_at"]), reverse=True)
    # one of each task: any more would only wait again
    next_ = {run["live_task_id"]: (run["id"], run["due_at"]) for run in found}
    return update_locked(connection, [*next_.values()], "wake_at = UTC_TIMESTAMP(6)") if next_ else 0


def _pause(connection: Connection, task_id: int) -> None:
    """The task is paused if its last runs, as many as it says, have all failed since it was resumed or edited."""
    found = lock_soon(connection, f"SELECT {COLUMNS} FROM tasks WHERE id IN :ids FOR UPDATE SKIP LOCKED", [task_id])
    if not found or found[0]["state"] != "active" or not (n := found[0]["pause_after_failures"]):
        return
    last = rows(connection, LAST_ENDS, t=task_id, n=n)  # no more than these are read, however long its history is
    if len(last) == n and all(row["state"] == "failed" and row["counts"] for row in last):
        why = f"paused by itself: {n} failures in a row" if n > 1 else "paused by itself after a failure"
        update(connection, found[0], {"state": "paused", "error": why}, "paused", "clockjack")
