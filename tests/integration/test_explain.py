"""`explain` says in words what is in the rows: exact sentences, under a moved clock."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from starlette.testclient import TestClient

from clockjack import cli, explaining
from clockjack.cli import session
from clockjack.ledger import acceptance, aftermath, control, runs, wake
from clockjack.ledger.database import Database
from clockjack.ledger.finish import Outcome
from clockjack.ledger.history import history
from tests.integration.life import claim_all, finish, held, insert, select, sql, start
from tests.integration.moved import Moved

pytestmark = pytest.mark.mysql
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
TEXT = (Path(__file__).parents[2] / "docs" / "schedules.md").read_text()
NOON = datetime(2027, 3, 27, 12)
HOURLY = {"cron": "0 * * * *"}


@pytest.fixture
def clock(database: Database) -> Moved:
    return Moved(database, NOON)


def told(database: Database, task_id: int) -> dict[str, Any]:
    found = acceptance.read(database, lambda c: history(c, "default", task_id))
    assert found is not None
    return explaining.explain(found)


def recent(database: Database, task_id: int) -> list[str]:
    return [run["sentence"] for run in told(database, task_id)["recent"]]


def begin(database: Database, clock: Moved, at: datetime, *, due: Any = None) -> Any:
    """What is due then was claimed and has begun."""
    clock.now = at
    return start(database, claim_all(database) if due is None else due)


def end(database: Database, clock: Moved, at: datetime, begun: Any, kind: str = "succeeded", **how: Any) -> None:
    clock.now = at
    for lease in held(begun):
        finish(database, Outcome(lease, kind, **how))


def test_runs_in_time_late_by_their_stage_and_in_the_way(database: Database, clock: Moved) -> None:
    one = insert(database, None, **HOURLY, overlap="skip", name="backup")
    end(database, clock, NOON + 2 * SECOND, begin(database, clock, NOON))
    clock.now = NOON + HOUR - 3 * SECOND
    ready = claim_all(database)
    assert recent(database, one)[0] == "Claimed, and begins when it is due, in 3 s."
    clock.now = NOON + HOUR + 40 * SECOND
    assert recent(database, one)[0] == "Has waited for 40 s in the queue 'default' for a consumer."
    late = begin(database, clock, NOON + HOUR + 42 * SECOND, due=ready)
    clock.now += 3 * SECOND
    waited = "it began 42 s late: waited 42 s in the queue 'default' for a consumer, or its message was lost and it was"
    assert recent(database, one)[0] == f"Running for 3 s on test; {waited} pushed again."
    clock.now = NOON + 1.5 * HOUR - 9 * SECOND
    database.transaction(lambda c: runs.heartbeat(c, held(late)))
    clock.now += 9 * SECOND
    database.transaction(lambda c: control.run_now(c, "default", [one], actor="cli"))
    by_hand = start(database, wake.look_again(database, {})[0])  # which was not in the way any more
    end(database, clock, clock.now + SECOND, by_hand)
    begin(database, clock, NOON + 2 * HOUR)
    end(database, clock, NOON + 2 * HOUR + 9 * SECOND, late)
    end(database, clock, NOON + 3.5 * HOUR + SECOND, begin(database, clock, NOON + 3.5 * HOUR))
    assert recent(database, one) == [
        "Succeeded in 1 s; it began 30 min late: claimed 30 min after it was due, because no dispatcher worked,"
        " the database was away or its queue did not keep up.",
        f"Skipped (overlap): run {late.execute[0]['id']}, due 2027-03-27 13:00:00 UTC, had begun at"
        " 2027-03-27 13:00:42 UTC and not ended.",
        "By hand: succeeded in 1 s; it began 0 ms after it was due.",
        f"Succeeded in 59 min 27 s; {waited} pushed again.",
        "Succeeded in 2 s; it began 0 ms after it was due.",
    ]


def test_ranges_that_were_missed(database: Database, clock: Moved) -> None:
    one = insert(database, None, cron="* * * * *", max_lateness_s=3600)
    begin(database, clock, NOON)
    clock.now = NOON + 3 * HOUR
    claim_all(database)
    assert recent(database, one)[:3] == [
        "Has waited for 0 ms in the queue 'default' for a consumer.",
        "Skipped (misfire): 59 occurrences, from 2027-03-27 14:01:00 UTC to before 2027-03-27 15:00:00 UTC, were"
        " missed: claimed only at 2027-03-27 15:00:00 UTC.",
        "Has waited for 1 h in the queue 'default' for a consumer.",
    ]
    assert recent(database, one)[3].startswith("Skipped (too_late): 119 occurrences, from 2027-03-27 12:01:00 UTC to")
    sql(database, "UPDATE tasks SET every_s = 60, cron = NULL, schedule_version = 2 WHERE id = :i", i=one)
    assert "what an earlier schedule had from 2027-03-27 14:01:00 UTC to before" in recent(database, one)[1]


def test_a_pause_and_what_it_misses(database: Database, clock: Moved) -> None:
    one = insert(database, None, **HOURLY)
    begin(database, clock, NOON)
    database.transaction(lambda c: control.pause(c, "default", one, actor="key:abc"))
    clock.now = NOON + 30 * MINUTE
    assert told(database, one)["state"] == [
        "It has been paused since 2027-03-27 12:00:00 UTC by key:abc.",
        "The occurrence at 2027-03-27 13:00:00 UTC is skipped unless it is resumed before.",
    ]
    clock.now = NOON + 5.5 * HOUR
    claim_all(database)
    found = told(database, one)
    assert found["state"][1:] == [
        "Since then it has missed 5 occurrences, the first at 2027-03-27 13:00:00 UTC.",
        "It is not due any more: it is paused, and is looked at again when it is resumed.",
    ]
    assert found["next"][0] == {
        "utc": "2027-03-27T18:00:00Z", "local": "2027-03-27T18:00:00+00:00", "note": "only if it is resumed before"
    }  # fmt: skip
    assert found["recent"][0]["sentence"] == (
        "Skipped (paused): 5 occurrences, from 2027-03-27 13:00:00 UTC to before 2027-03-27 17:30:00 UTC, were due"
        " while the task was paused, and the pause lasts."
    )
    database.transaction(lambda c: control.resume(c, "default", one, actor="cli", catch_up=True))
    assert told(database, one)["state"] == [
        "It is active, resumed at 2027-03-27 17:30:00 UTC by cli.",
        "It is to catch up with what it missed while it was paused: 5 occurrences.",
        "It was due at 2027-03-27 13:00:00 UTC, 4 h 30 min ago, and is not claimed yet: no dispatcher works, the"
        " database was away, its row is locked, or its queue does not keep up.",
    ]
    begin(database, clock, clock.now)
    assert recent(database, one)[1].endswith(
        "it began 4 h 30 min late: claimed 4 h 30 min after it was due, because the task was resumed only at"
        " 2027-03-27 17:30:00 UTC."
    )


def test_failures_retries_and_runs_by_hand(database: Database, clock: Moved) -> None:
    one = insert(database, None, **HOURLY, max_failures=2, pause_after_failures=1)
    begun = begin(database, clock, NOON)
    end(database, clock, NOON + SECOND, begun, "failed", error="ValueError: no\n secret", retry_in_s=30.0)
    assert recent(database, one) == [
        "Failed 1 time; the next attempt is at 2027-03-27 12:00:31 UTC, in 30 s (last: ValueError: no)."
    ]
    clock.now = NOON + MINUTE
    again = start(database, wake.look_again(database, {})[0])
    end(database, clock, NOON + 2 * MINUTE, again, "timeout", error="x" * 500)
    aftermath.settle(database, [(again.execute[0], True)])
    assert recent(database, one) == [
        f"Failed for good after 2 failed attempts (it took longer than timeout_s): {'x' * 199}…"
    ]
    assert told(database, one)["state"][0] == (
        "It has been paused since 2027-03-27 12:02:00 UTC: paused by itself after a failure."
    )
    assert "After 1 failed run in a row it pauses by itself." in told(database, one)["schedule"]
    database.transaction(lambda c: control.run_now(c, "default", [one], actor="cli"))
    begun = start(database, wake.look_again(database, {})[0])
    end(database, clock, clock.now + SECOND, begun)
    assert recent(database, one)[0] == "By hand: succeeded in 1 s; it began 0 ms after it was due."


def test_a_run_that_waits_and_one_that_is_replaced(database: Database, clock: Moved) -> None:
    one = insert(database, None, **HOURLY, overlap="queue_one")
    other = begin(database, clock, NOON).execute[0]["id"]
    begin(database, clock, NOON + HOUR)
    assert recent(database, one)[0] == f"Waits for run {other}, due 2027-03-27 12:00:00 UTC, to end (overlap)."
    two = insert(database, None, **HOURLY, overlap="replace")
    clock.now = NOON + 2 * HOUR
    first = claim_all(database)
    start(database, [run for run in first if run.live_task_id == two])
    clock.now = NOON + 3 * HOUR
    second = claim_all(database)
    other = start(database, [run for run in second if run.live_task_id == two]).execute[0]["id"]
    assert recent(database, two)[1] == (
        f"Cancelled after 1 h: run {other}, due 2027-03-27 15:00:00 UTC, replaced it (overlap)."
    )


@pytest.mark.parametrize(
    ("columns", "change", "says"),
    [
        ({"run_at": NOON}, "", "it was for one time, which has been claimed or skipped."),
        (HOURLY | {"max_runs": 1}, "", "max_runs = 1 is used up."),
        (HOURLY | {"end_at": NOON}, "", "end_at has passed."),
        (HOURLY, "state = 'cancelled'", "it is cancelled."),
        (HOURLY, "state = 'active', cron = '61 * * * *', schedule_version = 2", "it is invalid."),
    ],
)
def test_why_nothing_is_due(database: Database, clock: Moved, columns: dict[str, Any], change: str, says: str) -> None:
    one = insert(database, None, **columns)
    claim_all(database)
    if change:
        sql(database, f"UPDATE tasks SET {change} WHERE id = :i", i=one)
        assert "by plain SQL, and no dispatcher has seen that yet." in told(database, one)["state"][0]
        clock.now = NOON + HOUR
        claim_all(database)
    found = told(database, one)
    assert found["state"][-1] == f"It is not due any more: {says}"
    assert found["next"] == []


def test_a_task_that_nobody_has_seen(database: Database, clock: Moved) -> None:
    one = insert(database, None, **HOURLY)
    clock.now = NOON + MINUTE
    assert told(database, one)["state"] == [
        "It came by plain SQL, and no dispatcher has seen it yet.",
        "It is active.",
        "It was due at 2027-03-27 12:00:00 UTC, 1 min ago, and is not claimed yet: no dispatcher works, the database"
        " was away, its row is locked, or its queue does not keep up.",
    ]


def test_the_documented_example(
    database: Database, clock: Moved, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.now = datetime(2027, 3, 23, 12)
    one = insert(database, None, cron="30 2 * * *", timezone="Europe/Berlin", overlap="skip", max_lateness_s=7200)
    claim_all(database)
    night = datetime(2027, 3, 24, 1, 30)
    end(database, clock, night + 8 * MINUTE, begin(database, clock, night))
    night += 24 * HOUR
    late = begin(database, clock, night + 70 * MINUTE)
    begin(database, clock, night + 24 * HOUR)
    end(database, clock, night + 25 * HOUR, late)
    clock.now = datetime(2027, 3, 27, 9)
    claim_all(database)

    @contextmanager
    def ledger() -> Iterator[Database]:
        yield database

    monkeypatch.setattr(session, "ledger", ledger)
    monkeypatch.setattr(session, "warnings", lambda queue, handler: [])
    assert cli.run(["explain", str(one)]) == 0
    printed = capsys.readouterr()
    shown = printed.out + printed.err
    for number, run in enumerate(select(database, "SELECT id FROM runs ORDER BY id"), 1):
        shown = shown.replace(f"run {run['id']},", f"run {number},").replace(f"\n{run['id']}\t", f"\n{number}\t")
    block = re.search(r"    \$ clockjack explain 12\n((?:(?:    [^\n]+)?\n)+?)\n?(?=\S)", TEXT)
    assert block, shown
    assert shown.strip() == dedent(block[1]).strip()


def test_by_http(http: TestClient, database: Database) -> None:
    one = http.post("/v1/tasks", json={"handler": "mock", "cron": "30 2 * * *", "timezone": "Europe/Berlin"}).json()[
        "id"
    ]
    found = http.get(f"/v1/tasks/{one}/explain").json()
    assert list(found) == ["task_id", "schedule", "state", "next", "recent", "warnings"]
    assert found["schedule"][0] == "At 02:30 (Europe/Berlin)."
    assert len(found["next"]) == 5
    assert found["warnings"][0].startswith("no consumer serves the queue")
    assert http.get(f"/v1/tasks/{one + 1}/explain").status_code == 404
    other = insert(database, None, **HOURLY, namespace="other")
    assert http.get(f"/v1/tasks/{other}/explain").status_code == 404
