"""The load that is coming, read from the index `due` alone: no row of a task is touched, and nothing is locked.

The index has the next occurrence of each task and no more: of a recurring task only the next one is counted. It knows
no namespaces and no states. What is due within 5 s is claimed and has moved on already.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from clockjack.ledger.advance import LOOKAHEAD
from clockjack.ledger.database import rows
from clockjack.ledger.tasks import schedule_of
from clockjack.moments import FIRST, LAST
from clockjack.schedules import wants_seed

SIZES = {"1s": timedelta(seconds=1), "1m": timedelta(minutes=1)}
MAX_BUCKETS = 600
SCAN, OVERDUE = 1_000_000, 100_000  # index entries that are read at most
COUNTS = "next occurrences of all tasks of all namespaces, paused ones too; of a recurring task its next one only"

LOAD = (
    "SELECT bucket, COUNT(*) AS due FROM (SELECT TIMESTAMPDIFF(SECOND, :begin, next_run_at) DIV :size AS bucket"
    " FROM tasks FORCE INDEX (due) WHERE next_run_at >= :low AND next_run_at < :until ORDER BY next_run_at LIMIT :most)"
    " AS soonest GROUP BY bucket ORDER BY bucket"
)
AMOUNT = (
    "SELECT COUNT(*) AS n FROM (SELECT next_run_at FROM tasks FORCE INDEX (due) WHERE next_run_at >= :low"
    " AND next_run_at < :until LIMIT :most) AS counted"
)

CROWD, CAPPED, NEARBY = 100, 1000, 2000  # tasks in one second; counted at most; read at most of the minute after
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


def forecast(
    connection: Connection, bucket: str, *, begin: datetime | None = None, buckets: int = 60, most: int = SCAN
) -> dict[str, Any]:
    """How many tasks are due next in each of `buckets` seconds or minutes from that of `begin` (None: now) on.

    What is due before now counts as overdue, in no bucket. After `most` tasks it ends: then it is `truncated`, its last
    bucket is not counted to its end, and later ones are missing.
    """
    now = connection.execute(sa.text("SELECT UTC_TIMESTAMP(6)")).scalar_one()
    size = SIZES[bucket]
    start = begin or now
    start = start.replace(microsecond=0, second=start.second if size == SECOND else 0)
    until = min(start + buckets * size, LAST + timedelta(days=1))
    found = rows(
        connection, LOAD, begin=start, size=int(size.total_seconds()), low=max(start, now), until=until, most=most + 1
    )
    due = {int(row["bucket"]): int(row["due"]) for row in found}
    truncated = sum(due.values()) > most
    if truncated:
        due[max(due)] -= 1  # the one that told
    shown = range(max(due) + 1 if truncated else -((start - until) // size))
    listed: list[dict[str, Any]] = [{"at": start + n * size, "due": due.get(n, 0)} for n in shown]
    return {
        "bucket": bucket,
        "from": start,
        "counts": COUNTS,
        "buckets": listed,
        "busiest": max(listed, key=lambda one: one["due"]) if any(due.values()) else None,
        "overdue": _amount(connection, FIRST, now, OVERDUE),
        "truncated": truncated,
    }


def crowding(connection: Connection, task: Mapping[str, Any], many: int | None = None) -> list[str]:
    """A sentence for whoever has just registered the task, if its second is among the busiest; mostly [].

    `many`: how many are due in that second, up to one more than 1,000, if somebody has counted them already.
    """
    due = task["next_run_at"]
    if due is None or due < task["updated_at"] + LOOKAHEAD:  # it is claimed at once, as its neighbours were
        return []
    second = due.replace(microsecond=0)
    many = _amount(connection, second, second + SECOND, CAPPED + 1) if many is None else many
    if many < CROWD:
        return []
    shown = f"{CAPPED:,} or more" if many > CAPPED else f"{many:,}"
    text = f"{shown} tasks are due in the second of {second.isoformat()}Z"
    quietest = _quietest(connection, second + SECOND)
    if quietest and 2 * quietest[1] <= many:
        at, few = quietest
        text += f"; {at:%H:%M:%S} within the next minute has {few}: {_advice(task)} would spread them"
    return [text]


def _quietest(connection: Connection, begin: datetime) -> tuple[datetime, int] | None:
    """The second with the fewest tasks, the first of these, of those of a minute that could be counted to their end."""
    found = rows(connection, LOAD, begin=begin, size=1, low=begin, until=begin + MINUTE - SECOND, most=NEARBY)
    due = {int(row["bucket"]): int(row["due"]) for row in found}
    counted = max(due) if sum(due.values()) >= NEARBY else 59
    return min(((begin + n * SECOND, due.get(n, 0)) for n in range(counted)), key=lambda one: one[1], default=None)


def _advice(task: Mapping[str, Any]) -> str:
    if task["jitter_s"]:
        return "a larger jitter_s"
    if task["cron"] is not None and not wants_seed(schedule_of(task)):
        return "H in the cron's fields or jitter_s"
    return "jitter_s"


def _amount(connection: Connection, low: datetime, until: datetime, most: int) -> int:
    return int(rows(connection, AMOUNT, low=low, until=until, most=most)[0]["n"])
