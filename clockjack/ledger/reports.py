"""What people and monitoring ask. Read-only; lists go by keyset, never by OFFSET, at most 200 rows a page."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from clockjack.ledger.database import Clock, rows
from clockjack.ledger.tasks import COLUMNS, SEEN

MAX_PAGE = 200
LIST_COLUMNS = ", ".join(name for name in COLUMNS.split(", ") if name not in ("payload", *SEEN))
RUN_COLUMNS = ", ".join(
    f"r.{name}"
    for name in (
        *("id", "task_id", "due_at", "state", "attempt", "failures", "origin", "queue", "worker"),
        *("schedule_version", "task_version", "claimed_at"),
        *("first_started_at", "started_at", "finished_at", "skipped_until", "result", "error", "reason"),
        *("progress", "cancel_asked_at"),
    )
)
OLDEST_TASK = (
    "SELECT next_run_at FROM tasks FORCE INDEX (due) WHERE next_run_at <= :now AND state = 'active'"
    " ORDER BY next_run_at LIMIT 1"
)
OLDEST_RUN = (  # the thousand that are looked at next: a backlog of millions must not make the gauge a load
    "SELECT MIN(due_at) FROM (SELECT due_at, state, first_started_at, origin, reason FROM runs"
    " FORCE INDEX (wake)"
    " WHERE wake_at IS NOT NULL ORDER BY wake_at LIMIT 1000) AS soonest"
    " WHERE state = 'ready' AND first_started_at IS NULL AND due_at <= :now AND origin <> 'backfill'"
    " AND COALESCE(reason, '') <> 'limit'"  # what waits for its limit is as late as it was asked to be
)


def list_tasks(
    connection: Connection,
    namespace: str,
    *,
    state: str | None = None,
    handler: str | None = None,
    queue: str | None = None,
    task_key: str | None = None,
    tag: str | None = None,
    group_key: str | None = None,
    before_id: int | None = None,
    limit: int = 50,
) -> list[dict[str, Any]]:
    """Tasks of the namespace without their payloads, the newest first; `task_key` is a prefix."""
    where = {"state": state, "handler": handler, "queue": queue, "task_key": task_key, "tag": tag}
    conditions, values = matching(namespace, where | {"group_key": group_key})
    if before_id is not None:
        conditions += " AND id < :before_id"
        values["before_id"] = before_id
    return rows(
        connection,
        f"SELECT {LIST_COLUMNS} FROM tasks WHERE {conditions} ORDER BY id DESC LIMIT :limit",
        limit=min(limit, MAX_PAGE),
        **values,
    )


def matching(namespace: str, where: Mapping[str, str | None]) -> tuple[str, dict[str, Any]]:
    """The condition of the namespace's tasks that match `where`, and its values; `task_key` is a prefix."""
    conditions, values = ["namespace = :namespace"], {"namespace": namespace}
    for name in ("state", "handler", "queue", "group_key"):
        if (value := where.get(name)) is not None:
            conditions.append(f"{name} = :{name}")
            values[name] = value
    if prefix := where.get("task_key"):
        conditions.append("task_key LIKE :task_key ESCAPE '!'")
        values["task_key"] = "".join(f"!{c}" if c in "!%_" else c for c in prefix) + "%"
    if (tag := where.get("tag")) is not None:
        conditions.append("FIND_IN_SET(:tag, tags) > 0")
        values["tag"] = tag
    return " AND ".join(conditions), values


def list_runs(
    connection: Connection, task_id: int, *, before: datetime | None = None, limit: int = 50
) -> list[dict[str, Any]]:
    """Runs of the task, the latest due first; `before` is the due_at of the last one seen."""
    return rows(
        connection,
        f"SELECT {RUN_COLUMNS} FROM runs r WHERE r.task_id = :task_id AND r.due_at < :before"
        " ORDER BY r.due_at DESC LIMIT :limit",
        task_id=task_id,
        before=before or datetime.max,
        limit=min(limit, MAX_PAGE),
    )


def get_run(connection: Connection, namespace: str, run_id: int) -> dict[str, Any] | None:
    """The run, or None where this namespace has no such run."""
    found = rows(
        connection,
        f"SELECT {RUN_COLUMNS} FROM runs r JOIN tasks t ON t.id = r.task_id"
        " WHERE r.id = :i AND t.namespace = :n ORDER BY r.due_at DESC LIMIT 1",
        i=run_id,
        n=namespace,
    )
    return found[0] if found else None


def attempts(connection: Connection, run: dict[str, Any]) -> list[dict[str, Any]]:
    """The attempts of this run that did not succeed, the first one first."""
    return rows(
        connection,
        "SELECT attempt, outcome, worker, started_at, ended_at, error FROM attempts"
        " WHERE run_id = :i AND due_at = :d ORDER BY attempt LIMIT 1000",
        i=run["id"],
        d=run["due_at"],
    )


def list_events(connection: Connection, task_id: int, *, limit: int = 50) -> list[dict[str, Any]]:
    """What was done to the task and by whom, the latest first."""
    return rows(
        connection,
        "SELECT id, at, actor, action, version, schedule_version, detail FROM task_events"
        " WHERE task_id = :t ORDER BY id DESC LIMIT :limit",
        t=task_id,
        limit=min(limit, MAX_PAGE),
    )


def health(connection: Connection, clock: Clock | None = None) -> dict[str, Any]:
    """Since when the oldest due task or run waits to be started: `oldest_due_at` (None: nothing waits) and its age.

    The time that is read on the way is told to `clock`.
    """
    now = connection.execute(sa.text("SELECT UTC_TIMESTAMP(6)")).scalar_one()
    if clock:
        clock.observe(now)
    waiting = [connection.execute(sa.text(sql), {"now": now}).scalar() for sql in (OLDEST_TASK, OLDEST_RUN)]
    oldest = min((due for due in waiting if due is not None), default=None)
    return {
        "now": now,
        "oldest_due_at": oldest,
        "oldest_due_age_s": (now - oldest).total_seconds() if oldest else 0.0,
    }


def counts(connection: Connection) -> dict[str, dict[str, int]]:
    """Tasks by state, live runs by state and by queue. Reads all tasks: for people, not for loops."""
    tasks = rows(connection, "SELECT state, COUNT(*) AS n FROM tasks GROUP BY state")
    live = "SELECT {}, COUNT(*) AS n FROM runs FORCE INDEX (wake) WHERE wake_at IS NOT NULL GROUP BY {}"
    return {
        "tasks": {row["state"]: row["n"] for row in tasks},
        "runs": {row["state"]: row["n"] for row in rows(connection, live.format("state", "state"))},
        "queues": {row["queue"]: row["n"] for row in rows(connection, live.format("queue", "queue"))},
    }


def wanted_queues(connection: Connection) -> dict[str, set[str]]:
    """The queues that active tasks and live runs need, each with its handlers. Reads all tasks: for people."""
    found: dict[str, set[str]] = {}
    for row in rows(
        connection,
        "SELECT DISTINCT queue, handler FROM tasks WHERE state = 'active' AND next_run_at IS NOT NULL"
        " UNION SELECT DISTINCT r.queue, t.handler FROM runs r FORCE INDEX (wake) JOIN tasks t ON t.id = r.task_id"
        " WHERE r.wake_at IS NOT NULL LIMIT 1000",
    ):
        found.setdefault(row["queue"], set()).add(row["handler"])
    return found
