"""run.heartbeat(progress): what a handler says while it works."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import event
from starlette.testclient import TestClient

from clockjack import LeaseLost, Run
from clockjack.ledger import asking, wake
from clockjack.ledger.database import Database
from clockjack.queues import Queues
from clockjack.settings import Settings
from consumers.execution import Job
from consumers.isolation import Children
from tests.integration.life import make_due, run_of
from tests.integration.test_consumer import Bench

pytestmark = pytest.mark.mysql
Handle = Callable[[Run], Any]


@pytest.fixture
def bench(database: Database, queues: Queues) -> Iterator[Bench]:
    bench = Bench(database, queues)
    yield bench
    bench.engine.pool.close()


class Slow:
    """A handler that is inside until it is let out, and then does `last`."""

    def __init__(
        self, bench: Bench, first: Callable[[Run], Any], last: Callable[[Run], Any] = lambda run: None
    ) -> None:
        self.inside, self.out, self.run = threading.Event(), threading.Event(), None

        def handle(run: Run) -> Any:
            self.run = run
            first(run)
            self.inside.set()
            self.out.wait(20)
            return last(run)

        bench.handle = handle
        self.bench, self.task_id = bench, bench.due()
        bench.until(self.inside.is_set)

    def end(self) -> dict[str, Any]:
        """The run, when it is let out and written."""
        self.out.set()
        self.bench.until(lambda: self.bench.engine.empty)
        return run_of(self.bench.database, self.task_id)


def progress(bench: Bench, task_id: int) -> str | None:
    found: str | None = run_of(bench.database, task_id)["progress"]
    return found


def test_progress_rides_with_the_heartbeat_and_costs_no_statement(bench: Bench) -> None:
    slow = Slow(bench, lambda run: run.heartbeat({"done": 1, "of": 3}))
    assert progress(bench, slow.task_id) is None
    statements: list[str] = []
    event.listen(bench.database._engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
    bench.engine.beat()
    first, statements[:] = len(statements), []
    assert progress(bench, slow.task_id) == '{"done":1,"of":3}'
    statements.clear()
    bench.engine.beat()
    assert len(statements) == first  # the same number, with and without
    assert not any("progress" in statement for statement in statements)
    assert slow.run is not None
    slow.run.heartbeat("läuft")
    slow.run.heartbeat()  # says nothing new
    bench.engine.beat()
    assert slow.end()["progress"] == '"läuft"'


def test_many_in_one_statement_and_each_its_own(bench: Bench) -> None:
    inside, out = threading.Semaphore(0), threading.Event()

    def handle(run: Run) -> None:
        if run.payload:
            run.heartbeat(f"% {run.payload}")
        inside.release()
        out.wait(20)

    bench.handle = handle
    ids = [bench.due(payload=str(n)) for n in range(4)]
    bench.until(lambda: inside._value == 4)
    bench.engine.beat()
    assert [progress(bench, i) for i in ids] == [None, '"% 1"', '"% 2"', '"% 3"']
    out.set()
    bench.until(lambda: bench.engine.empty)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("x" * 1_023, "ValueError: progress is JSON of at most 1,024 bytes, not 1,025"),
        ("ä" * 512, "ValueError: progress is JSON of at most 1,024 bytes, not 1,026"),
        ({1, 2}, "TypeError: Object of type set is not JSON serializable"),
        (float("nan"), "ValueError: Out of range float values are not JSON compliant"),
    ],
)
def test_progress_is_bounded_json(bench: Bench, said: Any, error: str) -> None:
    bench.handle = lambda run: run.heartbeat(said)
    one = bench.due(max_failures=1)
    bench.until(lambda: bench.state(one) == "failed")
    assert run_of(bench.database, one)["error"].startswith(error)


def test_what_is_just_small_enough_is_stored(bench: Bench) -> None:
    slow = Slow(bench, lambda run: run.heartbeat("x" * 1_022))
    bench.engine.beat()
    assert len(slow.end()["progress"]) == 1_024


def test_half_a_surrogate_pair_fails_its_run_and_no_neighbours_heartbeat(bench: Bench) -> None:
    bench.handle = lambda run: run.heartbeat("\ud800")
    one = bench.due(max_failures=1)
    bench.until(lambda: bench.state(one) == "failed")
    bench.engine.beat()


def test_the_api_shows_progress_as_json(bench: Bench, http: TestClient) -> None:
    slow = Slow(bench, lambda run: run.heartbeat({"done": 1}))
    bench.engine.beat()
    run = http.get(f"/v1/runs/{run_of(bench.database, slow.task_id)['id']}").json()
    assert (run["progress"], run["cancel_asked_at"]) == ({"done": 1}, None)
    slow.end()


def test_a_lost_lease_is_raised(bench: Bench) -> None:
    seen: list[BaseException] = []

    async def handle(run: Run) -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)
            try:
                run.heartbeat()
            except LeaseLost as error:
                seen.append(error)
                raise

    bench.handle = handle
    one = bench.due()
    bench.until(lambda: any(job.state == "running" for job in bench.engine.pool.jobs.values()))
    make_due(bench.database, run_of(bench.database, one)["id"])
    wake.look_again(bench.database, {})
    bench.engine.stopping = True
    bench.engine.beat()
    bench.until(lambda: bench.engine.empty)
    assert len(seen) == 1


def test_in_a_child(database: Database, queues: Queues) -> None:
    settings = Settings(database_url="", redis_url=queues.url, handlers=("tests.integration.untrusted",))
    children, bench = Children(settings, 1), Bench(database, queues, size=1)
    pool = bench.engine.pool
    pool.isolated = True

    def call(job: Job, run: Run) -> Any:
        return children.call(run, 0, lambda child: pool.owns(job, child))

    pool._call = call
    one = bench.due(handler="untrusted.heed", timeout_s=30)
    bench.until(lambda: any(job.progress for job in pool.jobs.values()), within_s=20)
    bench.engine.beat()
    assert progress(bench, one) == '{"waits":true}'
    run_id = run_of(database, one)["id"]
    database.transaction(lambda c: asking.cancel_run(c, "default", run_id, actor="test"))
    bench.engine.beat()
    bench.until(lambda: bench.engine.empty, within_s=20)
    assert (bench.state(one), run_of(database, one)["reason"]) == ("cancelled", "run_cancelled")
    two = bench.due(handler="untrusted.heed", payload='"once"')  # nobody told this one, in the same child
    bench.until(lambda: bench.engine.empty and bench.state(two) == "succeeded", within_s=20)
    assert run_of(database, two)["result"] == "false"
    huge = bench.due(handler="untrusted.forge", payload=f'"{FORGED}"', max_failures=1)
    bench.until(lambda: bench.state(huge) == "failed", within_s=20)
    assert "an answer that cannot be read" in run_of(database, huge)["error"]
    pool.close()
    children.close()


FORGED = (lambda body: (len(body).to_bytes(4, "big") + body).hex())(b'["progress","' + b"x" * 2_000 + b'"]')
