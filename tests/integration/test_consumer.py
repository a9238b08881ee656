"""A consumer's engine, stepped by hand: what starts, what is handed back, what a handler can do to it."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from clockjack.handlers import Run
from clockjack.ledger.database import Database, rows
from clockjack.queues import Queues
from consumers.engine import Engine
from consumers.execution import Job
from deploy import servers
from dispatcher.loops import Dispatcher
from tests.integration.life import insert, make_due, run_of, select, sql

Call = Callable[[Job, Run], Any]


class Bench:
    """An engine whose handler the test sets, and a dispatcher, both driven by hand."""

    def __init__(self, database: Database, queues: Queues, size: int = 4) -> None:
        self.database, self.queues = database, queues
        self.dispatcher = Dispatcher(database, queues)
        self.handle: Callable[[Run], Any] = lambda run: None
        self.engine = Engine(database, queues, "default", "w1", size, lambda job, run: self.handle(run))

    def due(self, **columns: Any) -> int:
        """A task that is due now; its run is in the queue."""
        one = insert(self.database, -0.01, **columns)
        self.dispatcher.claim_step()
        return one

    def until(self, condition: Callable[[], Any], within_s: float = 15) -> None:
        """Steps are made until `condition` holds."""
        give_up = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < give_up, "it did not come true"
            self.engine.bell.set()
            self.engine.watch()
            self.engine.tick()
            if not self.engine.step():
                self.engine.wake.wait(0.01)
                self.engine.wake.clear()

    def state(self, task_id: int) -> str:
        return str(run_of(self.database, task_id)["state"])


@pytest.fixture
def bench(database: Database, queues: Queues) -> Iterator[Bench]:
    bench = Bench(database, queues)
    yield bench
    bench.engine.pool.close()


def test_a_result_is_stored_and_redis_is_clean_afterwards(bench: Bench, queues: Queues) -> None:
    bench.handle = lambda run: {"got": run.payload}
    one = bench.due(payload='{"n": 1}')
    bench.until(lambda: bench.state(one) == "succeeded" and bench.engine.empty)
    assert run_of(bench.database, one)["result"] == '{"got":{"n":1}}'
    assert queues.redis.keys("rq:job:*") == []
    assert queues.redis.zcard("rq:wip:default") == 0


def test_a_batch_runs_side_by_side(bench: Bench) -> None:
    inside, peak, lock = 0, 0, threading.Lock()

    def handle(run: Run) -> None:
        nonlocal inside, peak
        with lock:
            inside += 1
            peak = max(peak, inside)
        time.sleep(0.2)
        with lock:
            inside -= 1

    bench.handle = handle
    ids = [bench.due() for _ in range(4)]
    bench.until(lambda: all(bench.state(i) == "succeeded" for i in ids))
    assert peak == 4


def test_an_exception_is_a_failure_and_retried(bench: Bench) -> None:
    def handle(run: Run) -> None:
        if run.failures == 0:
            raise ValueError("no")

    bench.handle = handle
    one = bench.due(backoff_s=0)
    bench.until(lambda: run_of(bench.database, one)["failures"] == 1)
    bench.dispatcher.look_step()
    bench.until(lambda: bench.state(one) == "succeeded")
    assert select(bench.database, "SELECT attempt, outcome, error FROM attempts") == [
        {"attempt": 1, "outcome": "failed", "error": "ValueError: no"}
    ]


def test_a_handler_past_its_timeout_is_stopped(bench: Bench) -> None:
    def handle(run: Run) -> None:
        while True:
            time.sleep(0.01)

    bench.handle = handle
    one = bench.due(timeout_s=1, max_failures=1)
    bench.until(lambda: bench.state(one) == "failed")
    assert run_of(bench.database, one)["reason"] == "timeout"
    assert not bench.engine.stuck


def test_a_result_that_cannot_be_stored_is_a_failure(bench: Bench) -> None:
    bench.handle = lambda run: {1, 2} if run.payload == 1 else "x" * 20_000
    ids = [bench.due(max_failures=1, payload=p) for p in ("1", "2")]
    bench.until(lambda: all(bench.state(i) == "failed" for i in ids))
    assert "JSON" in run_of(bench.database, ids[0])["error"]
    assert "16384 bytes" in run_of(bench.database, ids[1])["error"]


def test_a_poisoned_outcome_does_not_take_its_neighbours_along(bench: Bench) -> None:
    bench.handle = lambda run: run.payload
    sql(bench.database, "ALTER TABLE runs ADD CONSTRAINT no_bad CHECK (result IS NULL OR result <> '\"bad\"')")
    try:
        ids = [bench.due(payload=p) for p in ('"good"', '"bad"', '"good"', "null")]
        bench.until(lambda: all(bench.state(i) in ("succeeded", "failed") for i in ids))
    finally:
        sql(bench.database, "ALTER TABLE runs DROP CONSTRAINT no_bad")
    assert [bench.state(i) for i in ids] == ["succeeded", "failed", "succeeded", "succeeded"]
    assert run_of(bench.database, ids[1])["error"] == "the outcome could not be stored"


def test_what_waits_behind_a_slow_handler_is_handed_back(database: Database, queues: Queues) -> None:
    bench = Bench(database, queues, size=1)
    release = threading.Event()
    bench.handle = lambda run: release.wait(10)
    bench.engine.pool.ewma_s = 0.001  # the past was short: it takes more than it has threads for
    ids = [bench.due() for _ in range(5)]
    bench.until(lambda: [bench.state(i) for i in ids].count("running") == 5)
    bench.until(lambda: [bench.state(i) for i in ids].count("ready") >= 4)
    back = [run_of(database, i) for i in ids if bench.state(i) == "ready"]
    assert {r["failures"] for r in back} == {0}
    assert all(r["first_started_at"] is None for r in back)
    release.set()
    bench.engine.pool.close()


def test_stopping_hands_back_what_has_not_begun_and_lets_the_begun_end(database: Database, queues: Queues) -> None:
    bench = Bench(database, queues, size=1)
    begun, release = threading.Event(), threading.Event()

    def handle(run: Run) -> None:
        begun.set()
        release.wait(10)

    bench.handle = handle
    bench.engine.pool.ewma_s = 0.001
    ids = [bench.due() for _ in range(3)]
    bench.until(begun.is_set)
    bench.engine.stopping = True
    bench.until(lambda: [bench.state(i) for i in ids].count("ready") == 2)
    release.set()
    bench.until(lambda: bench.engine.empty)
    assert sorted(bench.state(i) for i in ids) == ["ready", "ready", "succeeded"]
    assert bench.queues.redis.zcard("rq:wip:default") == 0


def test_heartbeats_keep_the_lease_and_a_lost_one_stops_the_handler(bench: Bench) -> None:
    begun = threading.Event()

    def handle(run: Run) -> None:
        begun.set()
        while True:
            time.sleep(0.01)

    bench.handle = handle
    one = bench.due()
    bench.until(begun.is_set)
    bench.engine.beat()
    assert (run_of(bench.database, one)["lease_until"] - bench.database.now()).total_seconds() > 15
    make_due(bench.database, run_of(bench.database, one)["id"])
    bench.dispatcher.look_step()  # somebody found the lease over: the run belongs to the next attempt
    bench.engine.stopping = True  # this consumer does not take it
    bench.engine.beat()
    bench.until(lambda: bench.engine.empty)
    assert bench.state(one) == "ready"
    assert [a["outcome"] for a in select(bench.database, "SELECT outcome FROM attempts")] == ["lost"]


def test_nothing_is_lost_while_mysql_is_away(
    bench: Bench, database_server: servers.Server | None, queues: Queues
) -> None:
    if database_server is None:
        pytest.skip("CLOCKJACK_TEST_MYSQL_URL is set: this test kills its database server")
    release = threading.Event()
    bench.handle = lambda run: release.wait(20) and None
    one = bench.due()
    bench.until(lambda: bench.state(one) == "running")
    database_server.kill()
    release.set()
    bench.engine.wake.wait(5)
    for _ in range(3):
        bench.engine.step()
    assert not bench.engine.empty
    database_server.start()
    bench.until(lambda: bench.engine.empty)
    assert bench.state(one) == "succeeded"


def test_outcomes_are_written_while_redis_is_away(bench: Bench, redis_server: servers.Server) -> None:
    release = threading.Event()
    bench.handle = lambda run: release.wait(20) and None
    one = bench.due()
    bench.until(lambda: bench.state(one) == "running")
    redis_server.kill()
    try:
        release.set()
        bench.until(lambda: bench.state(one) == "succeeded")
    finally:
        redis_server.start()


def test_rq_suspend_and_resume(bench: Bench, queues: Queues) -> None:
    one = bench.due()
    queues.redis.set("rq:suspended", 1)
    for _ in range(5):
        bench.engine.bell.set()
        bench.engine.step()
    assert bench.state(one) == "ready"
    queues.redis.delete("rq:suspended")
    give_up = time.monotonic() + 5
    while bench.state(one) != "succeeded":  # the bell rang once; nobody rings it again
        assert time.monotonic() < give_up
        bench.engine.step()
        bench.engine.wake.wait(0.05)


def test_what_has_not_begun_keeps_its_short_lease(database: Database, queues: Queues) -> None:
    bench = Bench(database, queues, size=1)
    begun, release = threading.Event(), threading.Event()
    bench.handle = lambda run: begun.set() or (release.wait(10) and None)
    bench.engine.pool.ewma_s = 0.001
    ids = [bench.due() for _ in range(2)]
    bench.until(begun.is_set)
    bench.engine.beat()
    left = sorted((run_of(database, i)["lease_until"] - database.now()).total_seconds() for i in ids)
    assert left[0] <= 6 < 15 < left[1]
    release.set()
    bench.until(lambda: bench.engine.empty)


def test_a_loop_that_stands_still_loses_its_leases(bench: Bench) -> None:
    begun, release = threading.Event(), threading.Event()
    bench.handle = lambda run: begun.set() or (release.wait(20) and None)
    one = bench.due()
    bench.until(begun.is_set)
    before = run_of(bench.database, one)["lease_until"]
    bench.engine._stepped_s -= 60
    bench.engine.beat()
    assert run_of(bench.database, one)["lease_until"] == before
    bench.engine.tick()
    bench.engine.beat()
    assert run_of(bench.database, one)["lease_until"] > before
    release.set()
    bench.until(lambda: bench.engine.empty)


def test_an_error_text_that_cannot_be_stored_as_it_is_costs_no_retry(bench: Bench) -> None:
    def handle(run: Run) -> None:
        raise FileNotFoundError("no file \udcff")

    bench.handle = handle
    one = bench.due(max_failures=5)
    bench.until(lambda: run_of(bench.database, one)["failures"] == 1)
    assert bench.state(one) == "ready"


def test_a_handler_that_does_not_stop_spends_its_budget_and_ends_the_worker(bench: Bench) -> None:
    from consumers import execution

    bench.handle = lambda run: time.sleep(30)  # one call into C: an exception cannot reach it
    one = bench.due(timeout_s=1, max_failures=1)
    before, execution.STOP_WITHIN_S = execution.STOP_WITHIN_S, 0.5
    try:
        bench.until(lambda: bench.state(one) == "failed")
    finally:
        execution.STOP_WITHIN_S = before
    assert bench.engine.stopping
    assert bench.engine.stuck


def test_a_slow_commit_does_not_keep_a_run_from_beginning(bench: Bench) -> None:
    from sqlalchemy import event

    one = bench.due()
    slow = lambda connection: time.sleep(1.2)  # noqa: E731
    event.listen(bench.database._engine, "commit", slow)
    try:
        bench.until(lambda: bench.engine.pool.jobs or bench.engine.pool.outcomes)
    finally:
        event.remove(bench.database._engine, "commit", slow)
    bench.until(lambda: bench.state(one) == "succeeded")
    assert run_of(bench.database, one)["attempt"] == 1


def test_a_hand_back_never_waits_for_a_lock(database: Database, queues: Queues) -> None:
    bench = Bench(database, queues, size=1)
    begun, release = threading.Event(), threading.Event()
    bench.handle = lambda run: begun.set() or (release.wait(10) and None)
    bench.engine.pool.ewma_s = 0.001
    ids = [bench.due() for _ in range(2)]
    bench.until(begun.is_set)
    (waits,) = [i for i in ids if next(iter(bench.engine.pool.waiting)).row["task_id"] == i]
    bench.engine.stopping = True

    def hold(connection: Any) -> None:
        rows(connection, "SELECT id FROM runs WHERE task_id = :i FOR UPDATE", i=waits)
        bench.engine.tick()
        begin = time.monotonic()
        bench.engine.step()
        assert time.monotonic() - begin < 1

    database.transaction(hold)
    bench.until(lambda: bench.state(waits) == "ready")
    release.set()
    bench.until(lambda: bench.engine.empty)


def test_every_handler_that_does_not_stop_is_given_up_and_answers_no_more(
    database: Database, queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clockjack import telemetry
    from consumers import execution

    monkeypatch.setattr(execution, "STOP_WITHIN_S", 0.3)
    gate = threading.Semaphore(0)
    lock = threading.Lock()
    lock.acquire()
    bench = Bench(database, queues)

    def handle(run: Run) -> None:
        try:
            lock.acquire()  # one call into C: an exception cannot reach it
        finally:
            lock.release()
            gate.release()

    bench.handle = handle
    ids = [bench.due(timeout_s=t, max_failures=1) for t in (1, 2)]
    bench.until(lambda: all(bench.state(i) == "failed" for i in ids), within_s=10)
    refused = telemetry.FENCED.labels("finish")._value.get()
    lock.release()
    for _ in ids:
        assert gate.acquire(timeout=5)
    bench.until(lambda: bench.engine.empty)
    for _ in range(5):
        bench.engine.step()
        bench.engine.wake.wait(0.05)
    assert {bench.state(i) for i in ids} == {"failed"}
    assert telemetry.FENCED.labels("finish")._value.get() == refused
