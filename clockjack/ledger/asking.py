"""To cancel a run: one that waits is over at once; one that runs is asked to stop, and hears it by its heartbeat.

A handler cannot be ended from outside without leaving its work half done, so it decides when to stop. If it ends well
all the same, it has succeeded; however else it ends, the run is CANCELLED, and no attempt follows.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.engine import Connection

from clockjack.ledger import tasks
from clockjack.ledger.database import changed, rows
from clockjack.ledger.reports import get_run
from clockjack.ledger.runs import Held, fence

CANCELLED = (
    "state = 'cancelled', reason = 'cancelled', wake_at = NULL, live_task_id = NULL, finished_at = UTC_TIMESTAMP(6)"
)
RUN = "runs FORCE INDEX (PRIMARY)"
ASKED = (
    f"SELECT id, attempt FROM {RUN} WHERE {{fence}} AND state = 'running' AND (cancel_asked_at IS NOT NULL"
    " OR NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.id = runs.task_id AND tasks.state <> 'cancelled'))"
)


def cancel_run(connection: Connection, namespace: str, run_id: int, *, actor: str) -> dict[str, Any] | None:
    """The run as it is now, or None where this namespace has no such run. One that is over stays as it is.

    READY → CANCELLED. RUNNING: its `cancel_asked_at` is set; its handler hears it within 2 s, if it asks.
    """
    run = get_run(connection, namespace, run_id)
    if run is None:
        return None
    key = {"id": run_id, "due": run["due_at"]}
    where = "id = :id AND due_at = :due"
    found = rows(connection, f"SELECT state, cancel_asked_at FROM {RUN} WHERE {where} FOR UPDATE", **key)
    if found and found[0]["state"] == "ready":
        changed(connection, f"UPDATE {RUN} SET {CANCELLED} WHERE {where}", **key)
    elif found and found[0]["state"] == "running" and found[0]["cancel_asked_at"] is None:
        changed(connection, f"UPDATE {RUN} SET cancel_asked_at = UTC_TIMESTAMP(6) WHERE {where}", **key)
    else:
        return get_run(connection, namespace, run_id)
    task = tasks.get(connection, namespace, run["task_id"])
    if task is not None:
        tasks.event(connection, task, "run_cancelled", actor, f"run {run_id}")
    return get_run(connection, namespace, run_id)


def asked(connection: Connection, held: Sequence[Held]) -> set[tuple[int, int]]:
    """The (run_id, attempt) of `held` that are to stop: somebody cancelled the run, or its task, or deleted that."""
    return {(row[0], row[1]) for row in connection.exec_driver_sql(ASKED.format(fence=fence(held)))}
