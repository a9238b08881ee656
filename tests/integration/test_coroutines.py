"""Handlers that are coroutines: on one loop, as many as there are slots, and stopped like the others."""

import asyncio
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from clockjack.handlers import Run
from clockjack.ledger.database import Database
from clockjack.queues import Queues
from consumers import execution
from tests.integration.life import make_due, run_of, select
from tests.integration.test_consumer import Bench


@pytest.fixture
def bench(database: Database, queues: Queues) -> Iterator[Bench]:
    bench = Bench(database, queues, size=20)
    yield bench
    bench.engine.pool.close()


def test_hundreds_of_coroutines_share_one_loop(database: Database, queues: Queues) -> None:
    bench, inside, peak = Bench(database, queues, size=200), 0, 0
    loops, threads = set(), set()

    async def handle(run: Run) -> str:
        nonlocal inside, peak
        inside += 1
        peak = max(peak, inside)
        loops.add(id(asyncio.get_running_loop()))
        threads.add(threading.current_thread().name)
        while peak < 200:
            await asyncio.sleep(0.01)
        inside -= 1
        return run.key

    bench.handle = handle
    ids = [bench.due() for _ in range(200)]
    bench.until(lambda: bench.engine.empty and bench.state(ids[-1]) == "succeeded", within_s=40)
    assert len(loops) == 1
    assert threads == {"loop"}
    found = select(database, "SELECT task_id, result, attempt FROM runs ORDER BY task_id")
    assert [(r["task_id"], r["attempt"]) for r in found] == [(i, 1) for i in ids]
    assert all(r["result"].startswith(f'"{r["task_id"]}-') for r in found)
    bench.engine.pool.close()


def test_never_more_at_work_than_slots(bench: Bench) -> None:
    inside, peak, lock = 0, 0, threading.Lock()

    def enter(by: int) -> None:
        nonlocal inside, peak
        with lock:
            inside += by
            peak = max(peak, inside)

    async def wait() -> None:
        enter(1)
        await asyncio.sleep(0.05)
        enter(-1)

    def handle(run: Run) -> object:
        if run.payload:
            return wait()
        enter(1)
        time.sleep(0.05)
        return enter(-1)

    bench.handle = handle
    bench.engine.pool.ewma_s = 0.001  # the past was short: it takes more than it has slots for
    ids = [bench.due(payload=str(i % 2)) for i in range(60)]

    def through() -> bool:
        bench.dispatcher.look_step()  # what waited too long is handed back
        return bench.engine.empty and all(bench.state(i) == "succeeded" for i in ids)

    bench.until(through, within_s=40)
    assert peak <= 20


def test_a_coroutine_is_cancelled_at_its_timeout(bench: Bench) -> None:
    cancelled = threading.Event()

    async def handle(run: Run) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    bench.handle = handle
    one = bench.due(timeout_s=1, max_failures=1)
    bench.until(lambda: bench.state(one) == "failed")
    assert run_of(bench.database, one)["reason"] == "timeout"
    assert cancelled.is_set()
    assert not bench.engine.stuck


def test_a_coroutine_is_cancelled_when_its_lease_is_lost(bench: Bench) -> None:
    begun, cancelled = threading.Event(), threading.Event()

    async def handle(run: Run) -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()  # and it says that all is well, which nobody believes

    bench.handle = handle
    one = bench.due()
    bench.until(begun.is_set)
    make_due(bench.database, run_of(bench.database, one)["id"])
    bench.dispatcher.look_step()  # somebody found the lease over: the run belongs to the next attempt
    bench.engine.stopping = True  # this consumer does not take it
    bench.engine.beat()
    bench.until(lambda: bench.engine.empty)
    assert cancelled.is_set()
    assert bench.state(one) == "ready"
    assert [a["outcome"] for a in select(bench.database, "SELECT outcome FROM attempts")] == ["lost"]


def test_begun_coroutines_end_while_the_consumer_stops(bench: Bench) -> None:
    begun = threading.Event()

    async def handle(run: Run) -> None:
        begun.set()
        await asyncio.sleep(0.5)

    bench.handle = handle
    one = bench.due()
    bench.until(begun.is_set)
    bench.engine.stopping = True
    assert not bench.engine.empty
    bench.until(lambda: bench.engine.empty)
    assert bench.state(one) == "succeeded"


def test_what_a_coroutine_raises_is_its_own(bench: Bench) -> None:
    async def handle(run: Run) -> object:
        await asyncio.sleep(0)
        if run.payload == "exit":
            sys.exit(3)
        if run.payload == "cancel":
            raise asyncio.CancelledError
        if run.payload == "stop":
            asyncio.get_running_loop().stop()
        return {"error": 1 / 0 if run.payload == "error" else 0, "set": {1}}.get(run.payload)

    bench.handle = handle
    words = ["exit", "cancel", "stop", "error", "set", "good"]
    ids = [bench.due(payload=f'"{word}"', max_failures=1) for word in words]
    bench.until(lambda: all(bench.state(i) in ("succeeded", "failed") for i in ids))
    errors = [(run_of(bench.database, i)["error"] or "").split(":")[0] for i in ids]
    assert errors == ["SystemExit", "CancelledError", "", "ZeroDivisionError", "TypeError", ""]


def test_a_coroutine_that_is_not_to_be_cancelled_is_given_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "STOP_WITHIN_S", 0.5)
    end = threading.Event()

    async def handle(run: Run) -> None:
        while not end.is_set():
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                continue

    bench.handle = handle
    one = bench.due(timeout_s=1, max_failures=1)
    bench.until(lambda: bench.state(one) == "failed")
    assert run_of(bench.database, one)["reason"] == "timeout"
    assert bench.engine.stuck
    end.set()
    bench.until(lambda: bench.engine.empty)
    assert bench.state(one) == "failed"
