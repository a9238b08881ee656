"""A registration as a guest in somebody else's transaction, at whatever isolation level that has.

It commits nothing, and a savepoint sees to it that what it refuses leaves no trace. No row is sought with a lock that
may not be there: at REPEATABLE READ the gap that such a lock keeps makes the registrations of others wait, and two that
do so end in a deadlock.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Connection

from clockjack.ledger import tasks
from clockjack.ledger.database import DUPLICATE, rows
from clockjack.ledger.tasks import COLUMNS, Registered

NO_SAVEPOINT = 1305
SAVEPOINT = "SAVEPOINT clockjack_enqueue"
OF_KEY = "FROM tasks WHERE namespace = :n AND task_key = :k"


class NoTransaction(ValueError):
    """The connection commits each statement by itself."""


def register(
    connection: Any,
    namespace: str,
    fields: Callable[[datetime], dict[str, Any]],
    *,
    actor: str,
    database: str | None = None,
) -> Registered:
    """The task is registered in the transaction of `connection`, with the values that `fields` has at that moment.

    Whatever is raised, nothing of the registration is in the transaction.
    """
    guest = _guest(connection)
    with _inside(guest, database):
        _run(guest, SAVEPOINT)
        try:
            _run(guest, f"ROLLBACK TO {SAVEPOINT}")
        except Exception as error:
            if _number(error) != NO_SAVEPOINT:
                raise
            raise NoTransaction("the connection commits each statement by itself: begin a transaction first") from None
        try:
            made = _register(guest, namespace, fields(_now(guest)), actor)
        except BaseException:
            with suppress(Exception):  # of a lost connection, or of a deadlock: then all of it is undone already
                _run(guest, f"ROLLBACK TO {SAVEPOINT}")
                _run(guest, f"RELEASE {SAVEPOINT}")
            raise
        _run(guest, f"RELEASE {SAVEPOINT}")
    return made


def _register(guest: Connection, namespace: str, fields: dict[str, Any], actor: str) -> Registered:
    key = fields.get("task_key")
    known = rows(guest, f"SELECT id {OF_KEY}", n=namespace, k=key) if key is not None else []
    if known and (task := tasks.get(guest, namespace, known[0]["id"], lock=True)):
        return tasks.renew(guest, task, fields, actor=actor)
    try:
        return tasks.add(guest, namespace, fields, actor=actor)
    except Exception as error:
        if key is None or _number(error) != DUPLICATE:
            raise
    # committed by somebody else, after the moment that this transaction sees
    found = rows(guest, f"SELECT {COLUMNS} {OF_KEY} FOR UPDATE", n=namespace, k=key)
    return tasks.renew(guest, found[0], fields, actor=actor)


@contextmanager
def _inside(guest: Connection, database: str | None) -> Iterator[None]:
    """`database` is the connection's for this while."""
    if database is None:
        yield
        return
    if "`" in database or "\0" in database:
        raise ValueError("database: there is none of that name")
    before = guest.execute(sa.text("SELECT DATABASE()")).scalar_one()
    _run(guest, f"USE `{database}`")
    try:
        yield
    finally:
        if before is not None:
            with suppress(Exception):  # what is under way tells more
                _run(guest, f"USE `{before}`")


def _run(guest: Connection, sql: str) -> None:
    guest.execute(sa.text(sql.replace(":", "\\:")))


def _now(guest: Connection) -> datetime:
    return cast(datetime, guest.execute(sa.text("SELECT UTC_TIMESTAMP(6)")).scalar_one())


def _number(error: BaseException) -> int | None:
    args = getattr(getattr(error, "orig", None) or error, "args", ())
    return args[0] if args and isinstance(args[0], int) else None


def _guest(connection: Any) -> Connection:
    """What the ledger's functions take for a connection."""
    if hasattr(connection, "run_sync"):
        raise TypeError("an asynchronous connection: call it by `await connection.run_sync(enqueue, …)`")
    if not isinstance(connection, Connection):
        if callable(getattr(connection, "cursor", None)):
            return cast(Connection, _Plain(connection))
        found = connection.connection() if callable(getattr(connection, "connection", None)) else None
        if not isinstance(found, Connection):
            raise TypeError(f"expected a connection of SQLAlchemy or of a DB-API driver, not {type(connection)}")
    else:
        found = connection
    if found.dialect.name not in ("mysql", "mariadb"):
        raise TypeError(f"expected a connection to MySQL or MariaDB, not to {found.dialect.name}")
    return found


class _Plain:
    """A DB-API connection with the one method of SQLAlchemy's that registration uses."""

    def __init__(self, dbapi: Any) -> None:
        self._dbapi = dbapi

    def execute(self, clause: sa.TextClause, values: Mapping[str, Any] | None = None) -> "_Answer":
        sql, names = _compiled(clause)
        cursor = self._dbapi.cursor()
        try:
            cursor.execute(sql, tuple((values or {})[name] for name in names))
            return _Answer(cursor)
        finally:
            cursor.close()


class _Answer:
    """What a cursor has to say, in plain values, whatever its rows are made of."""

    def __init__(self, cursor: Any) -> None:
        self.rowcount, self.lastrowid = cursor.rowcount, cursor.lastrowid
        self._names = [column[0] for column in cursor.description or ()]
        self._rows = [self._plain(row) for row in cursor.fetchall()] if self._names else []

    def _plain(self, row: Any) -> tuple[Any, ...]:
        values = [row[name] for name in self._names] if isinstance(row, Mapping) else row
        return tuple(value.decode() if isinstance(value, bytes) else value for value in values)

    def keys(self) -> list[str]:
        return self._names

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self._rows)

    def scalar_one(self) -> Any:
        return self._rows[0][0]


_DIALECT = mysql.dialect(paramstyle="format")
_statements: dict[str, tuple[str, tuple[str, ...]]] = {}


def _compiled(clause: sa.TextClause) -> tuple[str, tuple[str, ...]]:
    """The statement with `%s`, and the names of what goes there."""
    known = _statements.get(clause.text)
    if known is None:
        found = clause.compile(dialect=_DIALECT)
        known = str(found), tuple(found.positiontup or ())
        if len(_statements) < 200:
            _statements[clause.text] = known
    return known
