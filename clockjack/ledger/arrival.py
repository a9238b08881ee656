"""What a registration asks the database before it writes: one statement, because each costs as much as an INSERT."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.engine import Connection

from clockjack.ledger.exact import moment, text
from clockjack.ledger.forecast import CAPPED
from clockjack.moments import FIRST

SECOND = timedelta(seconds=1)
KEY = (
    " FROM (SELECT 1 AS one) AS one LEFT JOIN idempotency_keys k"
    " ON k.namespace = {namespace} AND k.idempotency_key = {key}"
)
CROWD = (
    "(SELECT COUNT(*) FROM (SELECT next_run_at FROM tasks FORCE INDEX (due) WHERE next_run_at >= {low}"
    " AND next_run_at < {until} LIMIT {most}) AS counted)"
)


@dataclass(frozen=True, slots=True)
class Arrival:
    """The database's time; the answer that was given before, if any; how many tasks are due in the second (None: not
    asked), counted up to one more than 1,000.
    """

    now: datetime = FIRST
    before: dict[str, Any] | None = None
    crowd: int | None = None


def look(connection: Connection, namespace: str, key: str | None, due: datetime | None) -> Arrival:
    """What is there when a registration comes, with this Idempotency-Key if it has one, for something due then."""
    crowd = "NULL"
    if due is not None:
        second = due.replace(microsecond=0)
        crowd = CROWD.format(low=moment(second), until=moment(second + SECOND), most=CAPPED + 1)
    where = KEY.format(namespace=text(namespace), key=text(key)) if key is not None else ""
    columns = ", k.request_hash, k.status, k.answer" if key is not None else ""
    found = connection.exec_driver_sql(f"SELECT UTC_TIMESTAMP(6), {crowd}{columns}{where}").one()
    before = None
    if key is not None and found[2] is not None:
        before = dict(zip(("request_hash", "status", "answer"), found[2:], strict=True))
    return Arrival(found[0], before, found[1])
