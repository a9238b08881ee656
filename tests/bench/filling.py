"""Tables filled inside the server by INSERT … SELECT: tasks of the far future, and runs that are over."""

from collections.abc import Callable
from typing import Any

from clockjack.ledger.database import Database

AT_ONCE = 100_000
DIGITS = "(SELECT 0 AS d" + "".join(f" UNION ALL SELECT {i}" for i in range(1, 10)) + ")"
NUMBERS = (  # 0 to 99,999, on MariaDB and MySQL alike
    "SELECT a.d + 10 * b.d + 100 * c.d + 1000 * e.d + 10000 * f.d AS n"
    f" FROM {DIGITS} a, {DIGITS} b, {DIGITS} c, {DIGITS} e, {DIGITS} f"
)
FAR = 1_000_000_000_000  # task ids of runs whose tasks are gone
TASKS = (
    "INSERT INTO tasks (handler, payload, run_at, version, seen_state, seen_schedule_version)"
    " SELECT 'bench.mark', '{{}}', '2100-01-01' + INTERVAL ({first} + n) * 1000 MICROSECOND, 1, 'active', 1"
    " FROM ({numbers}) numbers WHERE n < {number}"
)
RUNS = (
    "INSERT INTO runs (task_id, due_at, schedule_version, queue, state, attempt, claimed_at, first_started_at,"
    " started_at, finished_at, worker) SELECT {far} + {first} + n, t, 1, 'default', 'succeeded', 1, t, t, t, t, 'bench'"
    " FROM (SELECT n, UTC_TIMESTAMP(6) - INTERVAL ({first} + n) * 1000 MICROSECOND AS t FROM ({numbers}) numbers"
    " WHERE n < {number}) due"
)


def future_tasks(database: Database, number: int) -> None:
    """So many tasks more, due from the year 2100 on, 1,000 a second."""
    _fill(database, TASKS, number)


def past_runs(database: Database, number: int) -> None:
    """So many succeeded runs more, 1,000 a second, the youngest due now."""
    _fill(database, RUNS, number)


def _fill(database: Database, statement: str, number: int) -> None:
    for first in range(0, number, AT_ONCE):
        part = min(AT_ONCE, number - first)
        sql = statement.format(far=FAR, first=first, number=part, numbers=NUMBERS)
        database.transaction(_execute(sql), attempts=1)


def _execute(sql: str) -> Callable[[Any], None]:
    def body(connection: Any) -> None:
        connection.exec_driver_sql("SET SESSION sql_log_bin = 0")  # it can be made again; the log would be as large
        connection.exec_driver_sql(sql)

    return body
