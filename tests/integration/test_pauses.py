"""Pauses, edits and cancels under a moved clock: one row for what a pause missed, nothing of an old schedule runs."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from clockjack.ledger import claim, control, tasks
from clockjack.ledger.finish import Outcome
from clockjack.queues import Queues
from dispatcher.loops import Dispatcher
from tests.integration.life import finish, held, run_of, select, sql, start, task
from tests.integration.stepping import Later, moved, new, settle, story, trail

pytestmark = pytest.mark.mysql
T0 = datetime(2027, 3, 1, 12, 0, 0)
RESUME = "UPDATE tasks SET state = 'active', next_run_at = COALESCE(run_at, UTC_TIMESTAMP(6)) WHERE id = :i"
CATCH_UP = (
    "UPDATE tasks SET state = 'active', next_run_at = COALESCE(missed_since, run_at, UTC_TIMESTAMP(6)) WHERE id = :i"
)


@pytest.fixture
def later(database_url: str) -> Iterator[Later]:
    with moved(database_url, T0) as database:
        yield database


@pytest.fixture
def dispatcher(later: Later, queues: Queues) -> Dispatcher:
    return Dispatcher(later, queues)


def at(minutes: float) -> datetime:
    return T0 + timedelta(minutes=minutes)


def pause(database: Later, one: int, by: str = "function") -> None:
    if by == "sql":
        sql(database, "UPDATE tasks SET state = 'paused' WHERE id = :i", i=one)
    else:
        database.transaction(lambda c: control.pause(c, "default", one, actor="test"))


def resume(database: Later, one: int, by: str = "function", *, catch_up: bool = False) -> None:
    if by == "sql":
        sql(database, CATCH_UP if catch_up else RESUME, i=one)
    else:
        database.transaction(lambda c: control.resume(c, "default", one, actor="test", catch_up=catch_up))


def edit(database: Later, one: int, **values: Any) -> None:
    def body(connection: Any) -> None:
        row = tasks.get(connection, "default", one, lock=True)
        assert row
        tasks.edit(connection, row, values, actor="test")

    database.transaction(body)


def cancel(database: Later, one: int) -> None:
    database.transaction(lambda c: control.cancel(c, "default", one, actor="test"))


def paused(dispatcher: Dispatcher, later: Later, by: str = "function", **fields: Any) -> int:
    """A task of every minute from 12:00 on, paused at 12:05:30; it is 13:05:30, and dispatchers were there."""
    one = new(later, every_s=60, start_at=at(0), **fields)
    for minute in (1, 2, 3, 4, 5):
        later.to(at(minute))
        settle(dispatcher)
    later.to(at(5.5))
    pause(later, one, by)
    for minute in (6, 7, 60, 65.5):
        later.to(at(minute))
        settle(dispatcher)
    assert story(later, one)[5:] == [("paused", at(6), None)]
    assert (task(later, one)["missed_since"], task(later, one)["next_run_at"]) == (at(6), None)
    return one


@pytest.mark.parametrize("by", ["function", "sql"])
def test_a_pause_of_hours_is_one_row(dispatcher: Dispatcher, later: Later, by: str) -> None:
    one = paused(dispatcher, later, by)
    resume(later, one, by)
    settle(dispatcher)
    later.to(at(67))
    settle(dispatcher)
    ends = [("paused", at(6), at(66)), ("ready", at(66), None), ("ready", at(67), None)]
    assert story(later, one)[5:] == ends
    assert task(later, one)["missed_since"] is None


@pytest.mark.parametrize("by", ["function", "sql"])
@pytest.mark.parametrize(
    ("fields", "rows"),
    [
        ({"misfire": "once"}, [("ready", 6, None), ("misfire", 7, 66)]),
        ({"misfire": "all"}, [("ready", i, None) for i in range(6, 66)]),
        ({"misfire": "all", "max_misfires": 3}, [*(("ready", i, None) for i in (6, 7, 8)), ("misfire", 9, 66)]),
        ({"misfire": "skip"}, [("paused", 6, 66)]),
        ({"misfire": "once", "max_lateness_s": 600}, [("paused", 6, 56), ("ready", 56, None), ("misfire", 57, 66)]),
    ],
)
def test_catching_up(dispatcher: Dispatcher, later: Later, by: str, fields: Any, rows: Any) -> None:
    one = paused(dispatcher, later, **({"max_misfires": 200} | fields))
    resume(later, one, by, catch_up=True)
    settle(dispatcher, 130)
    expected = [(what, at(due), until and at(until)) for what, due, until in rows]
    assert story(later, one)[5:] == expected
    assert task(later, one)["missed_since"] is None
    later.to(at(66))
    settle(dispatcher)
    assert story(later, one)[-1] == ("ready", at(66), None)


@pytest.mark.parametrize("by", ["function", "sql"])
def test_paused_and_resumed_before_anything_was_missed(dispatcher: Dispatcher, later: Later, by: str) -> None:
    for catch_up in (False, True):
        one = new(later, every_s=60, start_at=later.at + timedelta(seconds=60))
        pause(later, one, by)
        later.on(30)
        resume(later, one, by, catch_up=catch_up)
        later.on(30)
        settle(dispatcher)
        assert story(later, one) == [("ready", later.at, None)]


@pytest.mark.parametrize("by", ["function", "sql"])
def test_paused_and_resumed_within_the_look_ahead(dispatcher: Dispatcher, later: Later, by: str) -> None:
    """The row of the pause is there 5 s early: resumed in time, its occurrence runs after all."""
    one = new(later, every_s=60, start_at=at(1))
    pause(later, one, by)
    later.to(at(1) - timedelta(seconds=4))
    settle(dispatcher)
    assert story(later, one) == [("paused", at(1), None)]
    later.on(2)
    resume(later, one, by)
    settle(dispatcher)
    assert story(later, one) == [("ready", at(1), None)]
    assert task(later, one)["next_run_at"] == at(2)
    assert run_of(later, one)["attempt"] == 1  # a message of before would not start it


def test_an_edit_while_paused_ends_the_row_and_the_new_schedule_has_its_own(
    dispatcher: Dispatcher, later: Later
) -> None:
    one = paused(dispatcher, later)
    edit(later, one, every_s=3600)
    for minute in (180, 190, 400):
        later.to(at(minute))
        settle(dispatcher)
    assert story(later, one)[5:] == [("paused", at(6), at(65.5)), ("paused", at(120), None)]
    resume(later, one)
    assert story(later, one)[5:] == [("paused", at(6), at(65.5)), ("paused", at(120), at(420))]
    assert task(later, one)["next_run_at"] == at(420)


def test_an_edit_by_sql_while_paused_keeps_the_one_row(dispatcher: Dispatcher, later: Later) -> None:
    one = paused(dispatcher, later)
    change = "UPDATE tasks SET every_s = 3600, next_run_at = UTC_TIMESTAMP(6), schedule_version = schedule_version + 1"
    sql(later, change)
    for minute in (66, 180, 400):
        later.to(at(minute))
        settle(dispatcher)
    assert story(later, one)[5:] == [("paused", at(6), None)]
    resume(later, one, "sql")
    settle(dispatcher)
    assert story(later, one)[5:] == [("paused", at(6), at(420))]


def test_a_cancel_while_paused_ends_the_row(dispatcher: Dispatcher, later: Later) -> None:
    one = paused(dispatcher, later)
    cancel(later, one)
    assert story(later, one)[5:] == [("paused", at(6), at(65.5))]
    assert (task(later, one)["missed_since"], task(later, one)["next_run_at"]) == (None, None)
    later.to(at(200))
    assert settle(dispatcher) == 0


@pytest.mark.parametrize("by", ["function", "sql"])
@pytest.mark.parametrize("catch_up", [False, True])
def test_a_paused_one_time_task_runs_once_when_it_is_resumed(
    dispatcher: Dispatcher, later: Later, by: str, catch_up: bool
) -> None:
    one = new(later, run_at=at(10))
    pause(later, one, by)
    for minute in (10, 60):
        later.to(at(minute))
        settle(dispatcher)
    assert story(later, one) == [("paused", at(10), None)]
    resume(later, one, by, catch_up=catch_up)
    settle(dispatcher)
    assert story(later, one) == [("ready", at(10), None)]
    (again,) = [r["attempt"] for r in select(later, "SELECT attempt FROM runs")]
    assert again == 1
    resume(later, one, by)
    assert settle(dispatcher) <= 1
    assert len(select(later, "SELECT id FROM runs")) == 1


def test_what_was_due_before_a_dispatcher_saw_the_pause_has_its_row(dispatcher: Dispatcher, later: Later) -> None:
    """No dispatcher is there from 12:01 until after the resume."""
    one = new(later, every_s=60, start_at=at(0))
    later.to(at(1))
    settle(dispatcher)
    later.to(at(10.5))
    pause(later, one)
    later.to(at(20.5))
    resume(later, one)
    assert story(later, one)[1:] == [("paused", at(2), at(21))]
    later.to(at(21))
    settle(dispatcher)
    assert story(later, one)[1:] == [("paused", at(2), at(21)), ("ready", at(21), None)]


def test_catching_up_takes_what_no_dispatcher_saw(dispatcher: Dispatcher, later: Later) -> None:
    one = new(later, every_s=60, start_at=at(1))
    pause(later, one)
    later.to(at(20.5))
    resume(later, one, catch_up=True)
    settle(dispatcher)
    assert story(later, one) == [("ready", at(1), None), ("misfire", at(2), at(21))]


@pytest.mark.parametrize("state", ["active", "paused"])
def test_an_edit_or_cancel_leaves_a_row_for_what_was_due_and_not_seen(
    dispatcher: Dispatcher, later: Later, state: str
) -> None:
    edited, ended, once = (new(later, every_s=60, start_at=at(1)) for _ in range(3))
    once = new(later, run_at=at(5))
    ids = (edited, ended, once)
    if state == "paused":
        for one in ids:
            pause(later, one)
    later.to(at(20.5))
    edit(later, edited, every_s=3600)
    cancel(later, ended)
    cancel(later, once)
    why = ("paused",) * 3 if state == "paused" else ("edited", "cancelled", "cancelled")
    dues = (at(1), at(1), at(5))
    assert [story(later, one) for one in ids] == [[(w, d, at(20.5))] for w, d in zip(why, dues, strict=True)]


def test_an_edit_there_and_back_of_a_task_that_no_dispatcher_saw_runs_it(dispatcher: Dispatcher, later: Later) -> None:
    one = new(later, run_at=at(5))
    later.to(at(6))
    edit(later, one, run_at=at(60))
    edit(later, one, run_at=at(5))
    settle(dispatcher)
    assert story(later, one) == [("ready", at(5), None)]


def test_cancelled_and_registered_again_for_the_same_time_runs_if_it_never_did(
    dispatcher: Dispatcher, later: Later
) -> None:
    one = new(later, run_at=at(5), task_key="launch")
    later.to(at(6))
    cancel(later, one)
    assert new(later, run_at=at(5), task_key="launch") == one
    settle(dispatcher)
    assert story(later, one) == [("ready", at(5), None)]
    assert task(later, one)["next_run_at"] is None


CHANGES = {
    "pause": ("paused", lambda db, one: pause(db, one)),
    "pause by sql": ("paused", lambda db, one: pause(db, one, "sql")),
    "cancel": ("cancelled", lambda db, one: cancel(db, one)),
    "cancel by sql": (
        "cancelled",
        lambda db, one: sql(db, "UPDATE tasks SET state = 'cancelled', next_run_at = NULL WHERE id = :i", i=one),
    ),
    "edit": ("edited", lambda db, one: edit(db, one, start_at=at(2))),
    "edit by sql": (
        "edited",
        lambda db, one: sql(
            db,
            "UPDATE tasks SET start_at = start_at + INTERVAL 60 SECOND, next_run_at = UTC_TIMESTAMP(6),"
            " schedule_version = schedule_version + 1 WHERE id = :i",
            i=one,
        ),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("overlap", ["allow", "queue_one"])
def test_nothing_of_the_old_schedule_starts(dispatcher: Dispatcher, later: Later, change: str, overlap: str) -> None:
    """The change comes in the window between claim and start."""
    reason, do = CHANGES[change]
    one = new(later, every_s=60, start_at=at(1), overlap=overlap)
    later.to(at(1) - timedelta(seconds=4))
    ready = claim.claim(later, {}).ready
    later.on(1)
    do(later, one)
    later.to(at(1))
    started = start(later, ready)
    assert (started.execute, [verdict for _, verdict in started.not_run]) == ([], [reason])
    settle(dispatcher)
    assert story(later, one)[0] == (reason, at(1), None)
    assert start(later, ready).refused == 1
    row = select(later, "SELECT live_task_id, wake_at, first_started_at FROM runs WHERE due_at = :d", d=at(1))[0]
    assert row == {"live_task_id": None, "wake_at": None, "first_started_at": None}


def test_each_change_by_sql_is_in_the_trail_once(dispatcher: Dispatcher, later: Later) -> None:
    one = new(later, every_s=60, start_at=at(1))
    pause(later, one, "sql")
    for minute in (1, 2, 3):
        later.to(at(minute))
        settle(dispatcher)
    assert trail(later, one) == [("test", "registered", 1), ("sql", "paused", 2)]
    resume(later, one, "sql")
    for minute in (3, 4, 5):
        later.to(at(minute))
        settle(dispatcher)
    change = "UPDATE tasks SET every_s = 120, next_run_at = UTC_TIMESTAMP(6), schedule_version = schedule_version + 1"
    sql(later, change)
    sql(later, "UPDATE tasks SET state = 'paused'")
    for minute in (7, 9, 11):
        later.to(at(minute))
        settle(dispatcher)
    assert trail(later, one)[2:] == [("sql", "resumed", 3), ("sql", "edited", 4), ("sql", "paused", 5)]
    assert task(later, one)["version"] == 5


def test_a_change_by_sql_is_in_the_trail_before_that_of_a_function(dispatcher: Dispatcher, later: Later) -> None:
    one = new(later, every_s=60, start_at=at(1))
    sql(later, "UPDATE tasks SET every_s = 90, schedule_version = schedule_version + 1, state = 'paused'")
    resume(later, one)
    later.to(at(10))
    settle(dispatcher)
    expected = [("test", "registered", 1), ("sql", "edited", 2), ("sql", "paused", 3), ("test", "resumed", 4)]
    assert trail(later, one) == expected
    sql(later, "UPDATE tasks SET state = 'cancelled', next_run_at = NULL")
    edit(later, one, every_s=30)
    assert trail(later, one)[4:] == [("sql", "cancelled", 5), ("test", "edited", 6)]
    assert (task(later, one)["version"], task(later, one)["state"]) == (6, "active")


def test_a_row_of_plain_sql_that_a_function_changes_first(dispatcher: Dispatcher, later: Later) -> None:
    sql(later, "INSERT INTO tasks (handler, every_s, start_at) VALUES ('mock', 60, :t)", t=at(1))
    one = select(later, "SELECT id FROM tasks")[0]["id"]
    pause(later, one)
    later.to(at(2))
    settle(dispatcher)
    assert trail(later, one) == [("sql", "registered", 1), ("test", "paused", 2)]
    assert story(later, one) == [("paused", at(1), None)]


def test_a_task_that_sql_spoils_is_parked_with_both_in_the_trail(dispatcher: Dispatcher, later: Later) -> None:
    one = new(later, cron="* * * * *")
    sql(later, "UPDATE tasks SET cron = 'no', next_run_at = UTC_TIMESTAMP(6), schedule_version = schedule_version + 1")
    settle(dispatcher)
    later.on(60)
    settle(dispatcher)
    assert trail(later, one)[1:] == [("sql", "edited", 2), ("dispatcher", "invalid", 3)]
    assert task(later, one)["version"] == 3


def test_a_run_says_which_version_it_ran(dispatcher: Dispatcher, later: Later) -> None:
    one = new(later, every_s=60, start_at=at(1))
    later.to(at(1))
    ready = claim.claim(later, {}).ready
    assert run_of(later, one)["task_version"] == 1
    edit(later, one, payload='"new"')
    started = start(later, ready)
    assert [(run["payload"], run["version"]) for run in started.execute] == [('"new"', 2)]
    assert run_of(later, one)["task_version"] == 2
    finish(later, Outcome(held(started)[0], "succeeded"))
    edit(later, one, payload='"newer"')
    assert run_of(later, one)["task_version"] == 2
    sql(
        later, "UPDATE tasks SET every_s = 120, next_run_at = UTC_TIMESTAMP(6), schedule_version = schedule_version + 1"
    )
    later.to(at(3))
    settle(dispatcher)
    found = select(later, "SELECT due_at, task_version, schedule_version FROM runs ORDER BY due_at")
    assert [(r["due_at"], r["task_version"], r["schedule_version"]) for r in found] == [(at(1), 2, 1), (at(3), 4, 2)]


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("by", ["function", "sql"])
def test_a_second_pause_while_an_occurrence_is_claimed_leaves_none_without_a_row(
    dispatcher: Dispatcher, later: Later, by: str, begun: bool
) -> None:
    """That occurrence has its row already; the range of the pause begins with the next one."""
    one = new(later, every_s=60, start_at=at(1))
    later.to(at(1) - timedelta(seconds=4))
    ready = claim.claim(later, {}).ready
    pause(later, one, by)
    resume(later, one, by)
    if begun:
        later.to(at(1))
        done = start(later, ready)
        finish(later, *(Outcome(h, "succeeded") for h in held(done)))
        later.to(at(1) + timedelta(seconds=1))
    pause(later, one, by)
    settle(dispatcher)
    later.to(at(1) + timedelta(seconds=2))
    if not begun:
        assert [why for _, why in start(later, ready).not_run] == ["paused"]
    for minute in (2, 3, 4):
        later.to(at(minute))
        settle(dispatcher)
    later.to(at(4.5))
    resume(later, one, by)
    later.to(at(5))
    settle(dispatcher)
    first = ("succeeded" if begun else "paused", at(1), None)
    kept = story(later, one)
    assert kept[0] == first
    assert kept[1][:2] == ("paused", at(2))
    assert kept[1][2] is not None
    assert at(4) < kept[1][2] <= at(5)
    assert [row[1] for row in kept[2:]] == [at(5)]


@pytest.mark.parametrize("by", ["function", "sql"])
def test_the_last_run_comes_although_the_one_before_was_claimed_before_a_pause(
    dispatcher: Dispatcher, later: Later, by: str
) -> None:
    """max_runs counts a run once, also when a resume makes its occurrence due a second time."""
    one = new(later, every_s=60, start_at=at(1), max_runs=2)
    later.to(at(1) - timedelta(seconds=3))
    settle(dispatcher)  # the first is claimed ahead, before the pause
    pause(later, one, by)
    resume(later, one, by)
    settle(dispatcher)
    later.to(at(2))
    settle(dispatcher)
    runs = select(later, "SELECT due_at, state FROM runs WHERE task_id = :i ORDER BY due_at", i=one)
    assert [run["due_at"] for run in runs] == [at(1), at(2)]
    found = select(later, "SELECT runs_claimed, next_run_at FROM tasks WHERE id = :i", i=one)[0]
    assert (found["runs_claimed"], found["next_run_at"]) == (2, None)


@pytest.mark.parametrize("then", ["resume", "cancel"])
def test_what_was_claimed_ahead_in_a_pause_and_never_seen_again_is_covered_too(
    dispatcher: Dispatcher, later: Later, then: str
) -> None:
    """Paused and resumed within the look-ahead, then an hour without dispatchers, then paused and moved on."""
    one = new(later, every_s=2, start_at=at(1))
    later.to(at(1) - timedelta(seconds=3))
    settle(dispatcher)
    pause(later, one)
    later.to(at(1) - timedelta(seconds=1))
    settle(dispatcher)  # the third has a row of its own now: paused
    resume(later, one)
    later.to(at(61))
    if then == "cancel":
        cancel(later, one)
    else:
        pause(later, one)
        resume(later, one)
    runs = select(
        later, "SELECT due_at, state, reason, skipped_until FROM runs WHERE task_id = :i ORDER BY due_at", i=one
    )
    assert [run["due_at"] for run in runs] == [at(1) + timedelta(seconds=2 * n) for n in range(3)]
    assert (runs[2]["state"], runs[2]["reason"]) == {
        "resume": ("skipped", "paused"),
        "cancel": ("cancelled", "cancelled"),
    }[then]
    assert runs[2]["skipped_until"] == (at(61) + timedelta(seconds=2) if then == "resume" else at(61))
