"""Queues as a whole: paused and resumed, and what of each is due, waits and runs, over all namespaces.

A paused queue is a row with `paused_at`. Consumers hear of it with the clock that they read every two seconds anyway,
and pop nothing; dispatchers read the names as often, and leave its tasks unclaimed, so that after the resume those are
overdue as after any outage.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from clockjack.ledger.database import Database, changed, inserted, rows

Row = dict[str, Any]
MOST, MOST_PAUSED = 50_000, 1_000  # rows that are counted; names that a dispatcher keeps in mind
HEARD = (
    "SELECT UTC_TIMESTAMP(6) AS now,"
    " EXISTS (SELECT 1 FROM queues WHERE queue = :queue AND paused_at IS NOT NULL) AS paused"
)
PAUSED = "SELECT queue FROM queues WHERE paused_at IS NOT NULL ORDER BY queue LIMIT :most"
PAUSES = "SELECT queue, paused_at, actor FROM queues WHERE paused_at IS NOT NULL ORDER BY queue LIMIT :most"
TASKS = (
    "SELECT queue, COUNT(*) AS due, MIN(next_run_at) AS oldest_due_at FROM (SELECT queue, next_run_at FROM tasks"
    " FORCE INDEX (due) WHERE next_run_at <= :now AND state = 'active' ORDER BY next_run_at LIMIT :most) AS late"
    " GROUP BY queue"
)
RUNS = (
    "SELECT queue, COUNT(*) AS n, SUM(state = 'running') AS running,"
    " SUM(state = 'ready' AND due_at <= :now) AS waiting, SUM(state = 'ready' AND due_at > :now) AS staged,"
    " MIN(IF(state = 'ready' AND due_at <= :now, due_at, NULL)) AS oldest_due_at"
    " FROM (SELECT queue, state, due_at FROM runs FORCE INDEX (wake) WHERE wake_at IS NOT NULL ORDER BY wake_at"
    " LIMIT :most) AS live GROUP BY queue"
)
NOTHING: Row = {"state": "active", "paused_at": None, "paused_by": None}
NOTHING |= dict.fromkeys(("due", "waiting", "staged", "running"), 0) | {"oldest_due_at": None}


def heard(database: Database, queue: str) -> bool:
    """Whether the queue is paused; the clock was read by the same statement."""

    def body(connection: Connection) -> bool:
        found = rows(connection, HEARD, queue=queue)[0]
        database.clock.observe(found["now"])
        return bool(found["paused"])

    return database.transaction(body)


def is_paused(connection: Connection, queue: str) -> bool:
    """Whether the queue is paused."""
    return bool(rows(connection, HEARD, queue=queue)[0]["paused"])


def paused(connection: Connection) -> list[str]:
    """The queues that are paused."""
    return [row["queue"] for row in rows(connection, PAUSED, most=MOST_PAUSED)]


def pause(connection: Connection, queue: str, *, actor: str) -> bool:
    """The queue is paused; whether it was not. 1062 when somebody else was faster: call again after the rollback."""
    found = _locked(connection, queue)
    if found is None:
        inserted(
            connection,
            "INSERT INTO queues (queue, paused_at, actor) VALUES (:queue, UTC_TIMESTAMP(6), :actor)",
            queue=queue,
            actor=actor[:100],
        )
        return True
    if found["paused_at"] is None:
        _switch(connection, queue, "UTC_TIMESTAMP(6)", actor)
    return found["paused_at"] is None


def resume(connection: Connection, queue: str, *, actor: str) -> bool:
    """The queue is not paused; whether it was. What is due in it is overdue work from now on."""
    found = _locked(connection, queue)
    if found is None or found["paused_at"] is None:
        return False
    _switch(connection, queue, "NULL", actor)
    return True


def _locked(connection: Connection, queue: str) -> Row | None:
    found = rows(connection, "SELECT paused_at FROM queues WHERE queue = :queue FOR UPDATE", queue=queue)
    return found[0] if found else None


def _switch(connection: Connection, queue: str, paused_at: str, actor: str) -> None:
    changed(
        connection,
        f"UPDATE queues SET paused_at = {paused_at}, actor = :actor, updated_at = UTC_TIMESTAMP(6)"
        " WHERE queue = :queue",
        queue=queue,
        actor=actor[:100],
    )


def list_queues(connection: Connection) -> tuple[dict[str, Row], bool]:
    """Each queue that is paused or holds something, and whether there is more than was counted.

    due: tasks that no dispatcher has claimed yet. waiting: runs that are due and not at work, those that wait for a
    retry or a limit too. staged: runs that are claimed and not due yet.
    """
    now = connection.execute(sa.text("SELECT UTC_TIMESTAMP(6)")).scalar_one()
    found: dict[str, Row] = {}
    for row in rows(connection, PAUSES, most=MOST_PAUSED):
        found[row["queue"]] = {"state": "paused", "paused_at": row["paused_at"], "paused_by": row["actor"]}
    live = rows(connection, RUNS, now=now, most=MOST)
    for row in live:
        _add(found, row, {name: int(row[name]) for name in ("waiting", "running", "staged")})
    overdue = rows(connection, TASKS, now=now, most=MOST)
    for row in overdue:
        _add(found, row, {"due": row["due"]})
    truncated = sum(row["n"] for row in live) >= MOST or sum(row["due"] for row in overdue) >= MOST
    return {queue: NOTHING | row for queue, row in found.items()}, truncated


def _add(found: dict[str, Row], row: Row, counts: Row) -> None:
    queue = found.setdefault(row["queue"], {})
    times = [when for when in (queue.get("oldest_due_at"), row["oldest_due_at"]) if when is not None]
    queue |= counts | {"oldest_due_at": min(times, default=None)}
