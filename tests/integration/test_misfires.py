"""Outages under a moved clock: which rows each policy leaves, what comes first, and at which pace."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from clockjack.ledger import claim
from clockjack.ledger.advance import Ready
from clockjack.queues import Queues
from dispatcher.loops import Dispatcher
from tests.integration.life import popped, run_of, select, sql, start, task
from tests.integration.stepping import Later, moved, new, settle, story

pytestmark = pytest.mark.mysql
T0 = datetime(2027, 3, 1, 12, 0, 0)
HOUR = 3630.0  # and 30 s, so that no occurrence of a minute is on time at its end


@pytest.fixture
def later(database_url: str) -> Iterator[Later]:
    with moved(database_url, T0) as database:
        yield database


@pytest.fixture
def dispatcher(later: Later, queues: Queues) -> Dispatcher:
    return Dispatcher(later, queues)


def at(minutes: float) -> datetime:
    return T0 + timedelta(minutes=minutes)


def outage(dispatcher: Dispatcher, later: Later, most: int = 40, **fields: Any) -> int:
    """A task of every minute; for an hour no dispatcher is there."""
    one = new(later, every_s=60, start_at=T0, **fields)
    later.to(at(1))
    settle(dispatcher)
    later.on(HOUR)
    settle(dispatcher, most)
    return one


def test_the_clock_of_a_moved_database_stands(later: Later) -> None:
    assert [later.now(), later.on(86_400), later.now()] == [T0, at(1440), at(1440)]
    one = new(later, every_s=60)
    assert task(later, one)["created_at"] == at(1440)


def test_skip_runs_none_of_what_was_missed(dispatcher: Dispatcher, later: Later) -> None:
    one = outage(dispatcher, later, most=2, misfire="skip")
    assert story(later, one) == [("ready", at(1), None), ("misfire", at(2), at(62))]
    assert task(later, one)["next_run_at"] == at(62)


def test_once_runs_the_first_of_it(dispatcher: Dispatcher, later: Later) -> None:
    one = outage(dispatcher, later, most=2, misfire="once")
    assert story(later, one) == [("ready", at(1), None), ("ready", at(2), None), ("misfire", at(3), at(62))]


def test_all_runs_each_of_it(dispatcher: Dispatcher, later: Later) -> None:
    one = outage(dispatcher, later, most=62, misfire="all")
    assert story(later, one) == [("ready", at(i), None) for i in range(1, 62)]
    assert task(later, one)["misfires_claimed"] == 60
    later.to(at(62))
    settle(dispatcher)
    assert task(later, one)["misfires_claimed"] == 0
    assert story(later, one)[-1] == ("ready", at(62), None)


def test_all_runs_no_more_than_its_cap(dispatcher: Dispatcher, later: Later) -> None:
    one = outage(dispatcher, later, most=8, misfire="all", max_misfires=7)
    assert story(later, one) == [*(("ready", at(i), None) for i in range(1, 9)), ("misfire", at(9), at(62))]


def test_what_is_too_late_does_not_run(dispatcher: Dispatcher, later: Later) -> None:
    one = outage(dispatcher, later, misfire="all", max_lateness_s=300)
    late = [("too_late", at(2), at(57)), *(("ready", at(i), None) for i in range(57, 62))]
    assert story(later, one) == [("ready", at(1), None), *late]


def test_what_becomes_too_late_between_claim_and_start_is_skipped(dispatcher: Dispatcher, later: Later) -> None:
    one = new(later, run_at=at(1), max_lateness_s=20)
    later.to(at(1))
    ready = claim.claim(later, {}).ready
    later.on(20.5)
    assert [verdict for _, verdict in start(later, ready).not_run] == ["too_late"]
    assert story(later, one) == [("too_late", at(1), None)]
    assert run_of(later, one)["first_started_at"] is None


def test_a_second_attempt_is_never_too_late(dispatcher: Dispatcher, later: Later) -> None:
    new(later, run_at=at(1), max_lateness_s=20, max_failures=5)
    later.to(at(1))
    (run,) = start(later, claim.claim(later, {}).ready).execute
    later.on(60)
    sql(later, "UPDATE runs SET state = 'ready' WHERE id = :i", i=run["id"])
    again = Ready(run["id"], run["due_at"], 2, "default")
    assert len(start(later, [again]).execute) == 1


def test_a_one_time_task_of_the_outage(dispatcher: Dispatcher, later: Later) -> None:
    ids = {misfire: new(later, run_at=at(5), misfire=misfire) for misfire in ("skip", "once", "all")}
    later.on(HOUR)
    settle(dispatcher)
    assert story(later, ids["skip"]) == [("misfire", at(5), later.at)]
    assert story(later, ids["once"]) == story(later, ids["all"]) == [("ready", at(5), None)]


def test_a_new_row_of_plain_sql_that_waited_for_a_dispatcher_is_missed_like_any_other(
    dispatcher: Dispatcher, later: Later
) -> None:
    later.on(3)
    sql(later, "INSERT INTO tasks (handler, cron, misfire) VALUES ('mock', '*/10 * * * *', 'skip')")
    one = select(later, "SELECT id FROM tasks")[0]["id"]
    later.on(HOUR)
    settle(dispatcher)
    assert story(later, one) == [("misfire", at(10), at(70))]


def test_on_time_work_is_claimed_first(dispatcher: Dispatcher, later: Later) -> None:
    late = [new(later, run_at=at(5)) for _ in range(5)]
    fresh = new(later, run_at=at(60))
    later.to(at(60))
    assert [ready.run_id for ready in claim.claim(later, {}, 1).ready] == [run_of(later, fresh)["id"]]
    assert len(claim.claim(later, {}, 10).ready) == len(late)


def test_overdue_work_comes_at_its_pace_and_halts_where_somebody_waits(
    later: Later, monkeypatch: pytest.MonkeyPatch
) -> None:
    """120 overdue tasks in each of two queues, and a claimer whose seconds the test counts."""
    for queue in ("slow", "other"):
        values = ", ".join(["('mock', :q, :t)"] * 120)
        sql(later, f"INSERT INTO tasks (handler, queue, run_at) VALUES {values}", q=queue, t=at(5))
    later.on(HOUR)
    memory, second = claim.Memory(), [1000.0]
    monkeypatch.setattr("clockjack.ledger.claim.time.monotonic", lambda: second[0])

    def given(ages: dict[str, float]) -> dict[str, int]:
        counts = {"slow": 0, "other": 0}
        for _ in range(3):
            for ready in claim.claim(later, ages, memory=memory).ready:
                counts[ready.queue] += 1
        return counts

    assert given({}) == {"slow": 100, "other": 100}  # the first second
    second[0] += 1.0
    assert given({"slow": 0.5}) == {"slow": 0, "other": 20}  # somebody waits in one of them
    fresh = new(later, run_at=later.at, queue="slow")
    second[0] += 1.0
    assert given({"slow": 0.5}) == {"slow": 1, "other": 0}  # work on time is claimed all the same
    assert run_of(later, fresh)["state"] == "ready"
    for _ in range(8):
        second[0] += 1.0
        assert given({"slow": 2.0}) == {"slow": 0, "other": 0}
    second[0] += 1.0
    assert given({})["slow"] > 0
    for _ in range(10):
        second[0] += 1.0
        given({})
    assert select(later, "SELECT COUNT(*) AS n FROM tasks WHERE next_run_at IS NOT NULL") == [{"n": 0}]


def test_messages_of_a_moved_claim_are_due_in_redis(dispatcher: Dispatcher, later: Later, queues: Queues) -> None:
    new(later, run_at=at(1))
    later.to(at(1))
    dispatcher.claim_step()
    dispatcher.release_step()
    found, _ = queues.step("default", "w", later.clock.now_us(), (5, 5, 1), [])
    assert [p.due_at for p in found] == [at(1)]
    assert popped([]) == []


def test_a_range_whose_first_occurrence_has_a_row_begins_behind_it(dispatcher: Dispatcher, later: Later) -> None:
    one = new(later, every_s=60, start_at=T0, misfire="once")
    later.to(at(1))
    settle(dispatcher)
    for minute in (3, 4):  # rows of their own, by whatever made them
        sql(
            later,
            "INSERT INTO runs (task_id, due_at, schedule_version, queue, state, finished_at)"
            " VALUES (:t, :d, 1, 'default', 'succeeded', :d)",
            t=one,
            d=at(minute),
        )
    later.on(HOUR)
    settle(dispatcher, 5)
    assert story(later, one) == [
        ("ready", at(1), None),
        ("ready", at(2), None),
        *(("succeeded", at(minute), None) for minute in (3, 4)),
        ("misfire", at(5), at(62)),
    ]
