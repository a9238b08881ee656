"""How well the promise of 10 seconds was kept, from the runs themselves: the newest ones, a bounded number of rows."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from clockjack.ledger.database import rows
from clockjack.ledger.replay import END, LAST_ID

PROMISE = timedelta(seconds=10)
PIECE, PIECES = 10_000, 5
READ = (
    "SELECT r.due_at, r.claimed_at, r.first_started_at FROM runs r FORCE INDEX (PRIMARY)"
    " STRAIGHT_JOIN tasks t ON t.id = r.task_id"
    " WHERE r.id < :before AND r.id >= :end AND r.due_at >= :since AND r.due_at <= :now AND r.origin = 'schedule'"
    " AND t.namespace = :namespace AND (r.first_started_at IS NOT NULL OR r.state = 'ready')"
)


def slo(connection: Connection, namespace: str, window: timedelta, *, pieces: int = PIECES) -> dict[str, Any]:
    """The share on time, and the lateness by stage, of the namespace's scheduled runs that came due in the window.

    What is due and has not begun counts when it is late: with what it is late by now. `truncated`: there were more
    runs, of all namespaces, than are read; then the oldest are missing.
    """
    now: datetime = connection.execute(sa.text("SELECT UTC_TIMESTAMP(6)")).scalar_one()
    found: list[dict[str, Any]] = []
    since, before, more = now - window, LAST_ID, False
    for _ in range(pieces):
        last = rows(connection, END, before=before, piece=PIECE - 1)
        end = last[0]["id"] if last else 0
        values = {"since": since, "now": now, "namespace": namespace}
        found += rows(connection, READ, before=before, end=end, **values)
        before, more = end, bool(last)
        if not more:
            break
    waiting = [run for run in found if run["first_started_at"] is None and now - run["due_at"] > PROMISE]
    begun = [run for run in found if run["first_started_at"] is not None]
    late = [_us(run["first_started_at"] - run["due_at"]) for run in begun]
    claimed = [run for run in begun if run["claimed_at"] is not None]
    on_time = sum(us <= _us(PROMISE) for us in late)
    runs = len(begun) + len(waiting)
    return {
        "from": since,
        "to": now,
        "promise_s": PROMISE.total_seconds(),
        "runs": runs,
        "on_time": on_time,
        "share_on_time": round(on_time / runs, 6) if runs else None,
        "waiting_late": len(waiting),
        "lateness": _figures([*late, *(_us(now - run["due_at"]) for run in waiting)]),
        "stages": {
            "claim": _figures([_us(max(timedelta(), run["claimed_at"] - run["due_at"])) for run in claimed]),
            "start": _figures(
                [_us(run["first_started_at"] - max(run["claimed_at"], run["due_at"])) for run in claimed]
            ),
        },
        "truncated": more,
    }


def _us(span: timedelta) -> int:
    return span // timedelta(microseconds=1)


def _figures(us: Sequence[int]) -> dict[str, float | None]:
    """The smallest value that so many are not above, in milliseconds; None where there are none."""
    ordered = sorted(us)

    def at(share_percent: int) -> float | None:
        return ordered[max(0, -(-len(ordered) * share_percent // 100) - 1)] / 1000 if ordered else None

    return {"p50_ms": at(50), "p99_ms": at(99), "worst_ms": at(100)}
