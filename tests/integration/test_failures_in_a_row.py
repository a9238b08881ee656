"""A task that says so is paused when so many of its runs have failed in a row, by whichever end a run can have."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from clockjack.handlers import Run
from clockjack.ledger import aftermath, claim, control, wake
from clockjack.ledger.database import Database
from clockjack.ledger.finish import Outcome
from clockjack.queues import Queues
from tests.integration.life import claim_all, finish, held, popped, select, sql, start, task
from tests.integration.stepping import Later, moved, new, story, trail
from tests.integration.test_consumer import Bench

pytestmark = pytest.mark.mysql
T0 = datetime(2027, 3, 1, 12, 0, 0)
PAUSED = ("clockjack", "paused")


@pytest.fixture
def later(database_url: str) -> Iterator[Later]:
    with moved(database_url, T0) as database:
        yield database


def run(later: Later, kind: str, *, token: bytes = b"t" * 16) -> None:
    """A minute later; the runs that are due have begun and ended so."""
    later.on(60)
    ready = claim_all(later)
    if not ready:
        return
    started = start(later, ready, token)
    later.on(0.5)
    if kind == "lost":
        sql(later, "UPDATE runs SET wake_at = UTC_TIMESTAMP(6), lease_until = UTC_TIMESTAMP(6) WHERE state = 'running'")
        assert wake.look_again(later, {})[1] == len(started.execute)
        return
    assert (
        finish(later, *(Outcome(h, kind, error=None if kind == "succeeded" else "x") for h in held(started))) == set()
    )
    aftermath.settle(later, [(row, kind != "succeeded") for row in started.execute if aftermath.asks(row)])


def minutely(later: Later, **fields: Any) -> int:
    return new(later, every_s=60, start_at=T0 + timedelta(seconds=60), **fields)


def state(later: Later, one: int) -> tuple[str, str | None]:
    row = task(later, one)
    return row["state"], row["error"]


@pytest.mark.parametrize("kind", ["failed", "timeout", "lost"])
def test_so_many_in_a_row(later: Later, kind: str) -> None:
    one = minutely(later, pause_after_failures=3)
    for _ in range(2):
        run(later, kind)
    assert state(later, one) == ("active", None)
    run(later, kind)
    assert state(later, one) == ("paused", "paused by itself: 3 failures in a row")
    assert trail(later, one)[1:] == [(*PAUSED, 2)]
    run(later, kind)
    assert [what for what, _, _ in story(later, one)] == [kind] * 3 + ["paused"]


def test_one_is_enough_if_it_says_so(later: Later) -> None:
    one = minutely(later, pause_after_failures=1)
    run(later, "failed")
    assert state(later, one) == ("paused", "paused by itself after a failure")


def test_a_success_in_between_begins_anew(later: Later) -> None:
    one = minutely(later, pause_after_failures=2)
    for kind in ("failed", "succeeded", "failed", "succeeded", "failed"):
        run(later, kind)
    assert state(later, one)[0] == "active"
    run(later, "lost")
    assert state(later, one)[0] == "paused"


def test_what_is_skipped_or_cancelled_neither_counts_nor_resets(later: Later) -> None:
    one = minutely(later, pause_after_failures=2, misfire="skip")
    run(later, "failed")
    later.on(600)  # an outage
    run(later, "failed")
    assert [what for what, _, _ in story(later, one)] == ["failed", "misfire", "failed"]
    assert state(later, one)[0] == "paused"


def test_attempts_do_not_count(later: Later) -> None:
    one = minutely(later, pause_after_failures=1, max_failures=3)
    later.on(60)
    started = start(later, claim.claim(later, {}).ready)
    finish(later, Outcome(held(started)[0], "failed", error="x", retry_in_s=0.0))
    assert state(later, one)[0] == "active"


def test_a_task_that_does_not_say_so_goes_on(later: Later) -> None:
    one = minutely(later)
    for _ in range(5):
        run(later, "failed")
    assert state(later, one)[0] == "active"


@pytest.mark.parametrize("by", ["function", "sql"])
def test_it_counts_anew_after_it_was_resumed(later: Later, by: str) -> None:
    one = minutely(later, pause_after_failures=2)
    for _ in range(2):
        run(later, "failed")
    assert state(later, one)[0] == "paused"
    later.on(20)
    if by == "sql":
        sql(later, "UPDATE tasks SET state = 'active', error = NULL, next_run_at = UTC_TIMESTAMP(6)")
        claim.claim(later, {})
    else:
        later.transaction(lambda c: control.resume(c, "default", one, actor="test"))
    assert state(later, one) == ("active", None)
    run(later, "failed")
    assert state(later, one)[0] == "active"
    run(later, "failed")
    assert state(later, one)[0] == "paused"


def test_a_failure_after_somebody_cancelled_pauses_nothing(later: Later) -> None:
    one = minutely(later, pause_after_failures=1)
    later.on(60)
    started = start(later, claim.claim(later, {}).ready)
    later.transaction(lambda c: control.cancel(c, "default", one, actor="test"))
    finish(later, Outcome(held(started)[0], "failed", error="x"))
    aftermath.settle(later, [(row, True) for row in started.execute])
    assert state(later, one) == ("cancelled", None)


def test_a_process_that_died_in_between_is_made_up_for_by_the_next_failure(later: Later) -> None:
    one = minutely(later, pause_after_failures=2)
    run(later, "failed")
    later.on(60)
    started = start(later, claim.claim(later, {}).ready)
    finish(later, Outcome(held(started)[0], "failed", error="x"))  # and dies
    assert state(later, one)[0] == "active"
    run(later, "failed")
    assert state(later, one)[0] == "paused"


def test_through_the_engine(database: Database, queues: Queues) -> None:
    bench = Bench(database, queues)

    def handle(run: Run) -> None:
        raise ValueError("no")

    bench.handle = handle
    one = new(database, every_s=1, start_at=database.now() - timedelta(seconds=1), pause_after_failures=2)

    def paused() -> bool:
        bench.dispatcher.claim_step()
        bench.dispatcher.release_step()
        return bool(task(database, one)["state"] == "paused")

    bench.until(paused)
    assert [what for what, _, _ in story(database, one)].count("failed") >= 2
    assert [event[:2] for event in trail(database, one)] == [("test", "registered"), PAUSED]
    assert popped([]) == []
    assert select(database, "SELECT 1 FROM runs WHERE state = 'running'") == []
    bench.engine.pool.close()
