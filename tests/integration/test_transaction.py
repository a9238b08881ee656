"""run.transaction(): a handler's own rows and its run's success are written together, or neither is."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pymysql
import pytest
import sqlalchemy as sa
from sqlalchemy import event, text

from clockjack import LeaseLost, Retry, Run
from clockjack.ledger import wake
from clockjack.ledger.database import Database
from clockjack.ledger.effects import Interrupted, NotCommitted
from clockjack.queues import Queues
from clockjack.settings import Settings
from consumers.execution import Job
from consumers.isolation import Children
from deploy.grants import SCRIPT
from tests.integration.life import make_due, run_of, select, sql
from tests.integration.test_consumer import Bench

pytestmark = pytest.mark.mysql
COUNT = text("INSERT INTO app.counted (run_key) VALUES (:key)")


@pytest.fixture
def app(migrated_url: str, users: dict[str, str]) -> Iterator[str]:
    """The URL of `app`, who owns the database of that name and has the rights of grants.sql's last lines."""
    server = sa.create_engine(migrated_url)
    given = [line.removeprefix("-- ") for line in SCRIPT.read_text().splitlines() if line.endswith(" TO 'app'@'%';")]
    assert given
    with server.begin() as connection:
        connection.exec_driver_sql("CREATE DATABASE IF NOT EXISTS app")
        connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS app.counted (run_key VARCHAR(60) NOT NULL)")
        connection.exec_driver_sql("DELETE FROM app.counted")
        connection.exec_driver_sql("CREATE USER IF NOT EXISTS 'app'@'%%' IDENTIFIED BY 'app'")
        connection.exec_driver_sql("REVOKE ALL PRIVILEGES, GRANT OPTION FROM 'app'@'%%'")
        connection.exec_driver_sql("GRANT ALL ON app.* TO 'app'@'%%'")
        for statement in given:
            connection.exec_driver_sql(statement.rstrip(";").replace("%", "%%"))
        if users["stages"] != migrated_url:
            connection.exec_driver_sql("GRANT ALL ON app.* TO 'stages'@'%%'")
    yield server.url.set(username="app", password="app", database="app").render_as_string(hide_password=False)
    server.dispose()


@pytest.fixture
def bench(database: Database, queues: Queues, app: str) -> Iterator[Bench]:
    bench = Bench(database, queues)
    yield bench
    bench.engine.pool.close()


@pytest.fixture
def own(app: str) -> Iterator[sa.Engine]:
    """The application's own engine, at the server's default isolation."""
    engine = sa.create_engine(app)
    yield engine
    engine.dispose()


def counted(bench: Bench) -> int:
    return int(select(bench.database, "SELECT COUNT(*) AS n FROM app.counted")[0]["n"])


def count(run: Run, engine: sa.Engine | None = None) -> None:
    with run.transaction(engine) as connection:
        connection.execute(COUNT, {"key": run.key})


def ended(bench: Bench, **columns: Any) -> dict[str, Any]:
    """The run of a new task after its first attempt."""
    one = bench.due(**columns)
    bench.until(lambda: run_of(bench.database, one)["attempt"] == 1 and bench.engine.empty)
    return run_of(bench.database, one)


def hooked(bench: Bench, do_commit: Any) -> None:
    """COMMITs of handlers' transactions go through `do_commit(dbapi_connection)`."""
    own = bench.engine.pool.effects
    assert own is not None
    own._own().dialect.do_commit = do_commit


def test_rows_and_success_come_together_and_the_engine_does_not_finish_again(bench: Bench) -> None:
    bench.handle = count
    written: list[str] = []

    def executing(c: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "finished_at" in statement or "FOR UPDATE" in statement:
            written.append(statement)

    one = bench.due()
    event.listen(bench.database._engine, "before_cursor_execute", executing)
    bench.until(lambda: bench.state(one) == "succeeded" and bench.engine.empty)
    event.remove(bench.database._engine, "before_cursor_execute", executing)
    run = run_of(bench.database, one)
    assert (counted(bench), run["attempt"], run["failures"], run["wake_at"], run["live_task_id"]) == (
        1,
        1,
        0,
        None,
        None,
    )
    assert run["finished_at"] is not None
    assert written == []
    assert bench.queues.redis.zcard("rq:wip:default") == 0


def test_its_own_connection_locks_no_run_before_the_end(bench: Bench) -> None:
    def handle(run: Run) -> None:
        with run.transaction() as connection:
            connection.execute(COUNT, {"key": run.key})
            bench.engine.beat()  # would wait for the row, and be told 1205
            locked = "SELECT id FROM runs WHERE task_id = :i FOR UPDATE NOWAIT"
            assert select(bench.database, locked, i=run.task_id)
            assert connection.execute(text("SELECT CONNECTION_ID()")).scalar() not in pooled(bench)

    bench.handle = handle
    run = ended(bench)
    assert (run["state"], run["error"], counted(bench)) == ("succeeded", None, 1)


def pooled(bench: Bench) -> set[int]:
    return {bench.database.transaction(lambda c: int(c.execute(text("SELECT CONNECTION_ID()")).scalar_one()))}


def test_what_is_raised_in_the_block_undoes_it(bench: Bench) -> None:
    def handle(run: Run) -> None:
        with run.transaction() as connection:
            connection.execute(COUNT, {"key": run.key})
            raise Retry(500) if run.payload else ValueError("no")

    bench.handle = handle
    plain, again = ended(bench, payload="0"), ended(bench, payload="1")
    assert [(r["state"], r["failures"], r["error"]) for r in (plain, again)] == [
        ("ready", 1, "ValueError: no"),
        ("ready", 1, "Retry"),
    ]
    assert counted(bench) == 0


def test_what_comes_after_it_changes_nothing(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def handle(run: Run) -> Any:
        count(run)
        if run.payload == "twice":
            count(run)
        if run.payload == "raise":
            raise ValueError("a secret")
        return {"result": 1}

    bench.handle = handle
    for payload in ("return", "raise", "twice"):
        run = ended(bench, payload=f'"{payload}"')
        assert (run["state"], run["failures"], run["error"], run["result"]) == ("succeeded", 0, None, None)
    assert counted(bench) == 3
    told = [r.error for r in caplog.records if getattr(r, "action", "") == "after_success"]  # type: ignore[attr-defined]
    assert told == ["ValueError", "RuntimeError"]
    assert "a secret" not in caplog.text


def test_a_lost_lease_writes_nothing_and_the_next_attempt_counts_once(bench: Bench) -> None:
    seen: list[BaseException] = []

    def handle(run: Run) -> None:
        try:
            with run.transaction() as connection:
                connection.execute(COUNT, {"key": run.key})
                if run.attempt == 1:
                    make_due(bench.database, run.id)
                    wake.look_again(bench.database, {})
        except LeaseLost as error:
            seen.append(error)
            raise

    bench.handle = handle
    one = bench.due(backoff_s=0)
    bench.until(lambda: run_of(bench.database, one)["failures"] == 1 and bench.engine.empty)
    assert (counted(bench), len(seen), bench.state(one)) == (0, 1, "ready")
    make_due(bench.database, run_of(bench.database, one)["id"])
    bench.dispatcher.look_step()
    bench.until(lambda: bench.state(one) == "succeeded")
    assert counted(bench) == 1


def test_who_has_lost_the_lease_before_does_not_begin(bench: Bench) -> None:
    def handle(run: Run) -> None:
        make_due(bench.database, run.id)
        wake.look_again(bench.database, {})
        bench.engine.stopping = True
        with run.transaction():
            raise AssertionError("entered")

    bench.handle = handle
    one = bench.due()
    bench.until(lambda: run_of(bench.database, one)["failures"] == 1 and bench.engine.empty)
    assert [a["outcome"] for a in select(bench.database, "SELECT outcome FROM attempts")] == ["lost"]


@pytest.mark.parametrize("how", ["COMMIT", "ROLLBACK", "TRUNCATE TABLE app.counted", "commit()", "rollback()"])
def test_a_transaction_that_was_ended_within_its_block_is_no_success(bench: Bench, how: str) -> None:
    def handle(run: Run) -> None:
        with run.transaction() as connection:
            connection.execute(COUNT, {"key": run.key})
            if how.endswith("()"):
                getattr(connection, how[:-2])()
            else:
                connection.exec_driver_sql(how)

    bench.handle = handle
    run = ended(bench)
    assert (run["state"], run["failures"]) == ("ready", 1)
    assert run["error"].startswith(f"{Interrupted.__name__}: ")


def test_a_deadlock_that_the_handler_hides_is_no_success(bench: Bench, own: sa.Engine) -> None:
    """The server has rolled back what came before; without the savepoint only what came after would be written."""
    locked = text("SELECT id FROM app.pair WHERE id = :i FOR UPDATE")
    told: list[int] = []

    def handle(run: Run) -> None:
        with own.connect() as other, run.transaction() as connection:
            connection.execute(COUNT, {"key": run.key})
            connection.execute(locked, {"i": 1})
            other.execute(locked, {"i": 2})
            other.execute(text("INSERT INTO app.pair VALUES (3), (4), (5), (6)"))  # the heavier one is spared
            thread = threading.Thread(target=lambda: other.execute(locked, {"i": 1}))
            thread.start()
            try:
                connection.execute(locked, {"i": 2})
            except sa.exc.OperationalError as error:
                told.append(error.orig.args[0])  # type: ignore[union-attr]
            thread.join()
            other.rollback()
            connection.execute(COUNT, {"key": "after"})

    sql(bench.database, "CREATE TABLE IF NOT EXISTS app.pair (id INT PRIMARY KEY)")
    sql(bench.database, "DELETE FROM app.pair")
    sql(bench.database, "INSERT INTO app.pair VALUES (1), (2)")
    bench.handle = handle
    run = ended(bench)
    assert told == [1213]
    assert run["error"].startswith("Interrupted: ")
    assert (run["state"], counted(bench)) == ("ready", 0)


@pytest.mark.parametrize("carried_out", [True, False])
def test_a_commit_without_an_answer_is_settled_by_the_runs_row(bench: Bench, carried_out: bool) -> None:
    seen: list[BaseException] = []

    def cut(dbapi: Any) -> None:
        if carried_out:
            dbapi.commit()
        raise pymysql.err.OperationalError(2013, "Lost connection")

    def handle(run: Run) -> None:
        try:
            count(run)
        except NotCommitted as error:
            seen.append(error)
            raise

    bench.handle = handle
    hooked(bench, cut)
    run = ended(bench)
    assert (run["state"], counted(bench)) == (("succeeded", 1) if carried_out else ("ready", 0))
    assert len(seen) == run["failures"] == (0 if carried_out else 1)


def test_a_handler_is_not_stopped_within_its_commit(bench: Bench) -> None:
    def slow(dbapi: Any) -> None:
        give_up = time.monotonic() + 2.5
        while time.monotonic() < give_up:
            time.sleep(0.01)
        dbapi.commit()

    bench.handle = count
    hooked(bench, slow)
    run = ended(bench, timeout_s=1, max_failures=1)
    assert (run["state"], run["failures"], counted(bench)) == ("succeeded", 0, 1)
    assert not bench.engine.stuck


def test_a_timeout_in_the_block_undoes_it(bench: Bench) -> None:
    def handle(run: Run) -> None:
        with run.transaction() as connection:
            connection.execute(COUNT, {"key": run.key})
            while True:
                time.sleep(0.01)

    bench.handle = handle
    run = ended(bench, timeout_s=1, max_failures=1)
    assert (run["state"], run["reason"], counted(bench)) == ("failed", "timeout", 0)


def test_a_heartbeat_between_commit_and_return_takes_no_lease_for_lost(bench: Bench) -> None:
    stopped: list[Any] = []

    def commit(dbapi: Any) -> None:
        dbapi.commit()
        bench.engine.beat()
        stopped.extend(job.why for job in bench.engine.pool.jobs.values())

    def handle(run: Run) -> None:
        count(run)
        bench.engine.beat()
        stopped.extend(job.why for job in bench.engine.pool.jobs.values())

    bench.handle = handle
    hooked(bench, commit)
    assert ended(bench)["state"] == "succeeded"
    assert stopped == [None, None]


def test_an_engine_of_the_applications_own(bench: Bench, own: sa.Engine) -> None:
    def handle(run: Run) -> None:
        with run.transaction(own) as connection:
            assert connection.execute(text("SELECT CURRENT_USER()")).scalar() == "app@%"
            assert connection.get_isolation_level() == "READ COMMITTED"
            connection.execute(text("SELECT * FROM counted")).all()  # a snapshot, if it were REPEATABLE READ
            bench.engine.beat()
            connection.execute(COUNT, {"key": run.key})

    bench.handle = handle
    run = ended(bench)
    assert (run["state"], run["error"], counted(bench)) == ("succeeded", None, 1)
    with own.connect() as connection:  # it was given back as it was
        assert connection.get_isolation_level() == own.dialect.default_isolation_level == "REPEATABLE READ"


def test_an_engine_without_rights_on_the_runs_is_told_so(bench: Bench, own: sa.Engine, migrated_url: str) -> None:
    with sa.create_engine(migrated_url).begin() as server:
        server.exec_driver_sql("REVOKE ALL PRIVILEGES, GRANT OPTION FROM 'app'@'%%'")
        server.exec_driver_sql("GRANT ALL ON app.* TO 'app'@'%%'")
    bench.handle = lambda run: count(run, own)
    run = ended(bench)
    assert (run["state"], counted(bench)) == ("ready", 0)
    assert "command denied" in run["error"]


def test_what_is_no_engine_is_refused(bench: Bench) -> None:
    bench.handle = lambda run: count(run, "mysql://app")  # type: ignore[arg-type]
    assert ended(bench)["error"] == "TypeError: run.transaction() takes a SQLAlchemy Engine, not str"


def test_a_run_that_nobody_holds_has_no_transaction(database: Database) -> None:
    run = Run(1, "1-1", 1, "default", None, "x", None, database.now(), 1, 0, 60)
    with pytest.raises(RuntimeError, match="no consumer holds this run"):
        run.transaction()


def test_runs_that_wait_for_it_have_their_turn(bench: Bench) -> None:
    bench.handle = count
    one = bench.due(overlap="queue_one", pause_after_failures=1)
    bench.until(lambda: bench.state(one) == "succeeded" and bench.engine.empty)
    assert counted(bench) == 1


def test_in_a_child(database: Database, database_url: str, queues: Queues, app: str) -> None:
    settings = Settings(database_url=database_url, redis_url=queues.url, handlers=("tests.integration.untrusted",))
    children, bench = Children(settings, 2), Bench(database, queues, size=2)
    pool = bench.engine.pool
    pool.isolated = True

    def call(job: Job, run: Run) -> Any:
        return children.call(run, 0, lambda child: pool.owns(job, child))

    pool._call = call
    for how, state in (("count", "succeeded"), ("then_die", "succeeded"), ("then_work", "succeeded"), ("sockets", "")):
        one = bench.due(handler=f"untrusted.{how}", max_failures=1)
        bench.until(lambda i=one: bench.state(i) in ("succeeded", "failed") and bench.engine.empty, within_s=30)
        run = run_of(database, one)
        assert not state or (run["state"], run["failures"]) == (state, 0), run["error"]
        assert state or run["result"] == "1"  # no connection is left to the next one
    assert counted(bench) == 3
    pool.close()
    children.close()


def test_a_child_that_only_says_so_has_not_succeeded(database: Database, queues: Queues) -> None:
    settings = Settings(database_url="", redis_url=queues.url, handlers=("tests.integration.untrusted",))
    children, bench = Children(settings, 1), Bench(database, queues, size=1)
    pool = bench.engine.pool
    pool.isolated = True
    pool._call = lambda job, run: children.call(run, 0, lambda child: pool.owns(job, child))
    said = b'["commits",true]'
    frame = (len(said).to_bytes(4, "big") + said).hex()
    one = bench.due(handler="untrusted.forge", payload=f'"{frame}"', max_failures=1, timeout_s=1)
    bench.until(lambda: bench.state(one) == "failed", within_s=30)
    assert run_of(database, one)["reason"] == "timeout"
    pool.close()
    children.close()
