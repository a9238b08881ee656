"""run.heartbeat(progress) and run.cancelled: what a handler says and hears while it works."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import event
from starlette.testclient import TestClient

from clockjack import Discard, LeaseLost, Retry, Run, Snooze
from clockjack.ledger import asking, control, runs, wake
from clockjack.ledger.database import Database
from clockjack.ledger.finish import Outcome
from clockjack.queues import Queues
from clockjack.settings import Settings
from consumers.execution import Job
from consumers.isolation import Children
from tests.integration.life import claim_all, finish, held, insert, make_due, run_of, select, sql, start
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


def cancel(bench: Bench, task_id: int, namespace: str = "default") -> dict[str, Any] | None:
    run = run_of(bench.database, task_id)
    return bench.database.transaction(lambda c: asking.cancel_run(c, namespace, run["id"], actor="key:abc"))


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


def test_a_run_that_is_cancelled_while_it_runs_hears_it_and_decides(bench: Bench) -> None:
    def stop(run: Run) -> None:
        if run.cancelled:
            raise Discard("told to")

    slow = Slow(bench, stop, last=stop)
    bench.engine.beat()
    assert slow.run is not None
    assert not slow.run.cancelled
    found = cancel(bench, slow.task_id)
    assert found is not None
    assert found["state"] == "running"
    assert found["cancel_asked_at"] is not None
    assert not slow.run.cancelled
    bench.engine.beat()
    assert slow.run.cancelled
    run = slow.end()
    assert (run["state"], run["reason"], run["failures"]) == ("cancelled", "cancelled", 0)
    outcomes = select(bench.database, "SELECT outcome, error FROM attempts")
    assert outcomes == [{"outcome": "cancelled", "error": "Discard: told to"}]
    events = select(bench.database, "SELECT actor, detail FROM task_events WHERE action = 'run_cancelled'")
    assert events == [{"actor": "key:abc", "detail": f"run {run['id']}"}]


@pytest.mark.parametrize(
    "last",
    [
        lambda run: 1 / 0,
        lambda run: Retry(5),
        lambda run: Snooze(5),
        lambda run: Discard("no"),
    ],
)
@pytest.mark.parametrize("heard", [True, False])
def test_however_it_ends_but_well_it_is_cancelled(bench: Bench, last: Any, heard: bool) -> None:
    slow = Slow(bench, lambda run: None, last)
    cancel(bench, slow.task_id)
    if heard:
        bench.engine.beat()
    run = slow.end()
    assert (run["state"], run["reason"], run["wake_at"]) == ("cancelled", "cancelled", None)
    assert run["finished_at"] is not None


def test_what_ends_well_all_the_same_has_succeeded(bench: Bench) -> None:
    slow = Slow(bench, lambda run: None, last=lambda run: "done")
    cancel(bench, slow.task_id)
    bench.engine.beat()
    run = slow.end()
    assert (run["state"], run["result"], run["reason"]) == ("succeeded", '"done"', None)


def test_a_lost_attempt_of_a_cancelled_run_is_the_last(bench: Bench) -> None:
    one = insert(bench.database)
    start(bench.database, claim_all(bench.database))
    cancel(bench, one)
    make_due(bench.database, run_of(bench.database, one)["id"])
    assert wake.look_again(bench.database, {})[0] == []
    run = run_of(bench.database, one)
    assert (run["state"], run["reason"], run["failures"]) == ("cancelled", "cancelled", 1)


def test_one_that_has_not_begun_is_cancelled_when_it_is_handed_back(bench: Bench) -> None:
    one = insert(bench.database)
    started = start(bench.database, claim_all(bench.database))
    cancel(bench, one)
    assert bench.database.transaction(lambda c: runs.hand_back(c, held(started))) == set()
    assert run_of(bench.database, one)["state"] == "cancelled"


def test_a_run_that_waits_is_cancelled_at_once_and_never_starts(bench: Bench) -> None:
    one = bench.due()
    found = cancel(bench, one)
    assert found is not None
    assert (found["state"], found["reason"], found["cancel_asked_at"]) == ("cancelled", "cancelled", None)
    bench.handle = lambda run: pytest.fail("it began")
    bench.engine.bell.set()
    while bench.engine.step():
        pass
    assert bench.state(one) == "cancelled"


def test_a_run_that_is_over_or_of_somebody_else_stays(bench: Bench) -> None:
    one = insert(bench.database)
    started = start(bench.database, claim_all(bench.database))
    finish(bench.database, Outcome(held(started)[0], "succeeded"))
    before = run_of(bench.database, one)
    assert (cancel(bench, one) or {})["state"] == "succeeded"
    assert cancel(bench, one, namespace="other") is None
    assert run_of(bench.database, one) == before
    assert select(bench.database, "SELECT id FROM task_events WHERE action = 'run_cancelled'") == []


@pytest.mark.parametrize("door", ["api", "sql", "delete"])
def test_a_task_that_is_cancelled_while_it_runs_is_heard_too(bench: Bench, door: str) -> None:
    slow = Slow(bench, lambda run: None, last=lambda run: 1 / 0)
    one = slow.task_id
    if door == "api":
        bench.database.transaction(lambda c: control.cancel(c, "default", one, actor="key:abc"))
    elif door == "sql":
        sql(bench.database, "UPDATE tasks SET state = 'cancelled' WHERE id = :i", i=one)
    else:
        sql(bench.database, "DELETE FROM tasks WHERE id = :i", i=one)
    bench.engine.beat()
    assert slow.run is not None
    assert slow.run.cancelled
    assert slow.end()["state"] == "cancelled"


def test_a_task_that_is_paused_or_edited_goes_on(bench: Bench) -> None:
    slow = Slow(bench, lambda run: None)
    bench.database.transaction(lambda c: control.pause(c, "default", slow.task_id, actor="key:abc"))
    bench.engine.beat()
    assert slow.run is not None
    assert not slow.run.cancelled
    assert slow.end()["state"] == "succeeded"


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
    cancel(bench, one)
    bench.engine.beat()
    bench.until(lambda: bench.engine.empty, within_s=20)
    assert (bench.state(one), run_of(database, one)["reason"]) == ("cancelled", "cancelled")
    two = bench.due(handler="untrusted.heed", payload='"once"')  # nobody told this one, in the same child
    bench.until(lambda: bench.engine.empty and bench.state(two) == "succeeded", within_s=20)
    assert run_of(database, two)["result"] == "false"
    huge = bench.due(handler="untrusted.forge", payload=f'"{FORGED}"', max_failures=1)
    bench.until(lambda: bench.state(huge) == "failed", within_s=20)
    assert "an answer that cannot be read" in run_of(database, huge)["error"]
    pool.close()
    children.close()


FORGED = (lambda body: (len(body).to_bytes(4, "big") + body).hex())(b'["progress","' + b"x" * 2_000 + b'"]')
