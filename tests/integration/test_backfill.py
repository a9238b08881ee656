"""Backfill: the occurrences of a span of the past that had no run have one, at their pace, and nothing else changes."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from clockjack.ledger import aftermath, backfill, claim, control, overlap, partitions, reports, tasks, wake
from clockjack.ledger.backfill import Filled, Span
from clockjack.ledger.database import Database
from clockjack.ledger.finish import Outcome
from clockjack.ledger.tasks import StateConflict
from clockjack.schedules import ScheduleError
from tests.integration.life import claim_all, finish, held, insert, make_due, select, sql, start, task

pytestmark = pytest.mark.mysql
MINUTE = timedelta(minutes=1)


@pytest.fixture
def since(database: Database) -> datetime:
    """A full minute of an hour ago; the tasks here run each minute from then on."""
    return database.now().replace(second=0, microsecond=0) - timedelta(hours=1)


def every_minute(database: Database, since: datetime, **columns: Any) -> int:
    """Its next run is the first after now."""
    now = database.now()
    following = since + ((now - since) // MINUTE + 1) * MINUTE
    return insert(database, None, every_s=60, start_at=since, next_run_at=following, **columns)


def fill(database: Database, task_id: int, since: datetime, n: int, **options: Any) -> list[Filled]:
    """The `n` minutes from `since` on were backfilled."""
    dry_run = options.pop("dry_run", False)
    span = Span(since, since + (n - 1) * MINUTE, **options)
    found = database.transaction(
        lambda c: backfill.backfill(c, "default", task_id, span, actor="test", dry_run=dry_run)
    )
    assert found is not None
    return found[1]


def runs(database: Database, task_id: int) -> list[dict[str, Any]]:
    return select(database, "SELECT * FROM runs WHERE task_id = :t ORDER BY due_at", t=task_id)


def skipped(
    database: Database, task_id: int, due_at: datetime, until: datetime | None, reason: str = "misfire"
) -> None:
    sql(
        database,
        "INSERT INTO runs (task_id, due_at, schedule_version, queue, state, finished_at, reason, skipped_until)"
        " VALUES (:t, :due, 1, 'default', 'skipped', UTC_TIMESTAMP(6), :reason, :until)",
        t=task_id,
        due=due_at,
        reason=reason,
        until=until,
    )


def test_each_occurrence_without_a_row_gets_one(database: Database, since: datetime) -> None:
    task_id = every_minute(database, since, max_runs=2)
    before = task(database, task_id)
    done = fill(database, task_id, since, 5, per_s=2)
    assert [one.due_at for one in done] == [since + i * MINUTE for i in range(5)]
    found = runs(database, task_id)
    assert [run["due_at"] for run in found] == [one.due_at for one in done]
    assert {(r["state"], r["origin"], r["attempt"], r["schedule_version"], r["task_version"]) for r in found} == {
        ("ready", "backfill", 0, 1, 1)
    }
    assert [(run["wake_at"] - run["claimed_at"]).total_seconds() for run in found] == [0, 0.5, 1, 1.5, 2]
    assert task(database, task_id) == before, "max_runs is not counted, and nothing else moves"
    event = select(database, "SELECT * FROM task_events WHERE task_id = :t ORDER BY id", t=task_id)[-1]
    assert (event["action"], event["actor"]) == ("backfilled", "test")
    assert since.isoformat() + "Z" in event["detail"]
    again = fill(database, task_id, since, 5)
    assert {one.why for one in again} == {"its run is ready"}
    assert runs(database, task_id) == found
    assert len(select(database, "SELECT id FROM task_events WHERE task_id = :t", t=task_id)) == 1


def test_a_dry_run_says_what_and_writes_nothing(database: Database, since: datetime) -> None:
    task_id = every_minute(database, since)
    fill(database, task_id, since + MINUTE, 1)
    before = runs(database, task_id)
    done = fill(database, task_id, since, 3, dry_run=True)
    assert [one.why for one in done] == [None, "its run is ready", None]
    assert runs(database, task_id) == before


def test_the_runs_are_pushed_as_their_turn_comes(database: Database, since: datetime) -> None:
    task_id = every_minute(database, since, state="paused", max_lateness_s=60)
    fill(database, task_id, since, 3, per_s=1)
    first, second, third = runs(database, task_id)
    ready, _, _ = wake.look_again(database, {})
    assert [run.run_id for run in ready] == [first["id"]]
    assert wake.wake_all(database) == 0, "a loss of Redis does not end the pacing"
    make_due(database, second["id"])
    ready += wake.look_again(database, {})[0]
    assert [run.run_id for run in ready] == [first["id"], second["id"]]
    started = start(database, ready)
    assert len(started.execute) == 2, "although the task is paused, and however late"
    assert {run["origin"] for run in started.execute} == {"backfill"}
    assert finish(database, *(Outcome(h, "succeeded") for h in held(started))) == set()
    done = fill(database, task_id, since, 3)
    assert [one.why for one in done] == ["it ran: succeeded", "it ran: succeeded", "its run is ready"]
    assert database.transaction(reports.health)["oldest_due_age_s"] < 60, "nor does it look as if somebody were late"
    make_due(database, third["id"])
    assert len(wake.look_again(database, {})[0]) == 1


@pytest.mark.parametrize("state", ["skipped", "cancelled"])
def test_what_never_began_is_brought_back(database: Database, since: datetime, state: str) -> None:
    task_id = every_minute(database, since, overlap="skip")
    skipped(database, task_id, since, None, "edited")
    sql(database, "UPDATE runs SET state = :s, attempt = 3, run_token = 'x', queue = 'old'", s=state)
    [old] = runs(database, task_id)
    fill(database, task_id, since, 1)
    [run] = runs(database, task_id)
    assert (run["id"], run["state"], run["origin"], run["attempt"]) == (old["id"], "ready", "backfill", 4)
    assert (run["reason"], run["finished_at"], run["live_task_id"]) == (None, None, task_id)
    assert (run["run_token"], run["queue"], run["skipped_until"]) == (None, "default", None)
    [ready] = wake.look_again(database, {})[0]
    assert ready.attempt == 5
    assert len(start(database, [ready]).execute) == 1


@pytest.mark.parametrize(
    ("n", "again", "rest"),
    [(1, 0, 1), (3, 0, 3), (3, 2, 5), (9, 0, 9), (10, 0, None), (12, 0, None)],
)
def test_a_range_goes_on_behind_what_runs(
    database: Database, since: datetime, n: int, again: int, rest: int | None
) -> None:
    """The range is minutes 0 to 9; `again` minutes behind the first `n` have had runs before."""
    task_id = every_minute(database, since)
    until = since + 10 * MINUTE
    skipped(database, task_id, since, until)
    if again:
        fill(database, task_id, since + n * MINUTE, again)
        assert runs(database, task_id)[0]["skipped_until"] == until, "what is inside a range changes nothing of it"
    fill(database, task_id, since, n)
    left = [run for run in runs(database, task_id) if run["state"] == "skipped"]
    expected = [] if rest is None else [(since + rest * MINUTE, until, "misfire", "schedule")]
    assert [(r["due_at"], r["skipped_until"], r["reason"], r["origin"]) for r in left] == expected
    assert len(runs(database, task_id)) == n + again + len(left)


def test_ranges_side_by_side(database: Database, since: datetime) -> None:
    task_id = every_minute(database, since)
    skipped(database, task_id, since, since + 2 * MINUTE)
    skipped(database, task_id, since + 2 * MINUTE, since + 9 * MINUTE, "too_late")
    fill(database, task_id, since, 3)
    assert [(r["state"], r["reason"], r["due_at"]) for r in runs(database, task_id)[2:]] == [
        ("ready", None, since + 2 * MINUTE),
        ("skipped", "too_late", since + 3 * MINUTE),
    ]


def paused_since(database: Database, since: datetime) -> int:
    """A task that is paused since its first minute."""
    task_id = every_minute(database, since)
    skipped(database, task_id, since, None, "paused")
    sql(
        database,
        "UPDATE tasks SET state = 'paused', next_run_at = NULL, missed_since = :s WHERE id = :t",
        s=since,
        t=task_id,
    )
    return task_id


def test_a_pause_goes_on_behind_what_runs(database: Database, since: datetime) -> None:
    task_id = paused_since(database, since)
    fill(database, task_id, since, 3)
    rest = since + 3 * MINUTE
    assert task(database, task_id)["missed_since"] == rest
    assert [(r["state"], r["due_at"], r["skipped_until"]) for r in runs(database, task_id)[3:]] == [
        ("skipped", rest, None)
    ]
    database.transaction(lambda c: control.resume(c, "default", task_id, actor="test"))
    row = task(database, task_id)
    assert runs(database, task_id)[3]["skipped_until"] == row["next_run_at"] > database.now()
    assert row["missed_since"] is None


def test_a_pause_of_which_all_runs_begins_anew(database: Database, since: datetime) -> None:
    task_id = paused_since(database, since)
    n = (database.now() - since) // MINUTE + 1
    done = fill(database, task_id, since, n)
    row = task(database, task_id)
    assert (row["state"], row["missed_since"]) == ("paused", None)
    assert row["next_run_at"] == done[-1].due_at + MINUTE
    assert {run["state"] for run in runs(database, task_id)} == {"ready"}
    assert claim.claim(database, {}).ready == []


def test_what_is_still_to_be_claimed_is_left_to_the_claim(database: Database, since: datetime) -> None:
    task_id = every_minute(database, since)
    sql(database, "UPDATE tasks SET next_run_at = :n WHERE id = :t", n=since + 2 * MINUTE, t=task_id)
    done = fill(database, task_id, since, 4)
    assert [one.wake_at is not None for one in done] == [True, True, False, False]
    assert "misfire" in str(done[2].why)
    claim_all(database)
    found = runs(database, task_id)
    assert [(r["state"], r["origin"]) for r in found[:3]] == [("ready", "backfill")] * 2 + [("ready", "schedule")]
    assert (found[3]["state"], found[3]["due_at"]) == ("skipped", since + 3 * MINUTE)


def test_at_most_a_thousand(database: Database) -> None:
    since = database.now().replace(microsecond=0) - timedelta(days=1)
    task_id = insert(database, None, every_s=1, start_at=since)

    def span(seconds: int) -> Any:
        to = Span(since, since + timedelta(seconds=seconds), 1000)
        return database.transaction(lambda c: backfill.backfill(c, "default", task_id, to, actor="test"))

    with pytest.raises(ScheduleError, match="hold 1,001 occurrences: at most 1,000"):
        span(1000)
    with pytest.raises(ScheduleError, match=r"hold more than [\d,]+ occurrences"):
        span(86_000)
    assert runs(database, task_id) == []
    assert len([one for one in span(999)[1] if one.wake_at]) == len(runs(database, task_id)) == 1000
    assert len({run["wake_at"] for run in runs(database, task_id)}) == 1000


def test_what_cannot_be_backfilled(database: Database, since: datetime) -> None:
    task_id = every_minute(database, since)
    now = database.now()
    for span, field in ((Span(since, now + MINUTE), "to"), (Span(since, since - MINUTE), "to")):
        with pytest.raises(ScheduleError) as refused:
            database.transaction(lambda c, s=span: backfill.backfill(c, "default", task_id, s, actor="test"))
        assert refused.value.field == field
    assert fill(database, task_id, since - 10 * MINUTE, 10) == [], "before start_at there is no occurrence"
    for state in ("cancelled", "invalid"):
        sql(database, "UPDATE tasks SET state = :s WHERE id = :t", s=state, t=task_id)
        with pytest.raises(StateConflict):
            fill(database, task_id, since, 1)
    span = Span(since, since)
    assert database.transaction(lambda c: backfill.backfill(c, "other", task_id, span, actor="test")) is None
    assert runs(database, task_id) == []


def test_partitions_long_past(database: Database) -> None:
    """Years ago there was no partition; maintenance keeps the rows while they live, and drops no other."""
    day = datetime(2021, 3, 1)
    task_id = insert(database, None, cron="0 0 * * *", version=1, seen_state="active", seen_schedule_version=1)
    span = Span(day, day + timedelta(days=30), 1000)
    database.transaction(lambda c: backfill.backfill(c, "default", task_id, span, actor="test"))
    assert len(runs(database, task_id)) == 31
    partitions.maintain(database, 30)
    assert len(runs(database, task_id)) == 31
    sql(database, "UPDATE runs SET wake_at = UTC_TIMESTAMP(6)")
    ready, _, _ = wake.look_again(database, {})
    started = start(database, ready)
    assert sorted(run["due_at"] for run in started.execute) == [day + timedelta(days=i) for i in range(31)]
    assert {run["origin"] for run in started.execute} == {"backfill"}, "the histogram of lateness leaves these out"


def test_runs_of_a_backfill_wait_for_one_another(database: Database, since: datetime) -> None:
    task_id = every_minute(database, since, overlap="queue_one")
    fill(database, task_id, since, 3, per_s=1000)
    sql(database, "UPDATE runs SET wake_at = UTC_TIMESTAMP(6)")
    ready = sorted(wake.look_again(database, {})[0], key=lambda run: run.due_at)
    assert {run.live_task_id for run in ready} == {task_id}
    started = start(database, ready)
    assert [(run["due_at"], verdict) for run, verdict in started.not_run] == [
        (since + MINUTE, "overlaps"),
        (since + 2 * MINUTE, "overlaps"),
    ]
    finish(database, Outcome(held(started)[0], "succeeded"))
    assert aftermath.settle(database, [(run, False) for run in started.execute]) == 1, "the next one, not all"
    [woken] = wake.look_again(database, {})[0]
    assert woken.due_at == since + MINUTE
    assert len(start(database, [woken]).execute) == 1


def test_a_backfill_that_waits_takes_no_turn_of_the_schedule(database: Database, since: datetime) -> None:
    """With queue_one the occurrence that comes due while a run is at work waits, although backfilled ones wait too."""
    task_id = every_minute(database, since, overlap="queue_one")
    fill(database, task_id, since, 2, per_s=1000)
    sql(database, "UPDATE runs SET wake_at = UTC_TIMESTAMP(6)")
    assert len(start(database, wake.look_again(database, {})[0]).not_run) == 1
    sql(database, "UPDATE tasks SET next_run_at = :n WHERE id = :t", n=since + 59 * MINUTE, t=task_id)
    [ready] = [run for run in claim_all(database) if run.due_at >= since + 59 * MINUTE][:1]
    [(run, verdict)] = start(database, [ready], b"6543210fedcba987").not_run
    assert (run["origin"], verdict) == ("schedule", "overlaps")
    assert overlap.judge("queue_one", "backfill", True, True) == "overlaps"


def test_a_registration_can_be_backfilled_before_its_time(database: Database) -> None:
    made = database.transaction(
        lambda c: tasks.register(
            c,
            "default",
            {"handler": "mock", "queue": "default", "payload": "1", "cron": "0 * * * *", "timeout_s": 60}
            | {"max_failures": 5, "backoff_s": 2, "backoff_max_s": 3600},
            actor="test",
        )
    )
    since = database.now().replace(minute=0, second=0, microsecond=0) - timedelta(hours=5)
    span = Span(since, since + timedelta(hours=4))
    found = database.transaction(lambda c: backfill.backfill(c, "default", made.task["id"], span, actor="test"))
    assert found is not None
    assert len([one for one in found[1] if one.wake_at]) == 5
