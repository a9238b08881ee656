"""Without Redis: consumers find in MySQL what nobody can push to them.

What is found is a hint, as a message is: the start decides by the same compare-and-swap. So several may find the same
run, or one whose message comes later. Found is what is READY and due, and either its `wake_at` has come or it has not
been started since its last look: only then is `wake_at` not the end of a back-off or of a wait.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.engine import Connection

from clockjack.ledger import exact, overlap
from clockjack.ledger.database import Database, rows
from clockjack.ledger.runs import Popped
from clockjack.moments import FIRST

PIECE = 5_000
POLL_S, PATIENCE_S = 1.0, 3.0
FOUND = (
    "SELECT id, due_at, attempt, live_task_id FROM runs FORCE INDEX (wake)"
    " WHERE wake_at > COALESCE(:since, UTC_TIMESTAMP(6) - INTERVAL 10 SECOND)"
    " AND wake_at <= COALESCE(:until, UTC_TIMESTAMP(6) + INTERVAL :ahead_s SECOND)"
    " AND due_at <= UTC_TIMESTAMP(6) AND state = 'ready' AND queue = :queue AND id NOT IN :avoid"
    " AND (wake_at <= UTC_TIMESTAMP(6) OR lease_until IS NULL AND origin <> 'backfill')"
    " ORDER BY wake_at LIMIT :n"
)
END = (
    "SELECT wake_at FROM runs FORCE INDEX (wake) WHERE wake_at > :since"
    " AND wake_at <= UTC_TIMESTAMP(6) + INTERVAL :ahead_s SECOND ORDER BY wake_at"
    f" LIMIT 1 OFFSET {PIECE}"
)
FREE = (
    "SELECT id FROM runs FORCE INDEX (PRIMARY) WHERE {points} AND state = 'ready' ORDER BY id, due_at"
    " FOR UPDATE SKIP LOCKED"
)
AGES = (
    "SELECT queue, TIMESTAMPDIFF(MICROSECOND, MIN(wake_at), UTC_TIMESTAMP(6)) / 1e6 AS age_s FROM"
    " (SELECT queue, state, wake_at FROM runs FORCE INDEX (wake) WHERE wake_at <= UTC_TIMESTAMP(6)"
    f" ORDER BY wake_at LIMIT {PIECE}) AS oldest WHERE state = 'ready' GROUP BY queue"
)


def find(
    connection: Connection, queue: str, n: int, since: datetime, avoid: Sequence[int], *, away: bool
) -> tuple[list[Popped], datetime]:
    """At most `n` runs of the queue to start: (the runs, where the walk through the others goes on).

    First what is on time. With what is left of `n`, a piece of all live runs is walked through, from `since`: however
    many there are of other queues, one call reads no more of them than that. Where Redis is not `away`, only what has
    waited for 3 s in vain.
    """
    near_s, far_s = (10, 864_000) if away else (-PATIENCE_S, -PATIENCE_S)
    found = rows(connection, FOUND, since=None, until=None, ahead_s=near_s, queue=queue, n=n, avoid=[*avoid, 0])
    if room := n - len(found):
        end = rows(connection, END, since=since, ahead_s=far_s)
        until = end[0]["wake_at"] if end else None
        known = [*avoid, *(run["id"] for run in found), 0]
        more = rows(connection, FOUND, since=since, until=until, ahead_s=far_s, queue=queue, n=room, avoid=known)
        found += more
        if len(more) < room:
            since = until or FIRST
    return [Popped(r["id"], r["due_at"], r["attempt"] + 1, 0, r["live_task_id"], True) for r in found], since


def free(connection: Connection, popped: Sequence[Popped]) -> Sequence[Popped]:
    """Of runs that were found here, those that nobody else has locked, locked: all polls find the same ones."""
    found = [p for p in popped if p.found]
    if not found:
        return popped
    overlap.lock(connection, found)  # tasks before runs
    points = exact.points({(p.run_id, p.due_at) for p in found})
    ours = {row[0] for row in connection.exec_driver_sql(FREE.format(points=points))}
    return [p for p in popped if not p.found or p.run_id in ours]


def ages(database: Database) -> dict[str, float]:
    """How long (s) the oldest due run of each queue has waited beyond two polls, as far as the oldest runs tell."""
    found = database.transaction(lambda c: rows(c, AGES))
    return {run["queue"]: max(0.0, float(run["age_s"]) - 2 * POLL_S) for run in found}
