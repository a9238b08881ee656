"""Weekly partitions of `runs`, and what is dropped when it is past retention.

Partitions are made two weeks ahead; the last one (MAXVALUE) stays empty, so making the next one copies nothing. A
partition is dropped only without live rows and when its newest finish is past retention.
"""

import logging
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from clockjack.ledger.database import Database, changed, code, rows

log = logging.getLogger("clockjack.ledger")
WEEK = timedelta(days=7)
MONDAY = datetime(2024, 1, 1)
AHEAD = 3
LOCK = "clockjack.partitions"


def boundaries(now: datetime) -> list[datetime]:
    """The upper bounds (Mondays, UTC) of this week's partition and of those made ahead."""
    this = MONDAY + ((now - MONDAY) // WEEK + 1) * WEEK
    return [this + i * WEEK for i in range(AHEAD)]


def definition(bounds: list[datetime]) -> str:
    """The partition list in SQL, the empty last one included."""
    parts = [f"PARTITION p{b:%Y%m%d} VALUES LESS THAN ('{b:%Y-%m-%d}')" for b in bounds]
    return ", ".join([*parts, "PARTITION p_last VALUES LESS THAN (MAXVALUE)"])


def maintain(database: Database, retention_days: int, cursor: int = 0) -> dict[str, int]:
    """Partitions reach two weeks ahead and old history is gone; returns what was done, {} when another is at it.

    Old one-time tasks are looked for 500 at a time, by primary key: the answer's `cursor` is the next call's, and
    `more` is not 0 while a page was full.
    """

    def body(connection: Connection) -> dict[str, int]:
        connection.execute(sa.text("SET SESSION lock_wait_timeout = 1"))  # what waits for it delays every start
        if connection.execute(sa.text("SELECT GET_LOCK(:l, 0)"), {"l": LOCK}).scalar_one() != 1:
            return {}
        try:
            now = connection.execute(sa.text("SELECT UTC_TIMESTAMP(6)")).scalar_one()
            return _maintain(connection, now, now - timedelta(days=retention_days), cursor)
        finally:
            connection.execute(sa.text("SELECT RELEASE_LOCK(:l)"), {"l": LOCK})

    try:
        return database.transaction(body, attempts=1)
    except DBAPIError as error:
        if code(error) != 1205:
            raise
        return {}  # the tables are busy: another time


def _maintain(connection: Connection, now: datetime, keep_from: datetime, cursor: int) -> dict[str, int]:
    done = {"made": 0, "dropped": 0, "tasks": 0, "cursor": 0, "more": 0}
    names = _names(connection)
    missing = [b for b in boundaries(now) if f"p{b:%Y%m%d}" not in names and f"p{b:%Y%m%d}" > max(names, default="")]
    if missing:
        connection.execute(sa.text(f"ALTER TABLE runs REORGANIZE PARTITION p_last INTO ({definition(missing)})"))
        done["made"] = len(missing)
    for name in names:
        if datetime.strptime(name, "p%Y%m%d") <= keep_from and _over(connection, name, keep_from):
            connection.execute(sa.text(f"ALTER TABLE runs DROP PARTITION {name}"))
            done["dropped"] += 1
    page = rows(connection, "SELECT id FROM tasks WHERE id > :c ORDER BY id LIMIT 500", c=cursor)
    done["cursor"] = page[-1]["id"] if len(page) == 500 else 0
    done["more"] += len(page) == 500
    if page:
        over = rows(
            connection,
            "SELECT t.id FROM tasks t LEFT JOIN runs r ON r.task_id = t.id WHERE t.id IN :ids"
            " AND COALESCE(t.run_at, t.run_at_local) < :keep AND t.next_run_at IS NULL AND t.updated_at < :keep"
            " AND r.id IS NULL",
            ids=[p["id"] for p in page],
            keep=keep_from,
        )
        ids = [row["id"] for row in over]
        if ids:
            done["tasks"] = changed(connection, "DELETE FROM tasks WHERE id IN :ids AND next_run_at IS NULL", ids=ids)
            changed(connection, "DELETE FROM task_events WHERE task_id IN :ids", ids=ids)
    oldest = connection.execute(sa.text("SELECT MIN(id) FROM runs")).scalar()
    if oldest:
        gone = changed(connection, "DELETE FROM attempts WHERE run_id < :o ORDER BY run_id LIMIT 500", o=oldest)
        done["more"] += gone == 500
    keys = rows(
        connection,
        "SELECT id FROM idempotency_keys WHERE created_at < :day ORDER BY created_at LIMIT 500",
        day=now - timedelta(days=1),
    )
    done["more"] += len(keys) == 500
    if keys:
        changed(connection, "DELETE FROM idempotency_keys WHERE id IN :ids", ids=[k["id"] for k in keys])
    return done


def _names(connection: Connection) -> list[str]:
    found = rows(
        connection,
        "SELECT partition_name AS name FROM information_schema.partitions"
        " WHERE table_schema = DATABASE() AND table_name = 'runs' AND partition_name <> 'p_last'",
    )
    return sorted(row["name"] for row in found)


def _over(connection: Connection, name: str, keep_from: datetime) -> bool:
    """No row of the partition lives, and none finished within the retention. Both stop at the first that does."""
    live = f"SELECT 1 FROM runs PARTITION ({name}) WHERE wake_at IS NOT NULL LIMIT 1"
    young = f"SELECT 1 FROM runs PARTITION ({name}) WHERE finished_at >= :keep LIMIT 1"
    return not rows(connection, live) and not rows(connection, young, keep=keep_from)
