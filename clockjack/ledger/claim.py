"""Claim: due tasks become runs, and every task moves on, in one short transaction.

Any number of dispatchers claim at once: locks are taken with SKIP LOCKED only, so a claimer never waits while it holds.
There is no Redis, no HTTP and no payload inside. A batch that its own rows spoil is claimed again task by task; a task
that spoils its transaction alone is parked as `invalid` with the reason, and the loop goes on.
"""

import logging
import time
from collections.abc import Mapping
from datetime import datetime

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from clockjack.ledger.adopt import adopt
from clockjack.ledger.advance import Claimed, apply
from clockjack.ledger.database import (
    AGAIN,
    DUPLICATE,
    Database,
    Unavailable,
    UnknownCommit,
    code,
    is_lost,
    rows,
)
from clockjack.ledger.decide import Step

log = logging.getLogger("clockjack.ledger")

BATCH = 500
SATURATED_S = 1.0
AVOID_S = 5.0

_COLUMNS = (
    "id, queue, state, run_at, cron, every_s, timezone, start_at, end_at, max_runs, runs_claimed, next_run_at,"
    " schedule_version, version, created_at, UTC_TIMESTAMP(6) AS now,"
    " OCTET_LENGTH(payload) AS payload_bytes, JSON_VALID(payload) AS payload_valid"
)
FRESH = (
    f"SELECT {_COLUMNS} FROM tasks FORCE INDEX (due)"
    " WHERE next_run_at >= UTC_TIMESTAMP(6) - INTERVAL 10 SECOND"
    " AND next_run_at <= UTC_TIMESTAMP(6) + INTERVAL 5 SECOND AND id NOT IN :avoid"
    " ORDER BY next_run_at LIMIT :n FOR UPDATE SKIP LOCKED"
)
OVERDUE = (
    f"SELECT {_COLUMNS} FROM tasks FORCE INDEX (due)"
    " WHERE next_run_at < UTC_TIMESTAMP(6) - INTERVAL 10 SECOND AND queue NOT IN :busy AND id NOT IN :avoid"
    " ORDER BY next_run_at LIMIT :n FOR UPDATE SKIP LOCKED"
)
ONE = f"SELECT {_COLUMNS} FROM tasks WHERE id = :i AND next_run_at = :t FOR UPDATE SKIP LOCKED"


def claim(
    database: Database, ages: Mapping[str, float], limit: int = BATCH, *, avoid: dict[int, float] | None = None
) -> Claimed:
    """Up to `limit` due tasks are claimed: on-time ones first, overdue ones with what is left of the batch.

    `ages` holds the oldest waiting age (s) of each queue: overdue work of a queue that does not keep up waits in MySQL.
    `avoid` is kept between calls: tasks (until when, monotonic) whose run somebody else keeps locked.
    """
    avoid = {} if avoid is None else avoid
    for task_id in [t for t, until in avoid.items() if until < time.monotonic()]:
        del avoid[task_id]
    not_these = [*avoid] or [0]
    seen: list[tuple[int, datetime]] = []

    def body(connection: Connection) -> Claimed:
        seen.clear()
        found = rows(connection, FRESH, n=limit, avoid=not_these)
        if len(found) < limit:
            busy = [queue for queue, age in ages.items() if age > SATURATED_S] or [""]
            found += rows(connection, OVERDUE, n=limit - len(found), busy=busy, avoid=not_these)
        seen.extend((row["id"], row["next_run_at"]) for row in found)
        return apply(connection, database.clock, found, ages, full=len(found) >= limit)

    try:
        return database.transaction(body, attempts=1)
    except UnknownCommit:
        return Claimed([], 0, 0, full=True)  # the next poll sees what became true; wake_at covers the push
    except Exception as error:
        if (
            is_lost(error)
            or isinstance(error, Unavailable)
            or not seen
            or not isinstance(error, DBAPIError | ArithmeticError | ValueError)
        ):
            raise
        log.warning("batch claimed task by task", extra={"action": "claim_alone", "code": code(error)})
    alone = [_claim_alone(database, task_id, stored, ages, avoid) for task_id, stored in seen]
    return Claimed(
        [ready for one in alone for ready in one.ready],
        sum(one.invalid for one in alone),
        sum(one.tasks for one in alone),
        full=len(seen) >= limit,
    )


def _claim_alone(
    database: Database, task_id: int, stored: datetime, ages: Mapping[str, float], avoid: dict[int, float]
) -> Claimed:
    def body(connection: Connection) -> Claimed:
        return apply(connection, database.clock, rows(connection, ONE, i=task_id, t=stored), ages, full=False)

    def adopted(connection: Connection) -> Claimed:
        return adopt(connection, database.clock, rows(connection, ONE, i=task_id, t=stored), ages)

    def park(connection: Connection) -> Claimed:
        reason = f"claiming it fails: {getattr(failure, 'orig', failure)}"[:1000]
        found = rows(connection, ONE, i=task_id, t=stored)
        return apply(connection, database.clock, [], ages, parked=[Step(t, None, invalid=reason) for t in found])

    failure: BaseException
    for attempt in (body, adopted, park):
        try:
            return database.transaction(attempt, attempts=1)
        except UnknownCommit:
            break
        except Exception as error:
            if is_lost(error) or isinstance(error, Unavailable):
                raise
            if code(error) in AGAIN:  # not the row's fault: somebody holds a lock on its run
                avoid[task_id] = time.monotonic() + AVOID_S
                break
            failure = error
            if attempt is body and code(error) != DUPLICATE:
                try:
                    return database.transaction(park)
                except UnknownCommit:
                    break
    return Claimed([], 0, 0, full=False)
