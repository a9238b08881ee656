"""What a registration asks the database before it writes: one statement, because each costs as much as an INSERT."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.engine import Connection

from clockjack.ledger.exact import moment
from clockjack.ledger.forecast import CAPPED

SECOND = timedelta(seconds=1)
CROWD = (
    "(SELECT COUNT(*) FROM (SELECT next_run_at FROM tasks FORCE INDEX (due) WHERE next_run_at >= {low}"
    " AND next_run_at < {until} LIMIT {most}) AS counted)"
)


@dataclass(frozen=True, slots=True)
class Arrival:
    """The database's time; how many tasks are due in the second, counted up to 1,001 (None: not asked)."""

    now: datetime
    crowd: int | None


def look(connection: Connection, due: datetime | None) -> Arrival:
    """What is there when a registration of something due then comes."""
    crowd = "NULL"
    if due is not None:
        second = due.replace(microsecond=0)
        crowd = CROWD.format(low=moment(second), until=moment(second + SECOND), most=CAPPED + 1)
    now, many = connection.exec_driver_sql(f"SELECT UTC_TIMESTAMP(6), {crowd}").one()
    return Arrival(now, many)
