"""Where an operation can be stopped: before each of its statements, its COMMITs and its calls of Redis.

They hang on the events of SQLAlchemy and on the pool of the Redis client; the product has none and knows of none.
A COMMIT and what follows it are two points, so that another operation also comes in right after the COMMIT.
"""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from clockjack.ledger.clock import Clock
from clockjack.ledger.database import Database, code
from clockjack.queues import Queues

STATEMENT = timedelta(milliseconds=1)
STUCK_S = 15.0
LOCKING = {1205, 1213}


class Time:
    """The one moment that all sessions and all processes of a test live at. Each statement takes 1 ms."""

    def __init__(self, at: datetime) -> None:
        self.at, self._base, self._lock = at, at, threading.Lock()

    def on(self, by: timedelta | float = STATEMENT) -> datetime:
        """It is so much later; returns the moment."""
        with self._lock:
            self.at += by if isinstance(by, timedelta) else timedelta(seconds=by)
            return self.at

    def seconds(self) -> float:
        """As a monotonic clock tells it."""
        return (self.at - self._base).total_seconds()

    def clock(self) -> Clock:
        """A process's reading of this time: exact."""
        return Clock(self.seconds)


class Stopped:
    """An operation on a thread of its own, stopped before its `nth` point (None: nowhere) until `go` is set."""

    def __init__(self, work: Callable[[], Any], nth: int | None = None) -> None:
        self.nth, self.passed = nth, list[str]()
        self.here, self.go = threading.Event(), threading.Event()  # here: it has stopped or ended
        self.over, self.error = False, None
        self._work = work
        self.thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> "Stopped":
        self.thread.start()
        return self

    def join(self) -> None:
        """It has gone on to its end."""
        self.go.set()
        self.thread.join(STUCK_S)
        assert not self.thread.is_alive(), f"stuck after {self.passed[-1:]}"

    def reach(self, what: str) -> None:
        self.passed.append(what)
        if len(self.passed) - 1 == self.nth:
            self.here.set()
            self.go.wait(STUCK_S)

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self.error = error
        self.over = True
        self.here.set()


class Failpoints:
    """The points of everything that is done through this database and these queues, and `time` as their clock."""

    def __init__(self, database: Database, queues: Queues, time: Time) -> None:
        self.time, self.stops, self.locking = time, dict[threading.Thread, Stopped](), list[int]()
        engine = database._engine
        event.listen(engine, "before_cursor_execute", self._statement)
        event.listen(engine, "commit", lambda connection: self._reach("COMMIT"))
        event.listen(engine, "handle_error", self._error)
        pool = queues.redis.connection_pool
        connection = pool.get_connection
        pool.get_connection = lambda *a, **k: (self._reach("REDIS"), connection(*a, **k))[1]

    def run(self, work: Callable[[], Any], nth: int | None = None) -> Stopped:
        """`work` has begun on its own thread, and stops before its `nth` point if that is given."""
        one = Stopped(work, nth)
        self.stops[one.thread] = one
        return one.start()

    def _reach(self, what: str) -> None:
        one = self.stops.get(threading.current_thread())
        if one is not None:
            one.reach(what)

    def _statement(self, connection: Any, cursor: Any, text: str, *_: Any) -> None:
        self._reach(" ".join(text.split()[:3]))
        with cursor.connection.cursor() as ours:  # the statement's own time: it may have been stopped for long
            ours.execute(f"SET SESSION timestamp = {self.time.on().replace(tzinfo=UTC).timestamp():.6f}")

    def _error(self, context: Any) -> None:
        if (number := code(context.sqlalchemy_exception or context.original_exception)) in LOCKING:
            self.locking.append(number)


def waits_for_a_lock(connection: sa.Connection) -> bool:
    """Whether any session waits for a row's lock at this instant."""
    found = connection.exec_driver_sql("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'").first()
    return bool(found and int(found[1]))
