"""Exactly once for MySQL effects: a handler's own rows and its run's success are committed by one transaction.

It has a connection of its own and locks no row of ours until its last statement, the finish under the run's fence: so
whatever the handler does in between, it never stands in the way of a claim, a start or a heartbeat. If the attempt is
not this process's any more, that statement matches nothing and everything is rolled back. If the process dies before
the COMMIT, nothing was written; if the COMMIT gets no answer, the run's row tells: while the lost session lives it
holds that row, so whoever gets its lock sees the end.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import DBAPIError, TimeoutError

from clockjack.endings import LeaseLost
from clockjack.ledger.database import AGAIN, SQL_MODE, Unavailable, code, is_lost
from clockjack.ledger.finish import SUCCEEDED
from clockjack.ledger.runs import LEASE_S, Held

__all__ = ["Connection", "Effects", "Engine", "Interrupted", "NotCommitted"]
STATEMENT_S = 30  # one statement of the handler's may take so long
SETTLE_S = 15.0
POINT = "clockjack_run"
GONE = 1305  # the savepoint
NOT_OURS = "the run is not this attempt's any more: nothing of the transaction was written"
OURS = "SELECT COUNT(*) FROM {runs} WHERE id = :id AND due_at = :due AND run_token = :token AND state = 'running'"
SUCCEED = (
    f"UPDATE {{runs}} FORCE INDEX (PRIMARY) SET {SUCCEEDED} WHERE id = :id AND due_at = :due AND attempt = :attempt"
    " AND run_token = :token AND state = 'running'"
)
SETTLED = (
    "SELECT state, attempt, run_token FROM {runs} FORCE INDEX (PRIMARY) WHERE id = :id AND due_at = :due FOR UPDATE"
)


class NotCommitted(Exception):
    """The connection died during COMMIT, and nothing of the transaction was written."""


class Interrupted(Exception):
    """The transaction of `run.transaction()` was ended within its block; what came before that may be written."""


class Closing(Protocol):
    """Who holds the run: told when its last statement comes, and whether it was committed."""

    def commits(self) -> None:
        """No stop is raised in this thread from now on; raises when one was."""

    def committed(self, ok: bool) -> None:
        """Whether the run has succeeded."""


class Effects:
    """Connections for handlers' transactions: none before the first, at most `size`."""

    def __init__(self, url: str, size: int) -> None:
        self._url, self._size = url, size
        self._engine: Engine | None = None
        self._lock = threading.Lock()

    @contextmanager
    def transaction(self, held: Held, closing: Closing, engine: Engine | None = None) -> Iterator[Connection]:
        """What the block writes through the connection, and the run's success, are committed when it ends, or nothing.

        `engine`: the caller's own, on the same server, with rights on the runs. Raises LeaseLost when the attempt is
        not this process's any more, NotCommitted, Interrupted, Unavailable (nobody can tell), what the block raises.
        """
        if engine is not None and not isinstance(engine, Engine):
            raise TypeError(f"run.transaction() takes a SQLAlchemy Engine, not {type(engine).__name__}")
        ok, engine = False, engine or self._own()
        try:
            with engine.connect() as connection:
                if engine is not self._engine:  # at REPEATABLE READ a heartbeat would be a change since its snapshot
                    connection.execution_options(isolation_level="READ COMMITTED")
                connection.begin()
                try:
                    connection.exec_driver_sql(f"SAVEPOINT {POINT}")
                    if not connection.execute(self._text(OURS), _key(held)).scalar():
                        raise LeaseLost(NOT_OURS)
                    yield connection
                    closing.commits()
                    self._finish(connection, held)
                except BaseException:
                    _roll_back(connection)
                    raise
                ok = _commit(connection)
            ok = ok or self._became_true(engine, held)
        finally:
            closing.committed(ok)
        if not ok:
            raise NotCommitted("the connection died during COMMIT: nothing of the transaction was written")

    def close(self) -> None:
        """The connections are closed."""
        if self._engine is not None:
            self._engine.dispose()

    def _finish(self, connection: Connection, held: Held) -> None:
        """The last statement: the run has succeeded, as far as this transaction can see."""
        try:
            connection.exec_driver_sql(f"RELEASE SAVEPOINT {POINT}")
        except DBAPIError as error:
            if code(error) != GONE:
                raise
            raise Interrupted("a COMMIT, ROLLBACK, deadlock or DDL ended the transaction within its block") from None
        if connection.execute(self._text(SUCCEED), _key(held) | {"attempt": held.attempt}).rowcount != 1:
            raise LeaseLost(NOT_OURS)

    def _became_true(self, engine: Engine, held: Held) -> bool:
        """Whether a COMMIT without an answer was carried out: the row's lock is free when its session is over."""
        give_up = time.monotonic() + SETTLE_S
        while True:
            try:
                with engine.connect() as connection:
                    row = connection.execute(self._text(SETTLED), _key(held)).first()
                    return row is not None and tuple(row) == ("succeeded", held.attempt, held.token)
            except (DBAPIError, TimeoutError) as error:
                if not is_lost(error) and code(error) not in AGAIN:
                    raise
                if time.monotonic() > give_up:
                    raise Unavailable("the database went away during COMMIT and does not answer") from error
            time.sleep(0.1)

    def _text(self, statement: str) -> sa.TextClause:
        return sa.text(statement.format(runs=self._runs))

    @cached_property
    def _runs(self) -> str:
        return f"`{make_url(self._url).database}`.runs"

    def _own(self) -> Engine:
        with self._lock:
            if self._engine is None:
                # cut by the server when idle for as long as a lease lasts: a frozen process's locks end with its lease
                limits = f"wait_timeout={LEASE_S}, net_read_timeout={LEASE_S}, net_write_timeout={LEASE_S}"
                self._engine = sa.create_engine(
                    self._url,
                    hide_parameters=True,
                    isolation_level="READ COMMITTED",
                    pool_size=self._size,
                    max_overflow=0,
                    pool_timeout=10,
                    pool_pre_ping=True,
                    pool_recycle=LEASE_S - 5,
                    connect_args={
                        "connect_timeout": 3,
                        "read_timeout": STATEMENT_S,
                        "write_timeout": STATEMENT_S,
                        "charset": "utf8mb4",
                        "init_command": f"SET SESSION time_zone='+00:00', sql_mode='{SQL_MODE}',"
                        f" innodb_lock_wait_timeout=5, lock_wait_timeout=5, {limits}",
                    },
                )
            return self._engine


def _key(held: Held) -> dict[str, Any]:
    return {"id": held.run_id, "due": held.due_at, "token": held.token}


def _roll_back(connection: Connection) -> None:
    try:
        connection.rollback()
    except Exception:
        connection.invalidate()


def _commit(connection: Connection) -> bool:
    """False: the connection died meanwhile, and nobody knows."""
    try:
        connection.commit()
    except BaseException as error:
        connection.invalidate()
        if isinstance(error, Exception) and is_lost(error):
            return False
        raise
    return True
