"""Runs by hand: what is listed of a namespace, or brought back from the dead letters.

A list without an index for its filters is read by primary key, newest first, a bounded number of rows a request: a page
may hold less than was asked for and still go on. The task's row is locked before the run's.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy.engine import Connection

from clockjack.ledger import tasks
from clockjack.ledger.database import rows
from clockjack.ledger.exact import update_locked
from clockjack.ledger.reports import MAX_PAGE, RUN_COLUMNS, get_run
from clockjack.ledger.tasks import StateConflict, serial

PIECE, PIECES = 10_000, 5  # rows that are read at once, and how often at most for one page
LAST_ID = 2**63 - 1
END = "SELECT id FROM runs FORCE INDEX (PRIMARY) WHERE id < :before ORDER BY id DESC LIMIT 1 OFFSET :piece"
LISTED = (
    f"SELECT {RUN_COLUMNS} FROM runs r FORCE INDEX (PRIMARY) STRAIGHT_JOIN tasks t ON t.id = r.task_id"
    " WHERE r.id < :before AND r.id >= :end AND t.namespace = :namespace{where} ORDER BY r.id DESC LIMIT :limit"
)
FILTERS = {
    "state": "r.state = :state",
    "queue": "r.queue = :queue",
    "handler": "t.handler = :handler",
    "due_from": "r.due_at >= :due_from",
    "due_until": "r.due_at < :due_until",
    "late_ms": "r.first_started_at >= r.due_at + INTERVAL :late_ms * 1000 MICROSECOND",
}
# the consumer of a run that was replaced may be at work until its lease is over: two attempts never hold one at once
AGAIN = (
    "state = 'ready', failures = 0, reason = NULL, error = NULL, result = NULL, finished_at = NULL,"
    " cancel_asked_at = NULL, schedule_version = %s, task_version = %s, live_task_id = %s,"
    " wake_at = IF(%s AND lease_until > UTC_TIMESTAMP(6), lease_until, UTC_TIMESTAMP(6))"
)


def list_runs(
    connection: Connection, namespace: str, where: Mapping[str, Any], *, before: int | None = None, limit: int = 50
) -> tuple[list[dict[str, Any]], int | None]:
    """Runs of the namespace that match, the newest first, and the id before which to go on (None: no more)."""
    given = {name: value for name, value in where.items() if value is not None}
    sql = LISTED.format(where="".join(f" AND {FILTERS[name]}" for name in given))
    found: list[dict[str, Any]] = []
    limit, position = min(limit, MAX_PAGE), before or LAST_ID
    for _ in range(PIECES):
        last = rows(connection, END, before=position, piece=PIECE - 1)
        end = last[0]["id"] if last else 0
        found += rows(connection, sql, before=position, end=end, namespace=namespace, limit=limit - len(found), **given)
        if len(found) == limit:
            return found, found[-1]["id"]
        if not last:
            return found, None
        position = end
    return found, position


def retry(connection: Connection, namespace: str, run_id: int, *, actor: str) -> dict[str, Any] | None:
    """The failed or cancelled run is READY again, with all its attempts to come; None where there is none.

    StateConflict for any other state, and when its task would let nothing start.
    """
    found = _locked(connection, namespace, run_id)
    if found is None:
        return None
    task, run = found
    if run["state"] not in ("failed", "cancelled"):
        raise StateConflict(f"the run is {run['state']}: only a failed or cancelled run can be retried")
    if task["state"] in ("cancelled", "invalid"):
        raise StateConflict(f"the run's task is {task['state']}: its runs do not start")
    update_locked(
        connection, [(run["id"], run["due_at"])], AGAIN,
        task["schedule_version"], task["version"], serial(task), run["state"] == "cancelled",
    )  # fmt: skip
    tasks.event(connection, task, "run_retried", actor, f"run {run['id']}")
    return get_run(connection, namespace, run_id)


def _locked(connection: Connection, namespace: str, run_id: int) -> tuple[dict[str, Any], dict[str, Any]] | None:
    run = get_run(connection, namespace, run_id)
    task = run and tasks.get(connection, namespace, run["task_id"], lock=True)
    if not run or not task:
        return None
    key: dict[str, datetime | int] = {"id": run["id"], "due": run["due_at"]}
    sql = "SELECT id, due_at, state FROM runs WHERE id = :id AND due_at = :due FOR UPDATE"
    there = rows(connection, sql, **key)
    return (task, there[0]) if there else None
