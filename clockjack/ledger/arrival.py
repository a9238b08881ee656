"""What a registration asks the database before it writes: one statement, because each costs as much as an INSERT."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.engine import Connection

from clockjack.ledger.exact import moment, text
from clockjack.ledger.forecast import CAPPED
from clockjack.moments import FIRST

SECOND = timedelta(seconds=1)
KEY = "(SELECT id FROM idempotency_keys WHERE namespace = {namespace} AND idempotency_key = {key})"
CROWD = (
    "(SELECT COUNT(*) FROM (SELECT next_run_at FROM tasks FORCE INDEX (due) WHERE next_run_at >= {low}"
    " AND next_run_at < {until} LIMIT {most}) AS counted)"
)


@dataclass(frozen=True, slots=True)
class Arrival:
    """The database's time; whether an answer was given before; how many tasks are due in the second (None: not asked),
    counted up to one more than 1,000.
    """

    now: datetime = FIRST
    answered: bool = False
    crowd: int | None = None


def look(connection: Connection, due: datetime | None, key: tuple[str, str] | None) -> Arrival:
    """What is there when a registration of something due then comes with this namespace and Idempotency-Key."""
    crowd = "NULL"
    if due is not None:
        second = due.replace(microsecond=0)
        crowd = CROWD.format(low=moment(second), until=moment(second + SECOND), most=CAPPED + 1)
    answered = "NULL" if key is None else KEY.format(namespace=text(key[0]), key=text(key[1]))
    found = connection.exec_driver_sql(f"SELECT UTC_TIMESTAMP(6), {answered}, {crowd}").one()
    return Arrival(found[0], found[1] is not None, found[2])
