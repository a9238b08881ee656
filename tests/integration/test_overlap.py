"""Overlap: what a run does while another of its task has begun and not ended, in real transactions."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest

from clockjack.handlers import Run
from clockjack.ledger import aftermath, claim, control, runs, wake
from clockjack.ledger.advance import Ready
from clockjack.ledger.database import Database
from clockjack.ledger.finish import Outcome
from clockjack.queues import Queues
from tests.integration.life import finish, held, popped, select, sql, start, task
from tests.integration.stepping import Later, moved, new, story
from tests.integration.test_consumer import Bench

pytestmark = pytest.mark.mysql
T0 = datetime(2027, 3, 1, 12, 0, 0)
TOKENS = tuple(bytes([i]) * 16 for i in range(1, 9))


@pytest.fixture
def later(database_url: str) -> Iterator[Later]:
    with moved(database_url, T0) as database:
        yield database


def at(minutes: float) -> datetime:
    return T0 + timedelta(minutes=minutes)


def due(later: Later, minute: int) -> list[Ready]:
    """It is that minute, and its runs are claimed."""
    later.to(at(minute))
    return claim.claim(later, {}).ready


def minutely(later: Later, **fields: Any) -> tuple[int, runs.Started]:
    """A task of every minute whose run of 12:01 has begun."""
    one = new(later, every_s=60, start_at=at(1), **fields)
    started = start(later, due(later, 1), TOKENS[0])
    sql(later, "UPDATE runs SET wake_at = UTC_TIMESTAMP(6) + INTERVAL 1 DAY")  # heartbeats keep its lease
    return one, started


def live(later: Later) -> list[int | None]:
    return [r["live_task_id"] for r in select(later, "SELECT live_task_id FROM runs ORDER BY due_at")]


def ends(later: Later, started: runs.Started, kind: str = "succeeded") -> int:
    """The runs have ended, and what follows is done, as a consumer does; how many runs that woke."""
    assert finish(later, *(Outcome(h, kind) for h in held(started))) == set()
    return aftermath.settle(later, [(run, kind != "succeeded") for run in started.execute])


def verdicts(started: runs.Started) -> list[str]:
    return [verdict for _, verdict in started.not_run]


def test_allow_runs_both_and_carries_nothing(later: Later) -> None:
    one, _ = minutely(later)
    ready = due(later, 2)
    assert [r.live_task_id for r in ready] == [None]
    assert len(start(later, ready, TOKENS[1]).execute) == 1
    assert story(later, one) == [("running", at(1), None), ("running", at(2), None)]
    assert live(later) == [None, None]


def test_skip(later: Later) -> None:
    one, first = minutely(later, overlap="skip")
    assert verdicts(start(later, due(later, 2), TOKENS[1])) == ["overlap"]
    ends(later, first)
    assert len(start(later, due(later, 3), TOKENS[2]).execute) == 1
    assert story(later, one) == [("succeeded", at(1), None), ("overlap", at(2), None), ("running", at(3), None)]
    assert live(later) == [None, None, one]
    skipped = select(later, "SELECT first_started_at, started_at, wake_at FROM runs WHERE due_at = :d", d=at(2))
    assert skipped == [{"first_started_at": None, "started_at": None, "wake_at": None}]


def test_queue_one_waits_and_is_woken_by_the_end(later: Later) -> None:
    one, first = minutely(later, overlap="queue_one")
    assert verdicts(start(later, due(later, 2), TOKENS[1])) == ["overlaps"]
    assert wake.look_again(later, {})[0] == []
    assert verdicts(start(later, due(later, 3), TOKENS[2])) == ["overlap"]
    sql(later, "UPDATE runs SET wake_at = UTC_TIMESTAMP(6) + INTERVAL 5 SECOND WHERE state = 'ready'")
    assert ends(later, first) == 1
    (waiting,), _, _ = wake.look_again(later, {})
    assert (waiting.due_at, waiting.attempt, waiting.live_task_id) == (at(2), 2, one)
    assert len(start(later, [waiting], TOKENS[3]).execute) == 1
    assert story(later, one) == [("succeeded", at(1), None), ("running", at(2), None), ("overlap", at(3), None)]


def test_queue_one_looks_for_itself(later: Later) -> None:
    """The consumer of the first run dies right after its outcome is committed: nobody wakes the other."""
    _, first = minutely(later, overlap="queue_one")
    start(later, due(later, 2), TOKENS[1])
    for attempt in (2, 3):
        later.on(5)
        (waiting,), _, _ = wake.look_again(later, {})
        assert waiting.attempt == attempt
        assert verdicts(start(later, [waiting], TOKENS[attempt])) == ["overlaps"]
    finish(later, Outcome(held(first)[0], "succeeded"))
    later.on(4.9)
    assert wake.look_again(later, {})[0] == []
    later.on(0.1)
    (waiting,), _, _ = wake.look_again(later, {})
    assert len(start(later, [waiting], TOKENS[4]).execute) == 1


def test_queue_one_of_a_run_whose_consumer_is_lost(later: Later) -> None:
    one, _ = minutely(later, overlap="queue_one", max_failures=1)
    start(later, due(later, 2), TOKENS[1])
    sql(later, "UPDATE runs SET wake_at = UTC_TIMESTAMP(6), lease_until = UTC_TIMESTAMP(6) WHERE state = 'running'")
    wake.look_again(later, {})
    (waiting,), _, _ = wake.look_again(later, {})
    assert len(start(later, [waiting], TOKENS[2]).execute) == 1
    assert story(later, one) == [("lost", at(1), None), ("running", at(2), None)]


def test_replace(later: Later) -> None:
    one, first = minutely(later, overlap="replace", max_failures=9)
    assert len(start(later, due(later, 2), TOKENS[1]).execute) == 1
    assert story(later, one) == [("replaced", at(1), None), ("running", at(2), None)]
    old = held(first)[0]
    assert later.transaction(lambda c: runs.heartbeat(c, [old])) == set()
    assert later.transaction(lambda c: runs.hand_back(c, [old])) == set()
    assert finish(later, Outcome(old, "succeeded")) == {(old.run_id, 1)}
    assert story(later, one)[0] == ("replaced", at(1), None)
    over = select(later, "SELECT state, wake_at, live_task_id, finished_at FROM runs WHERE id = :i", i=old.run_id)[0]
    assert over == {"state": "cancelled", "wake_at": None, "live_task_id": None, "finished_at": at(2)}


def test_replace_ends_also_one_that_waits_for_its_next_attempt(later: Later) -> None:
    one, first = minutely(later, overlap="replace", max_failures=9)
    finish(later, Outcome(held(first)[0], "failed", error="x", retry_in_s=600.0))
    start(later, due(later, 2), TOKENS[1])
    assert story(later, one) == [("replaced", at(1), None), ("running", at(2), None)]


def test_replace_within_one_batch_leaves_the_last(later: Later) -> None:
    one = new(later, every_s=60, start_at=at(1), overlap="replace")
    ready = [*due(later, 1), *due(later, 2), *due(later, 3)]
    assert [run["due_at"] for run in start(later, ready).execute] == [at(3)]
    assert [what for what, _, _ in story(later, one)] == ["replaced", "replaced", "running"]


@pytest.mark.parametrize(
    ("overlap", "ends"),
    [("skip", ["running", "overlap", "overlap"]), ("queue_one", ["running", "ready", "overlap"])],
)
def test_a_batch_is_judged_in_the_order_of_due_times(later: Later, overlap: str, ends: list[str]) -> None:
    one = new(later, every_s=60, start_at=at(1), overlap=overlap)
    ready = [*due(later, 1), *due(later, 2), *due(later, 3)]
    start(later, ready[::-1])
    assert [what for what, _, _ in story(later, one)] == ends


def test_other_tasks_do_not_count(later: Later) -> None:
    for _ in range(2):
        new(later, every_s=60, start_at=at(1), overlap="skip")
    assert len(start(later, due(later, 1)).execute) == 2


@pytest.mark.parametrize("overlap", ["skip", "queue_one", "replace"])
def test_a_run_by_hand_begins_and_counts_as_begun(later: Later, overlap: str) -> None:
    one, _ = minutely(later, overlap=overlap)
    later.on(30)
    later.transaction(lambda c: control.run_now(c, "default", [one], actor="test"))
    (manual,), _, _ = wake.look_again(later, {})
    by_hand = start(later, [manual], TOKENS[1])
    assert len(by_hand.execute) == 1
    assert [what for what, _, _ in story(later, one)] == ["running", "running"]
    finish(later, Outcome(held(by_hand)[0], "failed", error="x", retry_in_s=0.0))
    (manual,), _, _ = wake.look_again(later, {})
    assert len(start(later, [manual], TOKENS[2]).execute) == 1
    expected = {"skip": ["overlap"], "queue_one": ["overlaps"], "replace": []}[overlap]
    assert verdicts(start(later, due(later, 2), TOKENS[3])) == expected


def test_a_run_by_hand_that_is_about_to_begin_is_not_one_that_waits(later: Later) -> None:
    one, _ = minutely(later, overlap="queue_one")
    later.to(at(1.5))
    later.transaction(lambda c: control.run_now(c, "default", [one], actor="test"))
    assert verdicts(start(later, due(later, 2), TOKENS[1])) == ["overlaps"]


@pytest.mark.parametrize("overlap", ["skip", "queue_one", "replace"])
def test_a_second_attempt_does_not_overlap_itself(later: Later, overlap: str) -> None:
    one, first = minutely(later, overlap=overlap, max_failures=9)
    finish(later, Outcome(held(first)[0], "failed", error="x", retry_in_s=0.0))
    (again,), _, _ = wake.look_again(later, {})
    assert again.live_task_id == one
    assert len(start(later, [again], TOKENS[1]).execute) == 1


@pytest.mark.parametrize("overlap", ["skip", "queue_one", "replace"])
def test_a_second_attempt_is_not_judged_again(later: Later, overlap: str) -> None:
    """It has begun: what began by hand meanwhile is no reason to end it, and is not replaced by it."""
    one, first = minutely(later, overlap=overlap, max_failures=9)
    finish(later, Outcome(held(first)[0], "failed", error="x", retry_in_s=40.0))
    later.on(30)
    later.transaction(lambda c: control.run_now(c, "default", [one], actor="test"))
    (manual,), _, _ = wake.look_again(later, {})
    assert len(start(later, [manual], TOKENS[1]).execute) == 1
    sql(later, "UPDATE runs SET wake_at = UTC_TIMESTAMP(6) + INTERVAL 1 DAY WHERE state = 'running'")
    later.on(10)
    (again,), _, _ = wake.look_again(later, {})
    assert len(start(later, [again], TOKENS[2]).execute) == 1
    assert [what for what, _, _ in story(later, one)] == ["running", "running"]


def test_one_that_waits_for_its_next_attempt_has_begun(later: Later) -> None:
    _, first = minutely(later, overlap="skip", max_failures=9)
    finish(later, Outcome(held(first)[0], "failed", error="x", retry_in_s=600.0))
    assert verdicts(start(later, due(later, 2), TOKENS[1])) == ["overlap"]


def test_one_that_was_handed_back_has_not_begun(later: Later) -> None:
    one, first = minutely(later, overlap="skip")
    later.transaction(lambda c: runs.hand_back(c, held(first)))
    assert len(start(later, due(later, 2), TOKENS[1]).execute) == 1
    (back,), _, _ = wake.look_again(later, {})
    assert verdicts(start(later, [back], TOKENS[2])) == ["overlap"]
    assert [what for what, _, _ in story(later, one)] == ["overlap", "running"]


@pytest.mark.parametrize(("change", "what"), [("state = 'paused'", "paused"), ("state = 'cancelled'", "cancelled")])
def test_one_that_waits_is_judged_again_when_its_turn_comes(later: Later, change: str, what: str) -> None:
    one, first = minutely(later, overlap="queue_one")
    start(later, due(later, 2), TOKENS[1])
    sql(later, f"UPDATE tasks SET {change}")
    ends(later, first)
    (waiting,), _, _ = wake.look_again(later, {})
    assert verdicts(start(later, [waiting], TOKENS[2])) == [what]
    assert story(later, one) == [("succeeded", at(1), None), (what, at(2), None)]


def test_an_edit_from_allow_to_skip_between_claim_and_start(later: Later) -> None:
    """The message does not know it yet: the run goes round once, and then its task is locked before it."""
    one = new(later, every_s=60, start_at=at(1))
    ready = [*due(later, 1), *due(later, 2)]
    sql(later, "UPDATE tasks SET overlap = 'skip'")
    assert verdicts(start(later, ready, TOKENS[0])) == ["again", "again"]
    assert live(later) == [one, one]
    assert wake.look_again(later, {})[0] == []
    later.on(0.1)
    again, _, _ = wake.look_again(later, {})
    assert [(r.live_task_id, r.attempt) for r in again] == [(one, 2), (one, 2)]
    assert verdicts(start(later, again, TOKENS[1])) == ["overlap"]
    assert story(later, one) == [("running", at(1), None), ("overlap", at(2), None)]


def test_a_message_that_does_not_say_what_the_row_says_goes_round_too(later: Later) -> None:
    one = new(later, every_s=60, start_at=at(1), overlap="skip")
    (ready,) = due(later, 1)
    old = Ready(ready.run_id, ready.due_at, 1, "default")
    assert verdicts(start(later, [old])) == ["again"]
    later.on(0.1)
    (again,), _, _ = wake.look_again(later, {})
    assert [run["task_id"] for run in start(later, [again]).execute] == [one]


def test_an_edit_from_skip_to_allow_between_claim_and_start(later: Later) -> None:
    one, _ = minutely(later, overlap="skip")
    ready = due(later, 2)
    sql(later, "UPDATE tasks SET overlap = 'allow'")
    second = start(later, ready, TOKENS[1])
    assert len(second.execute) == 1
    finish(later, Outcome(held(second)[0], "succeeded"))
    assert story(later, one)[1] == ("succeeded", at(2), None)
    assert live(later) == [one, None]


def test_redis_lost_its_data_while_a_run_that_was_handed_back_waits_for_a_far_look(later: Later) -> None:
    _, first = minutely(later, overlap="skip")
    later.transaction(lambda c: runs.hand_back(c, held(first)))
    wake.look_again(later, {"default": 100.0})
    assert wake.look_again(later, {})[0] == []
    assert wake.wake_all(later) == 1
    assert len(wake.look_again(later, {})[0]) == 1


def test_redis_lost_its_data_while_a_run_waits_for_another(later: Later) -> None:
    minutely(later, overlap="queue_one")
    start(later, due(later, 2), TOKENS[1])
    assert wake.wake_all(later) == 0


@pytest.mark.parametrize(
    ("overlap", "states"),
    [
        ("skip", ["overlap", "running"]),
        ("queue_one", ["ready", "running"]),
        ("replace", ["replaced", "running"]),
        ("allow", ["running", "running"]),
    ],
)
def test_two_consumers_at_the_same_moment(database: Database, overlap: str, states: list[str]) -> None:
    """Two runs of one task, started in two transactions side by side, many times."""
    for _ in range(20):
        now = database.now()
        begin = now - timedelta(seconds=2)
        one = new(database, every_s=3600, start_at=now + timedelta(seconds=1800), overlap=overlap)
        keys: list[Ready] = []
        for i in range(2):
            sql(
                database,
                "INSERT INTO runs (task_id, due_at, schedule_version, queue, state, live_task_id, wake_at)"
                " VALUES (:t, :d, 1, 'default', 'ready', :live, UTC_TIMESTAMP(6) + INTERVAL 9 SECOND)",
                t=one,
                d=begin + timedelta(seconds=i),
                live=None if overlap == "allow" else one,
            )
        for row in select(database, "SELECT * FROM runs WHERE task_id = :t ORDER BY due_at", t=one):
            keys.append(Ready(row["id"], row["due_at"], 1, "default", row["live_task_id"]))
        gate = threading.Barrier(2)

        def body(ready: Ready, token: bytes, gate: threading.Barrier = gate) -> None:
            gate.wait(5)
            database.transaction(lambda c: runs.start(c, popped([ready]), token, "test"))

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(body, keys, TOKENS[:2]))
        assert sorted(what for what, _, _ in story(database, one)) == states


def test_the_engine_wakes_what_waits(database: Database, queues: Queues) -> None:
    bench = Bench(database, queues)
    begun, release = threading.Semaphore(0), threading.Event()

    def handle(run: Run) -> None:
        begun.release()
        release.wait(20)

    bench.handle = handle
    now = database.now()
    one = new(database, every_s=1, start_at=now - timedelta(seconds=1), overlap="queue_one", max_runs=2)
    sql(database, "UPDATE tasks SET next_run_at = :t", t=now - timedelta(seconds=1))
    while task(database, one)["next_run_at"]:
        bench.dispatcher.claim_step()

    def states() -> list[str]:
        bench.dispatcher.release_step()
        return [what for what, _, _ in story(database, one)]

    bench.until(lambda: states() == ["running", "ready"])
    bench.until(lambda: states() and select(database, "SELECT 1 FROM runs WHERE attempt = 1 AND state = 'ready'"))
    assert begun.acquire(timeout=5)
    release.set()
    bench.until(lambda: states()[0] == "succeeded")
    assert select(database, "SELECT 1 FROM runs WHERE state = 'ready' AND wake_at <= UTC_TIMESTAMP(6)")
    bench.dispatcher.look_step()
    bench.until(lambda: states() == ["succeeded", "succeeded"])
    bench.engine.pool.close()


def test_the_engine_stops_a_handler_whose_run_is_replaced(database: Database, queues: Queues) -> None:
    bench = Bench(database, queues)
    begun, seen = threading.Semaphore(0), list[Any]()

    def handle(run: Run) -> None:
        begun.release()
        try:
            while not seen:
                time.sleep(0.01)
        finally:
            seen.append(run.due_at)

    bench.handle = handle
    last = database.now().replace(microsecond=0)
    one = new(database, every_s=1, start_at=last - timedelta(seconds=1), overlap="replace", max_runs=2)
    sql(database, "UPDATE tasks SET next_run_at = start_at, max_runs = 1")
    bench.dispatcher.claim_step()
    bench.until(lambda: begun.acquire(blocking=False))
    sql(database, "UPDATE tasks SET next_run_at = :t, max_runs = 2", t=last)
    bench.dispatcher.claim_step()
    bench.until(lambda: begun.acquire(blocking=False))
    assert story(database, one)[0][0] == "replaced"
    bench.engine.beat()
    bench.until(lambda: bench.engine.empty)
    assert [what for what, _, _ in story(database, one)] == ["replaced", "succeeded"]
    bench.engine.pool.close()
