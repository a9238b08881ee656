"""Connections, transactions and the one clock.

The rules that every transaction here keeps (docs/design.md, "Locking"):

* READ COMMITTED, UTC, strict SQL mode, short lock waits.
* A connection that can hold row locks is cut by the server after 3 s without a statement, because SKIP LOCKED hides the
  rows that a frozen process holds. So it is pinged before use when it was idle, and replaced when it was idle too long.
* Deadlock (1213), lock wait (1205) and changed snapshot (1020) roll back and run the whole body again.
* A connection that dies while COMMIT is under way leaves its outcome unknown. The COMMIT is never sent again: the old
  session is ended first, then `UnknownCommit` tells the caller, who asks the tables what became true.
"""

import contextlib
import logging
import random
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

import pymysql
import sqlalchemy as sa
from pymysql.constants import FIELD_TYPE
from pymysql.converters import conversions
from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, DisconnectionError, SQLAlchemyError, TimeoutError

from clockjack.ledger.clock import Clock, LoginRefused, Unavailable, from_us, to_us

__all__ = [
    "Clock",
    "Connection",
    "Database",
    "LoginRefused",
    "Unavailable",
    "UnknownCommit",
    "changed",
    "chunks",
    "code",
    "from_us",
    "inserted",
    "is_lost",
    "rows",
    "statement",
    "to_us",
]
log = logging.getLogger("clockjack.ledger")
T = TypeVar("T")

AGAIN = {1213, 1205, 1020}
LOGIN = {1044, 1045, 1049, 1698}  # wrong user, password or database
LOST = {
    0,
    1040,
    1053,
    1077,
    1079,
    1152,
    1158,
    1159,
    1160,
    1161,
    1203,
    1290,
    1836,
    1927,
    2002,
    2003,
    2006,
    2013,
    2014,
    2055,
    4031,
}
# no room on a disk, no memory: whatever statement meets it, neither the statement nor its rows are at fault
LOST |= {1021, 1026, 1030, 1037, 1038, 1041, 1114, 1135, 1206, 1598}
DUPLICATE = 1062
IDLE_PING_S, IDLE_DROP_S = 0.5, 2.0
SQL_MODE = "STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"


def _datetime(text: str | bytes) -> Any:
    """A DATETIME as it comes; what is none (a zero date) stays the text that it is."""
    text = text if isinstance(text, str) else text.decode()
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return text


# the driver's own take a hundred times as long, and times are most of what we read and write
_CONVERSIONS = {
    **conversions,
    FIELD_TYPE.DATETIME: _datetime,
    FIELD_TYPE.TIMESTAMP: _datetime,
    datetime: lambda when, mapping: f"'{when}'",
}


class UnknownCommit(Exception):
    """The connection died during COMMIT; its session is over, so the tables now tell what became true."""


def code(error: BaseException) -> int | None:
    """The server's or driver's error number, or None when the error is not the database's."""
    args = getattr(getattr(error, "orig", None), "args", ())
    return args[0] if isinstance(error, DBAPIError) and args and isinstance(args[0], int) else None


def is_lost(error: BaseException) -> bool:
    """True when the error says that the connection or the server is gone, rather than that a statement is wrong."""
    if isinstance(error, DBAPIError):
        return bool(error.connection_invalidated) or code(error) in LOST or code(error) is None
    return isinstance(error, (TimeoutError, DisconnectionError, OSError))


class Database:
    """A pool of sessions with the rules above, and the clock that is read through them.

    `locks=False` is for long-lived readers and migrations: their sessions are not cut after 3 s.
    """

    def __init__(self, url: str, *, size: int = 4, locks: bool = True, lock_wait_s: int = 2) -> None:
        idle_s = 3 if locks else 600
        self.clock = Clock()
        self.url = url
        self._engine = sa.create_engine(
            url,
            hide_parameters=True,  # an error's text must not carry a payload into a log
            isolation_level="READ COMMITTED",
            pool_size=size,
            max_overflow=0,
            pool_timeout=5,
            pool_use_lifo=True,
            pool_reset_on_return=None,  # `_once` ends every transaction itself: a ROLLBACK more would be a round trip
            connect_args={
                "connect_timeout": 3,
                "read_timeout": 5 if locks else 600,
                "write_timeout": 5,
                "charset": "utf8mb4",
                "conv": _CONVERSIONS,
                "init_command": (
                    f"SET SESSION time_zone='+00:00', sql_mode='{SQL_MODE}', innodb_lock_wait_timeout={lock_wait_s},"
                    f" lock_wait_timeout=5, wait_timeout={idle_s}, net_read_timeout={idle_s},"
                    f" net_write_timeout={idle_s}"
                ),
            },
        )
        event.listen(self._engine, "connect", self._opened)
        event.listen(self._engine, "checkin", self._returned)
        event.listen(self._engine, "checkout", self._taken)
        self._idle_ping_s, self._idle_drop_s = (IDLE_PING_S, IDLE_DROP_S) if locks else (60.0, 500.0)

    def transaction(self, body: Callable[[Connection], T], *, attempts: int = 5) -> T:
        """`body(connection)` ran in one committed transaction; its value is returned.

        `body` may be run again, so it must not do anything but SQL. Raises `Unavailable` when the database cannot be
        reached (`LoginRefused` when it lets nobody in), `UnknownCommit` when the connection died during COMMIT, and
        what `body` raises, rolled back.
        """
        for attempt in range(1, attempts + 1):
            try:
                return self._once(body)
            except UnknownCommit:
                raise
            except Exception as error:
                if (number := code(error)) in LOGIN:
                    raise LoginRefused(f"the database refuses the login ({number}): {_plain(error)}") from error
                retry = number in AGAIN
                if not retry and not is_lost(error):
                    raise
                if attempt == attempts or (not retry and attempt >= 2):
                    if retry:
                        raise
                    raise Unavailable(f"the database cannot be reached: {_plain(error)}") from error
                log.info("transaction runs again", extra={"action": "tx_again", "code": code(error)})
                time.sleep(random.uniform(0, 0.01 * 2**attempt))
        raise AssertionError("unreachable")

    def now(self) -> datetime:
        """The database's time, read now."""
        return self.transaction(
            lambda c: self.clock.observe(c.execute(sa.text("SELECT UTC_TIMESTAMP(6)")).scalar_one())
        )

    def any(self, sql: str) -> bool:
        """Whether the statement finds a row: one cheap question before a transaction that mostly has nothing to do.

        True as well when the database does not answer: the transaction will say why.
        """
        try:
            with contextlib.closing(self._engine.raw_connection()) as connection:
                cursor = connection.cursor()
                cursor.execute(sql)
                found = cursor.fetchone() is not None
                connection.rollback()  # a table that was read in a transaction cannot be altered until its end
                return found
        except (pymysql.MySQLError, SQLAlchemyError, OSError):
            return True

    def close(self) -> None:
        """All sessions are closed."""
        self._engine.dispose()

    def _once(self, body: Callable[[Connection], T]) -> T:
        with self._engine.connect() as connection:
            session = str(connection.connection.info.get("session"))
            transaction = connection.begin()
            try:
                value = body(connection)
            except BaseException:
                try:
                    transaction.rollback()
                except Exception:
                    connection.invalidate()
                raise
            try:
                transaction.commit()
            except Exception as error:
                connection.invalidate()
                if not is_lost(error):
                    raise
            else:
                return value
        self._end_session(session)
        raise UnknownCommit("the connection died during COMMIT")

    def _end_session(self, session: str) -> None:
        """The lost session has ended: what it committed is visible and it will commit nothing more.

        A session holds a named lock from its birth to its end, so the lock's holder is that session and no other,
        also after a restart of the server that numbers its sessions anew. Raises Unavailable when it cannot be told.
        """
        give_up = time.monotonic() + 10
        killed = False
        while time.monotonic() < give_up:
            try:
                with self._engine.connect() as connection:
                    holder = connection.execute(sa.text("SELECT IS_USED_LOCK(:s)"), {"s": session}).scalar_one()
                    if holder is None:
                        return
                    if not killed:
                        connection.exec_driver_sql(f"KILL {int(holder)}")
                        killed = True
            except (DBAPIError, TimeoutError) as error:
                if not is_lost(error) and code(error) != 1094:
                    raise
            time.sleep(0.05)
        raise Unavailable("the database went away during COMMIT and does not answer")

    def _opened(self, dbapi: Any, record: Any) -> None:
        session = f"clockjack.{uuid.uuid4().hex}"
        with dbapi.cursor() as cursor:
            cursor.execute("SELECT GET_LOCK(%s, 0)", (session,))
        dbapi.rollback()
        record.info["session"], record.info["used"] = session, time.monotonic()

    def _returned(self, dbapi: Any, record: Any) -> None:
        record.info["used"] = time.monotonic()

    def _taken(self, dbapi: Any, record: Any, proxy: Any) -> None:
        idle_s = time.monotonic() - record.info.get("used", 0)
        if idle_s < self._idle_ping_s:
            return
        if idle_s > self._idle_drop_s:
            raise DisconnectionError("idle too long")
        try:
            dbapi.ping(reconnect=False)
        except Exception:
            raise DisconnectionError("the server closed it") from None


def _plain(error: BaseException) -> str:
    args = getattr(getattr(error, "orig", None), "args", None)
    return str(args[1]) if args and len(args) > 1 else type(error).__name__


def rows(connection: Connection, sql: str, **values: Any) -> list[dict[str, Any]]:
    """The rows of a statement as dictionaries, lists in `values` expanded for IN."""
    result = connection.execute(statement(sql, values), values)
    names = tuple(result.keys())
    return [dict(zip(names, row, strict=True)) for row in result]


def changed(connection: Connection, sql: str, **values: Any) -> int:
    """How many rows the statement matched (the driver reports matched, not altered, rows)."""
    return int(connection.execute(statement(sql, values), values).rowcount)


def inserted(connection: Connection, sql: str, **values: Any) -> int:
    """The first id that the INSERT was given."""
    return int(connection.execute(sa.text(sql), values).lastrowid or 0)


_statements: dict[tuple[str, frozenset[str]], sa.TextClause] = {}


def statement(sql: str, values: dict[str, Any]) -> sa.TextClause:
    """A text clause in which every list value is an expanding parameter; cached."""
    lists = frozenset(k for k, v in values.items() if isinstance(v, (list, tuple)))
    clause = _statements.get((sql, lists))
    if clause is None:
        clause = sa.text(sql).bindparams(*(sa.bindparam(k, expanding=True) for k in lists))
        if len(_statements) < 500:
            _statements[sql, lists] = clause
    return clause


def chunks(items: Sequence[T], size: int = 500) -> list[Sequence[T]]:
    """`items` cut into pieces of at most `size`."""
    return [items[i : i + size] for i in range(0, len(items), size)]
