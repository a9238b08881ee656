"""`clockjack.enqueue`: a registration in the caller's own transaction, on each kind of connection."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pymysql
import pytest
import sqlalchemy as sa
from pymysql.cursors import Cursor, DictCursor
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

from clockjack import Refused, enqueue
from clockjack.ledger import control, tasks
from clockjack.ledger.database import Database
from clockjack.registration import fields, new_task
from tests.integration.life import claim_all, deadlocks, insert, run_of, select, sql, start, task

pytestmark = pytest.mark.mysql
FUTURE = datetime(2030, 1, 1, tzinfo=UTC)
SHOP = "clockjack_shop"


@dataclass
class Caller:
    """A service with a transaction of its own on the server."""

    connection: Any
    run: Callable[[str], Any]

    def commit(self) -> None:
        self.connection.commit()

    def rollback(self) -> None:
        self.connection.rollback()


class Positional(Cursor):
    """A cursor that takes nothing but `%s` with a tuple, and gives texts as bytes, as some versions of drivers do."""

    def execute(self, query: str, args: Any = None) -> int:
        assert isinstance(args, tuple | None)
        return int(super().execute(query, args))

    def fetchall(self) -> Any:
        return [tuple(v.encode() if isinstance(v, str) else v for v in row) for row in super().fetchall()]


def plain(url: str, cursor: type[Cursor], **options: Any) -> Any:
    found = make_url(url)
    return pymysql.connect(
        unix_socket=found.query["unix_socket"],
        user=found.username,
        password=found.password or "",
        database=found.database,
        charset="utf8mb4",
        cursorclass=cursor,
        **options,
    )


KINDS = ("connection", "session", "pymysql", "dictionaries", "positional")


def open_caller(kind: str, url: str, isolation: str = "REPEATABLE READ") -> tuple[Caller, Callable[[], None]]:
    if kind in ("connection", "session"):
        engine = sa.create_engine(url, isolation_level=isolation, pool_size=1, max_overflow=0, pool_timeout=1)
        caller: Any = Session(engine) if kind == "session" else engine.connect()
        return Caller(caller, lambda s: caller.execute(sa.text(s))), lambda: (caller.close(), engine.dispose())
    cursors = {"pymysql": Cursor, "dictionaries": DictCursor, "positional": Positional}
    dbapi = plain(url, cursors[kind])

    def run(statement: str) -> None:
        with dbapi.cursor() as cursor:
            cursor.execute(statement)

    run(f"SET SESSION TRANSACTION ISOLATION LEVEL {isolation}")
    return Caller(dbapi, run), dbapi.close


@pytest.fixture
def url(users: dict[str, str]) -> str:
    """Of a service that has the rights of deploy/grants.sql, and no more."""
    return users["python_producer"]


@pytest.fixture(params=KINDS)
def caller(request: pytest.FixtureRequest, url: str, database: Database) -> Iterator[Caller]:
    found, close = open_caller(request.param, url)
    yield found
    close()


@pytest.fixture
def shop(database: Database, owner_url: str) -> Iterator[str]:
    """Another database on the same server; the URL of who owns both."""
    sql(database, f"CREATE DATABASE IF NOT EXISTS {SHOP}")
    sql(database, f"CREATE TABLE IF NOT EXISTS {SHOP}.orders (id INT PRIMARY KEY)")
    sql(database, f"DELETE FROM {SHOP}.orders")
    yield make_url(owner_url).set(database=SHOP).render_as_string(hide_password=False)
    sql(database, f"DROP DATABASE {SHOP}")


def ids(database: Database) -> list[int]:
    return [row["id"] for row in select(database, "SELECT id FROM tasks ORDER BY id")]


def test_it_is_there_when_the_caller_commits_and_not_before(caller: Caller, database: Database) -> None:
    made = enqueue(caller.connection, "mock", {"ü": "☂"}, run_at=FUTURE)
    assert ids(database) == []
    caller.commit()
    assert ids(database) == [made]


def test_it_never_was_when_the_caller_rolls_back(caller: Caller, database: Database) -> None:
    enqueue(caller.connection, "mock", every_s=60, task_key="k")
    caller.rollback()
    assert ids(database) == []
    assert select(database, "SELECT id FROM task_events") == []
    enqueue(caller.connection, "mock", every_s=60, task_key="k")
    caller.commit()
    assert len(ids(database)) == 1


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("kind", ["connection", "pymysql"])
def test_the_callers_own_rows_and_the_task_are_there_together(
    kind: str, commits: bool, shop: str, database: Database
) -> None:
    caller, close = open_caller(kind, shop)
    caller.run("INSERT INTO orders VALUES (7)")
    made = enqueue(caller.connection, "mock", {"order": 7}, in_s=60, database="clockjack")
    caller.run("INSERT INTO orders VALUES (8)")  # the connection is in its own database again
    caller.commit() if commits else caller.rollback()
    close()
    assert [row["id"] for row in select(database, f"SELECT id FROM {SHOP}.orders")] == ([7, 8] if commits else [])
    assert ids(database) == ([made] if commits else [])


DOCUMENTS: list[dict[str, Any]] = [
    {"handler": "mock", "payload": {"a": [1]}, "run_at": "2030-01-01T00:00:00Z", "queue": "q", "tags": ["a", "b"]},
    {"handler": "mock", "cron": "H 3 * * *", "timezone": "Europe/Berlin", "overlap": "skip", "name": "n"},
    {"handler": "mock", "rrule": "FREQ=DAILY", "exclude": ["2030-01-01"], "jitter_s": 60, "max_runs": 3},
    {"handler": "mock", "every_s": 60, "start_at": "2030-01-01T00:00:00Z", "timeout_s": 5, "misfire": "all"},
]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_row_is_that_of_the_other_doors(document: dict[str, Any], url: str, database: Database) -> None:
    for kind in KINDS:
        caller, close = open_caller(kind, url)
        made = enqueue(caller.connection, **document)
        caller.commit()
        close()
        values = fields(new_task(document), database.now())
        other = database.transaction(lambda c, v=values: tasks.register(c, "default", v, actor="python")).task
        mine, theirs = task(database, made), task(database, other["id"])
        apart = {"id", "created_at", "updated_at", "next_run_at"}
        assert {k: v for k, v in mine.items() if k not in apart} == {k: v for k, v in theirs.items() if k not in apart}
        assert mine["next_run_at"] > database.now()
        events = select(database, "SELECT actor, action, version, detail FROM task_events ORDER BY id DESC LIMIT 2")
        assert events[0] == events[1]


def test_what_is_refused_names_the_field_and_leaves_the_transaction_as_it_was(
    caller: Caller, database: Database
) -> None:
    first = enqueue(caller.connection, "mock", every_s=60)
    excluded = [f"{year}-01-01/{year}-12-31" for year in range(2026, 2200)]
    for wrong, field in (
        ({"cron": "61 * * * *"}, "cron"),
        ({"every_s": 60, "run_at": FUTURE}, "every_s"),
        ({"every_s": 60, "colour": "red"}, "colour"),
        ({"every_s": 60, "task_key": " k"}, "task_key"),
        ({"every_s": 60, "namespace": ""}, "namespace"),
        ({"cron": "H H 30 2 *"}, "cron"),
        ({"cron": "H * * * *", "exclude": excluded}, "cron"),
        ({"every_s": 60, "payload": "\ud800"}, "payload"),
    ):
        with pytest.raises(Refused) as caught:
            enqueue(caller.connection, "mock", **wrong)
        assert caught.value.errors[0][0] == field, wrong
    with pytest.raises(ValueError, match="run_at: a datetime without a zone"):
        enqueue(caller.connection, "mock", run_at=datetime(2030, 1, 1))
    second = enqueue(caller.connection, "mock", every_s=60)
    caller.commit()
    assert ids(database) == [first, second]


def test_what_fails_after_the_row_was_written_takes_the_row_back(
    caller: Caller, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(tasks, "event", full)
        with pytest.raises(OSError, match="no space"):
            enqueue(caller.connection, "mock", every_s=60)
    made = enqueue(caller.connection, "mock", every_s=60)
    caller.commit()
    assert ids(database) == [made]


def test_a_task_key_is_one_task(caller: Caller, database: Database) -> None:
    first = enqueue(caller.connection, "mock", every_s=60, task_key="k")
    assert enqueue(caller.connection, "mock", every_s=60, task_key="k") == first
    caller.commit()
    before = task(database, first)
    assert enqueue(caller.connection, "mock", {"new": 1}, every_s=60, task_key="k") == first
    caller.commit()
    after = task(database, first)
    assert (after["payload"], after["next_run_at"]) == ('{"new":1}', before["next_run_at"])
    assert enqueue(caller.connection, "mock", cron="0 9 * * *", task_key="k", namespace="other") != first
    enqueue(caller.connection, "mock", cron="0 9 * * *", task_key="k")
    caller.commit()
    assert (task(database, first)["schedule_version"], len(ids(database))) == (before["schedule_version"] + 1, 2)


def test_a_key_that_came_after_the_callers_snapshot_is_found(caller: Caller, database: Database) -> None:
    caller.run("SELECT COUNT(*) FROM tasks")
    values = fields(new_task({"handler": "mock", "every_s": 60, "task_key": "k"}), database.now())
    theirs = database.transaction(lambda c: tasks.register(c, "default", values, actor="test")).task["id"]
    assert enqueue(caller.connection, "mock", "mine", every_s=60, task_key="k") == theirs
    caller.commit()
    assert task(database, theirs)["payload"] == '"mine"'


def test_open_transactions_with_keys_side_by_side_do_not_wait_for_one_another(url: str, database: Database) -> None:
    """A search for a key with a lock would leave one on the gap, and the two INSERTs into it would wait crosswise."""
    before = deadlocks(database)
    callers = [open_caller("pymysql", url) for _ in range(2)]
    for caller, _ in callers:
        caller.run("SET SESSION innodb_lock_wait_timeout = 1")
    for key in ("m", "n"):
        for i, (caller, _) in enumerate(callers):
            enqueue(caller.connection, "mock", every_s=60, task_key=f"{key}{i}")
    for caller, close in callers:
        caller.commit()
        close()
    assert len(ids(database)) == 4
    assert deadlocks(database) == before


def test_what_a_changed_schedule_passes_over_has_a_row(caller: Caller, database: Database) -> None:
    made = enqueue(caller.connection, "mock", run_at=database.now().replace(tzinfo=UTC), task_key="k")
    caller.commit()
    enqueue(caller.connection, "mock", run_at=FUTURE, task_key="k")
    caller.commit()
    assert (run_of(database, made)["state"], run_of(database, made)["reason"]) == ("cancelled", "edited")


def test_what_was_claimed_ahead_in_a_pause_has_the_reason_of_the_change(caller: Caller, database: Database) -> None:
    made = enqueue(caller.connection, "mock", in_s=1, task_key="k")
    caller.commit()
    [ahead] = claim_all(database)
    database.transaction(lambda c: control.pause(c, "default", made, actor="test"))
    while database.now() < ahead.due_at:
        time.sleep(0.05)
    start(database, [ahead])
    assert run_of(database, made)["reason"] == "paused"
    database.transaction(lambda c: control.resume(c, "default", made, actor="test"))
    enqueue(caller.connection, "mock", run_at=FUTURE, task_key="k")
    caller.commit()
    assert (run_of(database, made)["state"], run_of(database, made)["reason"]) == ("cancelled", "edited")


def test_an_open_transaction_that_passed_something_over_keeps_no_gap(url: str, database: Database) -> None:
    caller, close = open_caller("pymysql", url)
    made = enqueue(caller.connection, "mock", run_at=database.now().replace(tzinfo=UTC), task_key="k")
    caller.commit()
    enqueue(caller.connection, "mock", run_at=FUTURE, task_key="k")
    other = insert(database)
    assert other > made, "its row is the next one in the index of occurrences"
    assert [one.run_id for one in claim_all(database)] == [run_of(database, other)["id"]]
    caller.commit()
    close()


def test_the_end_of_a_pause_is_written(caller: Caller, database: Database) -> None:
    made = enqueue(caller.connection, "mock", every_s=60, task_key="k")
    caller.commit()
    database.transaction(lambda c: control.pause(c, "default", made, actor="test"))
    sql(database, "UPDATE tasks SET created_at = created_at - INTERVAL 60 SECOND, next_run_at = created_at")
    claim_all(database)
    assert run_of(database, made)["skipped_until"] is None
    enqueue(caller.connection, "mock", every_s=30, task_key="k")
    caller.commit()
    assert run_of(database, made)["skipped_until"] is not None
    assert task(database, made)["state"] == "paused"


def test_it_is_claimed_like_any_other(caller: Caller, database: Database) -> None:
    made = enqueue(caller.connection, "mock", in_s=0)
    caller.commit()
    assert [one.run_id for one in claim_all(database)] == [run_of(database, made)["id"]]


def test_a_connection_that_commits_by_itself_is_refused(url: str, database: Database) -> None:
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    dbapi = plain(url, Cursor, autocommit=True)
    with engine.connect() as connection:
        for one in (connection, dbapi):
            with pytest.raises(ValueError, match="begin a transaction first"):
                enqueue(one, "mock", every_s=60)
    assert ids(database) == []
    dbapi.begin()
    made = enqueue(dbapi, "mock", every_s=60)
    dbapi.commit()
    dbapi.close()
    engine.dispose()
    assert ids(database) == [made]


def test_what_is_no_connection_is_refused() -> None:
    class Later:
        def run_sync(self) -> None: ...

    with pytest.raises(TypeError, match="run_sync"):
        enqueue(Later(), "mock", every_s=60)
    with pytest.raises(TypeError, match="expected a connection"):
        enqueue("mysql://", "mock", every_s=60)
    with sa.create_engine("sqlite://").connect() as connection, pytest.raises(TypeError, match="sqlite"):
        enqueue(connection, "mock", every_s=60)


def test_in_s_counts_from_the_databases_now(caller: Caller, database: Database) -> None:
    made = enqueue(caller.connection, "mock", in_s=90)
    caller.commit()
    row = task(database, made)
    assert timedelta(seconds=89) < row["run_at"] - row["created_at"] <= timedelta(seconds=90)
