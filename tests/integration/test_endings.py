"""Retry, Snooze, Discard and Fail: raised or returned, by functions, coroutines and children, also without Redis."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from clockjack import Discard, Fail, Retry, Run, Snooze
from clockjack.ledger import direct, wake
from clockjack.ledger.database import Database
from clockjack.ledger.finish import Outcome
from clockjack.moments import FIRST
from clockjack.queues import Queues
from clockjack.settings import Settings
from consumers.execution import Job
from consumers.isolation import Children
from tests.integration.life import claim_all, finish, held, insert, make_due, run_of, select, sql, start
from tests.integration.test_consumer import Bench

pytestmark = pytest.mark.mysql
AGAIN_IN = "SELECT TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(6), wake_at) AS s FROM runs"


def raises(ending: Callable[[], Any]) -> Callable[[Run], Any]:
    def handle(run: Run) -> Any:
        raise ending()

    return handle


def returns(ending: Callable[[], Any]) -> Callable[[Run], Any]:
    return lambda run: ending()


def awaits(ending: Callable[[], Any]) -> Callable[[Run], Any]:
    async def handle(run: Run) -> Any:
        raise ending()

    return handle


def gives(ending: Callable[[], Any]) -> Callable[[Run], Any]:
    async def handle(run: Run) -> Any:
        return ending()

    return handle


WAYS = pytest.mark.parametrize("way", [raises, returns, awaits, gives])


@pytest.fixture
def bench(database: Database, queues: Queues) -> Iterator[Bench]:
    bench = Bench(database, queues)
    yield bench
    bench.engine.pool.close()


def attempted(bench: Bench, **columns: Any) -> dict[str, Any]:
    """The run of a new task, when its first attempt has ended and was written."""
    one = bench.due(**columns)
    bench.until(lambda: run_of(bench.database, one)["attempt"] == 1 and bench.engine.empty)
    return run_of(bench.database, one)


def attempts(database: Database) -> list[tuple[int, str, str | None]]:
    found = select(database, "SELECT attempt, outcome, error FROM attempts ORDER BY attempt")
    return [(row["attempt"], row["outcome"], row["error"]) for row in found]


@WAYS
def test_a_retry_is_a_failure_that_says_when(bench: Bench, way: Any) -> None:
    bench.handle = way(lambda: Retry(500, "busy"))
    run = attempted(bench, backoff_s=0)
    assert (run["state"], run["failures"], run["error"]) == ("ready", 1, "Retry: busy")
    assert select(bench.database, AGAIN_IN)[0]["s"] in range(490, 501)
    assert attempts(bench.database) == [(1, "failed", "Retry: busy")]


def test_a_retry_is_bounded_by_the_budget(bench: Bench) -> None:
    bench.handle = raises(lambda: Retry(500))
    run = attempted(bench, max_failures=1)
    assert (run["state"], run["reason"], run["error"]) == ("failed", "failed", "Retry")


@WAYS
def test_a_snooze_is_no_failure_and_brings_the_same_occurrence_again(bench: Bench, way: Any) -> None:
    ending = way(lambda: Snooze(500))
    bench.handle = lambda run: ending(run) if run.attempt < 3 else "done"
    run = attempted(bench, max_failures=1)
    assert (run["state"], run["failures"], run["error"]) == ("ready", 0, None)
    assert select(bench.database, AGAIN_IN)[0]["s"] in range(490, 501)
    for attempt in (2, 3):
        make_due(bench.database, run["id"])
        bench.dispatcher.look_step()
        bench.until(lambda n=attempt: run_of(bench.database, run["task_id"])["attempt"] == n and bench.engine.empty)
    last = run_of(bench.database, run["task_id"])
    assert (last["id"], last["due_at"], last["state"]) == (run["id"], run["due_at"], "succeeded")
    assert (last["failures"], last["result"], last["first_started_at"]) == (0, '"done"', run["first_started_at"])
    assert attempts(bench.database) == [(1, "snoozed", "Snooze"), (2, "snoozed", "Snooze")]


@WAYS
def test_a_discard_ends_the_run_and_is_no_dead_letter(bench: Bench, way: Any) -> None:
    bench.handle = way(lambda: Discard("the user is gone"))
    run = attempted(bench, pause_after_failures=1)
    assert (run["state"], run["reason"], run["error"]) == ("cancelled", "discarded", "Discard: the user is gone")
    assert (run["failures"], run["wake_at"], run["live_task_id"]) == (0, None, None)
    assert run["finished_at"] is not None
    assert attempts(bench.database) == [(1, "discarded", "Discard: the user is gone")]
    assert select(bench.database, "SELECT state FROM tasks") == [{"state": "active"}]  # it has not failed


@WAYS
def test_a_fail_is_a_dead_letter_whatever_is_left_of_the_budget(bench: Bench, way: Any) -> None:
    bench.handle = way(lambda: Fail("no such template"))
    run = attempted(bench, max_failures=9)
    assert (run["state"], run["reason"], run["failures"]) == ("failed", "failed", 1)
    assert run["error"] == "Fail: no such template"


def test_a_bad_value_is_the_handlers_error(bench: Bench) -> None:
    bench.handle = returns(lambda: Snooze("soon"))  # type: ignore[arg-type]
    run = attempted(bench, max_failures=1)
    assert (run["state"], run["error"]) == (
        "failed",
        "TypeError: Snooze: after_s must be a number of seconds, not str",
    )


def test_what_is_not_an_instance_is_no_ending(bench: Bench) -> None:
    bench.handle = lambda run: Snooze
    run = attempted(bench, max_failures=1)
    assert run["error"].startswith("TypeError: Object of type type is not JSON serializable")


def test_endings_of_children(database: Database, queues: Queues) -> None:
    handlers = ("tests.integration.untrusted",)
    settings = Settings(database_url="", redis_url=queues.url, isolated=True, handlers=handlers)
    children, bench = Children(settings, 2), Bench(database, queues, size=2)
    pool = bench.engine.pool
    pool.isolated = True

    def call(job: Job, run: Run) -> Any:
        return children.call(run, 0, lambda child: pool.owns(job, child))

    pool._call = call
    words = ("retry", "snooze", "discard", "fail")
    ids = {(w, how): bench.due(handler=f"untrusted.{how}", payload=f'"{w}"') for w in words for how in ("end", "give")}
    forged = bench.due(handler="untrusted.forge", payload=f'"{FORGED}"', max_failures=1)
    bench.until(lambda: bench.engine.empty and bench.state(forged) == "failed", within_s=40)
    found = {key: run_of(database, task_id) for key, task_id in ids.items()}
    for how in ("end", "give"):
        assert [(found[w, how]["state"], found[w, how]["failures"], found[w, how]["error"]) for w in words] == [
            ("ready", 1, "Retry: busy"),
            ("ready", 0, None),
            ("cancelled", 0, "Discard: gone"),
            ("failed", 1, "Fail: no"),
        ]
    assert "an answer that cannot be read" in run_of(database, forged)["error"]
    pool.close()
    children.close()


FORGED = (lambda body: (len(body).to_bytes(4, "big") + body).hex())(b'["snooze",false,{"after_s":1e300}]')


def test_without_redis_a_snoozed_run_is_found_at_its_time_and_not_before(database: Database) -> None:
    one = insert(database)
    started = start(database, claim_all(database))
    assert finish(database, Outcome(held(started)[0], "snoozed", retry_in_s=30.0)) == set()

    def found() -> list[int]:
        return [
            p.attempt for p in database.transaction(lambda c: direct.find(c, "default", 9, FIRST, [], away=True))[0]
        ]

    assert found() == []
    sql(database, "UPDATE runs SET wake_at = UTC_TIMESTAMP(6)")
    assert found() == [2]
    assert run_of(database, one)["failures"] == 0


def test_a_snoozed_run_sleeps_on_when_redis_has_lost_its_data(database: Database) -> None:
    insert(database)
    started = start(database, claim_all(database))
    finish(database, Outcome(held(started)[0], "snoozed", retry_in_s=500.0))
    beside = insert(database)
    claim_all(database)
    assert wake.wake_all(database) == 1
    assert select(database, AGAIN_IN + " WHERE attempt = 1")[0]["s"] > 400
    assert run_of(database, beside)["wake_at"] <= database.now()


@pytest.mark.parametrize("kind", ["snoozed", "discarded"])
def test_an_ending_whose_commit_got_no_answer_is_given_again_and_counts_once(database: Database, kind: str) -> None:
    insert(database)
    started = start(database, claim_all(database))
    ending = Outcome(held(started)[0], kind, error="x", retry_in_s=60.0 if kind == "snoozed" else None)
    assert finish(database, ending) == set()
    assert finish(database, ending) == set()  # it is there already, which is no refusal
    assert [row[:2] for row in attempts(database)] == [(1, kind)]


def test_a_snooze_that_comes_after_the_lease_is_refused(database: Database) -> None:
    one = insert(database)
    started = start(database, claim_all(database))
    make_due(database, run_of(database, one)["id"])
    wake.look_again(database, {})  # the attempt is lost
    lost = held(started)[0]
    assert finish(database, Outcome(lost, "snoozed", retry_in_s=60.0)) == {(lost.run_id, 1)}
    assert run_of(database, one)["failures"] == 1
