"""Statements about many rows, written out: their numbers and times are literals, so that nothing binds them.

A batch of 500 runs would have thousands of parameters, and each would cost more than its row. Numbers and datetimes are
written as they are, bytes and texts as hexadecimal digits, which no statement can mistake for anything else.
"""

import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.engine import Connection

from clockjack.ledger.database import rows

Key = tuple[int, datetime]
# of a locked run: READY, to be looked at at {wake}; but CANCELLED where somebody has asked it to stop
READY_AGAIN = (
    "state = IF(cancel_asked_at IS NULL, 'ready', 'cancelled'), wake_at = IF(cancel_asked_at IS NULL, {wake}, NULL),"
    " live_task_id = IF(cancel_asked_at IS NULL, live_task_id, NULL),"
    " reason = IF(cancel_asked_at IS NULL, reason, 'run_cancelled'),"
    " finished_at = IF(cancel_asked_at IS NULL, finished_at, UTC_TIMESTAMP(6))"
)


def moment(when: datetime | None) -> str:
    """A naive UTC datetime as a literal."""
    return "NULL" if when is None else f"'{when}'"


def text(value: str | None) -> str:
    """A text as a literal of nothing but hexadecimal digits: escaping would cost more than the rest of its row."""
    return "NULL" if value is None else f"_utf8mb4 X'{value.encode().hex()}'"


def literal(value: object) -> str:
    """The value of a column as a literal."""
    match value:
        case str() | None:
            return text(value)
        case datetime():
            return moment(value)
        case int() | float():
            return repr(value)
    raise TypeError(f"no column holds a {type(value)}")


def among(keys: Sequence[Key], alias: str = "") -> str:
    """The condition that finds the runs `keys` by id, and names the partitions by the range of their due times."""
    dues = {due for _, due in keys}
    low, high = min(dues), max(dues)
    between = f"= {moment(low)}" if low == high else f"BETWEEN {moment(low)} AND {moment(high)}"
    return f"{alias}id IN ({_numbers(run_id for run_id, _ in keys)}) AND {alias}due_at {between}"


def points(keys: Iterable[Key]) -> str:
    """The condition that names each run by its whole primary key.

    A range over ids would also touch the row behind it, wait there while somebody holds that one, and so could deadlock
    with another that does the same.
    """
    by_due: dict[datetime, list[int]] = {}
    for run_id, due_at in keys:
        by_due.setdefault(due_at, []).append(run_id)
    parts = [
        f"(due_at = {moment(due)} AND id IN ({_numbers(ids)}))"
        for due, ids in sorted(by_due.items(), key=lambda item: min(item[1]))
    ]
    return f"({' OR '.join(parts)})"


def _numbers(ids: Iterable[int]) -> str:
    return ",".join(map(int.__repr__, sorted(set(ids))))  # nothing but an integer has this text


def token(value: bytes) -> str:
    """A run token as a literal."""
    return f"x'{value.hex()}'"


def lock_soon(connection: Connection, sql: str, ids: Sequence[int]) -> list[dict[str, Any]]:
    """What `sql` (… WHERE id IN :ids … FOR UPDATE SKIP LOCKED) finds, tried for 0.15 s until it finds them all.

    So it waits for whoever holds a row briefly, and never long enough to matter to the other rows of a batch.
    """
    for pause_s in (0.01, 0.02, 0.04, 0.08):
        found = rows(connection, sql, ids=list(ids))
        if len(found) == len(ids):
            return found
        time.sleep(pause_s)
    return rows(connection, sql, ids=list(ids))


def update_locked(connection: Connection, keys: Sequence[Key], sets: str, *values: Any) -> int:
    """The runs `keys`, which this transaction has locked, are updated; `sets` takes `values` at its %s."""
    return int(
        connection.exec_driver_sql(
            f"UPDATE runs FORCE INDEX (PRIMARY) SET {sets} WHERE {points(keys)}", values
        ).rowcount
    )
