"""Where a consumer dies in the proof `counter`: before and after every statement and COMMIT of start, work and finish.

The `life` of the process says at which of them, and at which of its occurrences; `tests.prove.failpoints` counts lives.
"""

import random
import re
import signal
import threading
from collections.abc import Callable
from typing import Any

from sqlalchemy import event
from sqlalchemy.dialects.mysql.pymysql import MySQLDialect_pymysql
from sqlalchemy.engine import Connection, Engine

START = {
    "start": r"^\s*UPDATE runs FORCE INDEX \(PRIMARY\) SET state = 'running'",
    "verdict": r"(?s)^\s*SELECT CONCAT_WS.*FROM runs r",
}
WORK = {
    "savepoint": r"^SAVEPOINT ",
    "fence": r"^SELECT COUNT\(\*\) FROM `\w+`\.runs",
    "insert": r"^INSERT INTO app\.counted",
    "update": r"^UPDATE app\.counter",
    "release": r"^RELEASE SAVEPOINT",
    "success": r"^UPDATE `\w+`\.runs FORCE INDEX \(PRIMARY\) SET state = 'succeeded'",
}
STATEMENTS = START | WORK
COMMITS = {"start-commit": START, "success-commit": WORK}
PLACES = [f"{when} {what}" for what in (*STATEMENTS, *COMMITS) for when in ("before", "after")]
PLACES += ["before acknowledgement"]  # finish: what is written is reported to Redis
FURTHEST = 3


def place(life: int) -> tuple[str, int]:
    """Where this life ends, and at which occurrence of it."""
    return PLACES[life % len(PLACES)], random.Random(life).randint(1, FURTHEST)


def install(life: Callable[[], int], die: Callable[[str, int, signal.Signals], None]) -> None:
    """This process dies at the place of its `life()`."""
    seen, latest, lock = [0], threading.local(), threading.Lock()

    def reach(what: str) -> None:
        wanted, nth = place(life())
        if what == wanted:
            with lock:
                seen[0] += 1
                if seen[0] == nth:
                    die(what.replace(" ", "-"), nth, signal.SIGKILL)

    def name(statement: str) -> str | None:
        return next((what for what, pattern in STATEMENTS.items() if re.search(pattern, statement)), None)

    @event.listens_for(Engine, "before_cursor_execute")
    def executing(c: Connection, cursor: Any, statement: str, *_: Any) -> None:
        if what := name(statement):
            reach(f"before {what}")

    @event.listens_for(Engine, "after_cursor_execute")
    def executed(c: Connection, cursor: Any, statement: str, *_: Any) -> None:
        if what := name(statement):
            latest.what = what
            reach(f"after {what}")

    commit = MySQLDialect_pymysql.do_commit

    def do_commit(self: Any, dbapi: Any) -> None:
        what = getattr(latest, "what", None)
        latest.what = None
        kind = next((kind for kind, among in COMMITS.items() if what in among), None)
        if kind:
            reach(f"before {kind}")
        commit(self, dbapi)
        if kind:
            reach(f"after {kind}")

    MySQLDialect_pymysql.do_commit = do_commit  # type: ignore[method-assign]

    from consumers.engine import Engine as Consumer

    report = Consumer._report

    def reported(self: Any, ended: Any, finished: Any) -> None:
        if ended:
            reach("before acknowledgement")
        report(self, ended, finished)

    Consumer._report = reported  # type: ignore[method-assign]
