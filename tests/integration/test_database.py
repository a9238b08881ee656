"""Transactions: what is run again, what a lost COMMIT means, and the one clock."""

import socket
import threading
import time
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection

from clockjack.ledger.database import Clock, Database, Unavailable, UnknownCommit, changed, from_us, rows, to_us
from deploy import servers
from tests.integration.life import insert, select

pytestmark = pytest.mark.mysql


def test_a_lock_wait_runs_the_whole_body_again(database: Database, database_url: str) -> None:
    one = insert(database)
    blocker = sa.create_engine(database_url).connect()
    blocker.begin()
    blocker.execute(sa.text("SELECT id FROM tasks WHERE id = :i FOR UPDATE"), {"i": one})
    threading.Timer(2.5, blocker.rollback).start()
    calls = []

    def body(connection: Connection) -> int:
        calls.append(1)
        return changed(connection, "UPDATE tasks SET name = 'x' WHERE id = :i", i=one)

    assert database.transaction(body) == 1
    assert len(calls) == 2
    blocker.close()


def test_an_error_rolls_back_and_is_raised(database: Database) -> None:
    def body(connection: Connection) -> None:
        changed(connection, "INSERT INTO tasks (handler, cron) VALUES ('mock', '* * * * *')")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        database.transaction(body)
    assert select(database, "SELECT id FROM tasks") == []


def test_a_cheap_question_leaves_no_transaction_open(database: Database, migrated_url: str) -> None:
    assert not database.any("SELECT 1 FROM tasks")
    one = insert(database)
    assert database.any("SELECT 1 FROM tasks")
    with sa.create_engine(migrated_url).connect() as other:
        other.execute(sa.text("SET SESSION lock_wait_timeout = 1"))
        other.execute(sa.text("ALTER TABLE tasks COMMENT = ''"))  # waits for each transaction that read the table
    assert select(database, "SELECT id FROM tasks") == [{"id": one}]


def test_a_question_that_cannot_be_asked_is_answered_with_yes(database: Database) -> None:
    assert database.any("SELECT 1 FROM nothing_of_this_name")
    nobody = Database("mysql+pymysql://nobody@127.0.0.1:1/nothing", size=1)
    assert nobody.any("SELECT 1")


def test_sessions_are_strict_read_committed_and_cut_when_idle(database: Database) -> None:
    values = {
        r["Variable_name"]: r["Value"]
        for r in select(
            database,
            "SHOW SESSION VARIABLES WHERE Variable_name IN ('wait_timeout', 'net_read_timeout', 'net_write_timeout',"
            " 'time_zone', 'innodb_lock_wait_timeout', 'tx_isolation', 'transaction_isolation')",
        )
    }
    assert {values.pop("tx_isolation", "READ-COMMITTED"), values.pop("transaction_isolation", "READ-COMMITTED")} == {
        "READ-COMMITTED"
    }
    assert values == {
        "wait_timeout": "3",
        "net_read_timeout": "3",
        "net_write_timeout": "3",
        "time_zone": "+00:00",
        "innodb_lock_wait_timeout": "2",
    }


def test_a_session_that_the_server_cut_is_replaced_before_use(database: Database) -> None:
    database.now()
    time.sleep(3.5)
    assert database.transaction(lambda c: c.execute(sa.text("SELECT 1")).scalar_one()) == 1


class _Cut:
    """The next COMMIT's connection dies, before or after the server has it."""

    def __init__(self, database: Database, *, after: bool) -> None:
        self.database, self.after, self.armed = database, after, True

    def __enter__(self) -> None:
        event.listen(self.database._engine, "commit", self._commit)

    def __exit__(self, *exc: Any) -> None:
        event.remove(self.database._engine, "commit", self._commit)

    def _commit(self, connection: Connection) -> None:
        if self.armed:
            self.armed = False
            raw: Any = connection.connection.dbapi_connection
            if self.after:
                raw.commit()
            raw._sock.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("after", [True, False])
def test_a_commit_without_an_answer_is_settled_and_never_sent_again(database: Database, after: bool) -> None:
    def body(connection: Connection) -> None:
        changed(connection, "INSERT INTO tasks (handler, cron) VALUES ('mock', '* * * * *')")

    with _Cut(database, after=after), pytest.raises(UnknownCommit):
        database.transaction(body)
    assert len(select(database, "SELECT id FROM tasks")) == int(after)
    held = select(database, "SELECT COUNT(*) AS n FROM tasks FOR UPDATE")
    assert held == [{"n": int(after)}]


def test_a_server_that_is_away_is_unavailable_and_then_back(
    database: Database, database_server: servers.Server | None
) -> None:
    if database_server is None:
        pytest.skip("CLOCKJACK_TEST_MYSQL_URL is set: this test kills its database server")
    insert(database)
    database_server.kill()
    with pytest.raises(Unavailable):
        database.now()
    database_server.start()
    assert len(select(database, "SELECT id FROM tasks")) == 1


def test_a_frozen_holder_of_locks_is_cut_after_3_s(database: Database, database_url: str) -> None:
    """SKIP LOCKED hides what a frozen process holds, so its session must not outlive it for long."""
    one = insert(database)
    frozen = Database(database_url, size=1)
    entered, go_on = threading.Event(), threading.Event()

    def body(connection: Connection) -> None:
        rows(connection, "SELECT id FROM tasks WHERE id = :i FOR UPDATE", i=one)
        entered.set()
        go_on.wait(15)
        changed(connection, "UPDATE tasks SET name = 'zombie' WHERE id = :i", i=one)

    errors: list[BaseException] = []

    def hold() -> None:
        try:
            frozen.transaction(body, attempts=1)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait(5)
    seen = "SELECT id FROM tasks WHERE id = :i FOR UPDATE SKIP LOCKED"
    assert select(database, seen, i=one) == []
    give_up = time.monotonic() + 10
    while not select(database, seen, i=one):
        assert time.monotonic() < give_up
        time.sleep(0.1)
    go_on.set()
    thread.join()
    assert isinstance(errors[0], Unavailable)
    assert select(database, "SELECT name FROM tasks") == [{"name": None}]


def test_the_clock_is_never_ahead_and_follows_the_best_reading() -> None:
    at = [100.0]
    clock = Clock(lambda: at[0])
    start = datetime(2026, 1, 1)
    clock.observe(start)
    at[0] += 0.5
    assert clock.now() == start + timedelta(seconds=0.5)
    clock.observe(start + timedelta(seconds=0.4))  # a slow reply: older than what is known
    assert clock.now() == start + timedelta(seconds=0.5)
    clock.observe(start + timedelta(seconds=0.6))  # a better one
    assert clock.now() == start + timedelta(seconds=0.6)
    at[0] += 2
    clock.observe(start + timedelta(seconds=2.5))  # the database's clock is slower than ours: followed
    assert clock.now() == start + timedelta(seconds=2.5)
    assert clock.jumps == 0
    at[0] += 2
    clock.observe(start - timedelta(hours=1))
    assert clock.now() == start - timedelta(hours=1)
    assert clock.jumps == 1


def test_microseconds_are_exact() -> None:
    moment = datetime(2199, 12, 31, 23, 59, 59, 999_999)
    assert from_us(to_us(moment)) == moment
