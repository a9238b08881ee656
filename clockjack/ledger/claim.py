"""Claim: due tasks become runs, and every task moves on, in one short transaction.

Any number of dispatchers claim at once: tasks are locked with SKIP LOCKED only. There is no Redis and no HTTP inside,
and no payload but those of SQL tasks that are seen for the first time. A batch that its own rows spoil is claimed again
in parts; a task that spoils its transaction alone is parked as `invalid` with the reason, and the loop goes on.
"""

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.engine import Connection

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
from clockjack.ledger.pace import Pace
from clockjack.ledger.tasks import POLICIES, SCHEDULE
from clockjack.moments import FIRST

log = logging.getLogger("clockjack.ledger")

BATCH, PAGES = 500, 4
SATURATED_S = 1.0
AVOID_S = 5.0
OVERDUE_EVERY_S = 1.0

_COLUMNS = (
    f"id, queue, state, {', '.join((*SCHEDULE, *POLICIES))}, runs_claimed, misfires_claimed, next_run_at, missed_since,"
    " schedule_version, version, seen_state, seen_schedule_version, created_at, UTC_TIMESTAMP(6) AS now"
)
FRESH = (
    "SELECT id FROM tasks FORCE INDEX (due)"
    " WHERE next_run_at >= UTC_TIMESTAMP(6) - INTERVAL 10 SECOND"
    " AND next_run_at <= UTC_TIMESTAMP(6) + INTERVAL 5 SECOND AND id NOT IN :avoid"
    " ORDER BY next_run_at LIMIT :n OFFSET :passed"
)
ANY = "SELECT 1 FROM tasks FORCE INDEX (due) WHERE next_run_at <= UTC_TIMESTAMP(6) + INTERVAL 5 SECOND LIMIT 1"
OVERDUE = (
    "SELECT id, queue FROM tasks FORCE INDEX (due)"
    " WHERE next_run_at >= :since AND next_run_at < COALESCE(:before, UTC_TIMESTAMP(6) - INTERVAL 10 SECOND)"
    " AND queue NOT IN :busy AND id NOT IN :avoid"
    " ORDER BY next_run_at LIMIT :n"
)
FRESH_BUT = FRESH.replace(" ORDER BY", " AND queue NOT IN :paused ORDER BY")  # while a queue is paused
PIECE = (
    "SELECT next_run_at FROM tasks FORCE INDEX (due) WHERE next_run_at >= :since"
    " AND next_run_at < UTC_TIMESTAMP(6) - INTERVAL 10 SECOND ORDER BY next_run_at LIMIT 1 OFFSET 20000"
)
SOME = f"SELECT {_COLUMNS} FROM tasks FORCE INDEX (PRIMARY) WHERE id IN :ids ORDER BY id FOR UPDATE SKIP LOCKED"
# what was read without locks is locked by primary key alone, ascending: who finds an entry of `due` locked waits for it
TAKE = SOME.replace(" ORDER BY", " AND next_run_at <= UTC_TIMESTAMP(6) + INTERVAL 5 SECOND ORDER BY")
ONE = f"SELECT {_COLUMNS} FROM tasks FORCE INDEX (PRIMARY) WHERE id = :i AND next_run_at = :t FOR UPDATE SKIP LOCKED"


@dataclass(slots=True)
class Memory:
    """What one claimer keeps between its claims (`_s` on the monotonic clock)."""

    avoid: dict[int, float] = field(default_factory=dict)  # tasks whose run somebody else keeps locked: until when
    overdue_since: datetime = FIRST  # where the look through the overdue tasks goes on
    overdue_s: float = 0.0  # when that was
    pace: Pace = field(default_factory=Pace)
    idle: bool = False  # the last claim found nothing


def claim(
    database: Database,
    ages: Mapping[str, float],
    limit: int = BATCH,
    memory: Memory | None = None,
    *,
    staged: bool = True,
    paused: Collection[str] = (),
) -> Claimed:
    """Up to `limit` due tasks are claimed: on-time ones first, overdue ones with what is left of the batch.

    `ages` holds the oldest waiting age (s) of each queue: overdue work of a queue that does not keep up waits in MySQL,
    and the others get it at their pace. `staged`: the caller will push the runs to Redis. Nothing of `paused` queues is
    claimed: it is overdue when they are resumed.
    """
    memory = memory or Memory()
    if memory.idle and not database.any(ANY):
        return Claimed([], 0, 0, full=False)
    for task_id in [t for t, until in memory.avoid.items() if until < time.monotonic()]:
        del memory.avoid[task_id]
    seen: list[tuple[int, datetime]] = []

    def body(connection: Connection) -> Claimed:
        seen.clear()
        for page in range(PAGES):
            values = {"n": limit, "passed": page * limit, "avoid": [*memory.avoid] or [0]}
            there = (
                rows(connection, FRESH_BUT, **values, paused=[*paused]) if paused else rows(connection, FRESH, **values)
            )
            ids, full = [row["id"] for row in there], len(there) >= limit
            if not full:
                late = _overdue(connection, ages, limit - len(ids), memory, paused)
                ids += [task["id"] for task in late if memory.pace.take(task["queue"], time.monotonic())]
            full = len(ids) >= limit
            found = rows(connection, TAKE, ids=sorted(ids)) if ids else []
            if found or not full:  # else others have all of these: the next ones
                break
        full = full and bool(found)  # what others keep is not asked for again and again
        seen.extend((row["id"], row["next_run_at"]) for row in found)
        memory.idle = not found
        return apply(connection, database.clock, found, ages, full=full, staged=staged)

    try:
        return database.transaction(body, attempts=1)
    except UnknownCommit:
        return Claimed([], 0, 0, full=True)  # the next poll sees what became true; wake_at covers the push
    except Exception as error:
        if is_lost(error) or isinstance(error, Unavailable) or (not seen and code(error) not in AGAIN):
            raise
        if not seen:  # a deadlock before anything was locked for good: nobody has lost anything
            return Claimed([], 0, 0, full=True)
        log.warning("batch claimed in parts", extra={"action": "claim_parts", "code": code(error)})
        why = code(error)
    alone = _claim_parts(database, seen, why, ages, memory, staged)
    return Claimed(
        [ready for one in alone for ready in one.ready],
        sum(one.invalid for one in alone),
        sum(one.tasks for one in alone),
        full=len(seen) >= limit or any(one.full for one in alone),
    )


def _overdue(
    connection: Connection, ages: Mapping[str, float], n: int, memory: Memory, paused: Collection[str]
) -> list[dict[str, Any]]:
    """Overdue tasks of queues that keep up. A backlog of the others is walked through piece by piece, not each time."""
    avoid = [*memory.avoid] or [0]
    busy = [*paused, *(queue for queue, age in ages.items() if age > SATURATED_S)]
    busy += memory.pace.exhausted(ages, time.monotonic())
    if not busy:
        return rows(connection, OVERDUE, since=FIRST, before=None, n=n, busy=[""], avoid=avoid)
    if time.monotonic() - memory.overdue_s < OVERDUE_EVERY_S:
        return []
    memory.overdue_s, since = time.monotonic(), memory.overdue_since
    piece = rows(connection, PIECE, since=since)
    before = piece[0]["next_run_at"] if piece else None
    if before == since:  # so many are due at one instant
        before = since + timedelta(microseconds=1)
    found = rows(connection, OVERDUE, since=since, before=before, n=n, busy=busy, avoid=avoid)
    if len(found) < n:
        memory.overdue_since = before or FIRST
    return found


def _claim_parts(
    database: Database,
    seen: Sequence[tuple[int, datetime]],
    why: int | None,
    ages: Mapping[str, float],
    memory: Memory,
    staged: bool,
) -> list[Claimed]:
    """A batch that failed is claimed: in halves while occurrences that have a row spoil it, else task by task.

    So an edit or a resume, whose next occurrence may have a row, costs its neighbours a few transactions and not one
    each. A lock that somebody keeps would be waited for again in each half.
    """
    if why != DUPLICATE or len(seen) == 1:
        return [_claim_alone(database, task_id, stored, ages, memory, staged) for task_id, stored in seen]
    middle, done = len(seen) // 2, list[Claimed]()
    for part in (seen[:middle], seen[middle:]):
        if len(part) == 1:
            done += _claim_parts(database, part, why, ages, memory, staged)
            continue
        times = dict(part)

        def body(connection: Connection, times: dict[int, datetime] = times) -> Claimed:
            found = [t for t in rows(connection, SOME, ids=[*times]) if t["next_run_at"] == times[t["id"]]]
            return apply(connection, database.clock, found, ages, staged=staged)

        try:
            done.append(database.transaction(body, attempts=1))
        except UnknownCommit:
            done.append(Claimed([], 0, 0, full=True))
        except Exception as error:
            if is_lost(error) or isinstance(error, Unavailable):
                raise
            done += _claim_parts(database, part, code(error), ages, memory, staged)
    return done


def _claim_alone(
    database: Database, task_id: int, stored: datetime, ages: Mapping[str, float], memory: Memory, staged: bool
) -> Claimed:
    """One task of a batch that failed: claimed, or its row adopted, or parked with the reason; never raised about."""

    def body(connection: Connection) -> Claimed:
        return apply(connection, database.clock, rows(connection, ONE, i=task_id, t=stored), ages, staged=staged)

    def adopted(connection: Connection) -> Claimed:
        return adopt(connection, database.clock, rows(connection, ONE, i=task_id, t=stored), ages, staged=staged)

    reason = ""

    def park(connection: Connection) -> Claimed:
        found = rows(connection, ONE, i=task_id, t=stored)
        return apply(connection, database.clock, [], ages, parked=[Step(t, None, invalid=reason) for t in found])

    attempt = body
    while True:
        try:
            return database.transaction(attempt, attempts=1)
        except UnknownCommit:
            break
        except Exception as error:
            if is_lost(error) or isinstance(error, Unavailable):
                raise
            if code(error) in AGAIN or attempt is park:  # somebody holds a lock on its run: not the row's fault
                memory.avoid[task_id] = time.monotonic() + AVOID_S
                break
            reason = f"claiming it fails: {getattr(error, 'orig', error)}"[:1000]
            attempt = adopted if attempt is body and code(error) == DUPLICATE else park
    return Claimed([], 0, 0, full=False)
