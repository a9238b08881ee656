"""To cancel a run: one that waits is over at once; one that runs is asked to stop, and hears it by its heartbeat.

A handler cannot be ended from outside without leaving its work half done, so it decides when to stop. If it ends well
all the same, it has succeeded; however else it ends, the run is CANCELLED, and no attempt follows. The reason is not
that of a run whose task was cancelled: nothing brings it back but a retry or a backfill by hand.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.engine import Connection

from clockjack.ledger import tasks
from clockjack.ledger.database import rows
from clockjack.ledger.exact import update_locked
from clockjack.ledger.reports import get_run
from clockjack.ledger.runs import Held, fence
from clockjack.ledger.tasks import StateConflict

CANCELLED = (
    "state = 'cancelled', reason = 'run_cancelled', wake_at = NULL, live_task_id = NULL, finished_at = UTC_TIMESTAMP(6)"
)
RUN = "runs FORCE INDEX (PRIMARY)"
ASKED = (
    f"SELECT id, attempt FROM {RUN} WHERE {{fence}} AND state = 'running' AND (cancel_asked_at IS NOT NULL"
    " OR NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.id = runs.task_id AND tasks.state <> 'cancelled'))"
)


def cancel_run(connection: Connection, namespace: str, run_id: int, *, actor: str) -> dict[str, Any] | None:
    """The run as it is now, or None where this namespace has no such run; StateConflict when it is over.

    READY → CANCELLED. RUNNING: its `cancel_asked_at` is set; its handler hears it within 2 s, if it asks. One that is
    cancelled or was asked before stays as it is.
    """
    run = get_run(connection, namespace, run_id)
    task = run and tasks.get(connection, namespace, run["task_id"])
    if not run or not task:
        return None
    sql = f"SELECT state, cancel_asked_at FROM {RUN} WHERE id = :id AND due_at = :due FOR UPDATE"
    there = rows(connection, sql, id=run_id, due=run["due_at"])
    if not there:
        return None
    state = there[0]["state"]
    if state not in ("ready", "running", "cancelled"):
        raise StateConflict(f"the run is {state}: only a run that is ready or running can be cancelled")
    if state == "ready" or (state == "running" and there[0]["cancel_asked_at"] is None):
        sets = CANCELLED if state == "ready" else "cancel_asked_at = UTC_TIMESTAMP(6)"
        update_locked(connection, [(run_id, run["due_at"])], sets)
        tasks.event(connection, task, "run_cancelled", actor, f"run {run_id}")
    return get_run(connection, namespace, run_id)


def asked(connection: Connection, held: Sequence[Held]) -> set[tuple[int, int]]:
    """The (run_id, attempt) of `held` that are to stop: somebody cancelled the run, or its task, or deleted that."""
    return {(row[0], row[1]) for row in connection.exec_driver_sql(ASKED.format(fence=fence(held)))}
