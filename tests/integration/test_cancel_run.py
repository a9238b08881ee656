"""A run that is cancelled: one that waits is over at once, one that runs is asked to stop, and says how it ended."""

from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from clockjack import Discard, Retry, Run, Snooze
from clockjack.ledger import control, putting_off, runs, wake
from clockjack.ledger.finish import Outcome
from clockjack.moments import text
from tests.integration.life import claim_all, finish, held, insert, make_due, run_of, select, sql, start
from tests.integration.test_consumer import Bench
from tests.integration.test_http import assert_problem
from tests.integration.test_progress import Slow, bench

__all__ = ["bench"]
pytestmark = pytest.mark.mysql
EVENTS = "SELECT actor, detail FROM task_events WHERE action = 'run_cancelled'"
Cancel = Callable[[int], httpx2.Response]


@pytest.fixture
def cancel(http: TestClient, bench: Bench) -> Cancel:
    """Asks that the run of this task be cancelled."""
    return lambda task_id: http.post(f"/v1/runs/{run_of(bench.database, task_id)['id']}/cancel")


def test_a_run_that_waits_is_over_at_once_and_never_starts(bench: Bench, cancel: Cancel) -> None:
    begun: list[int] = []
    bench.handle = lambda run: begun.append(run.attempt)
    one = bench.due()
    for _ in range(2):
        answer = cancel(one)
        assert answer.status_code == 200
        run = answer.json()
        assert (run["state"], run["reason"], run["cancel_asked_at"]) == ("cancelled", "run_cancelled", None)
    bench.engine.bell.set()
    while bench.engine.step():
        pass
    assert (begun, bench.state(one)) == ([], "cancelled")
    assert [event["detail"] for event in select(bench.database, EVENTS)] == [f"run {run['id']}"]


def test_it_stays_over_when_its_task_is_due_at_that_time_again(bench: Bench, cancel: Cancel) -> None:
    """What ended with its task comes back with it; this one was meant alone."""
    waits, begins = insert(bench.database), insert(bench.database)
    popped = claim_all(bench.database)
    started = start(bench.database, [run for run in popped if run.run_id == run_of(bench.database, begins)["id"]])
    assert (cancel(waits).status_code, cancel(begins).status_code) == (200, 202)
    assert bench.database.transaction(lambda c: runs.hand_back(c, held(started))) == set()
    sql(bench.database, "UPDATE tasks SET next_run_at = run_at")
    claim_all(bench.database)
    for one in (waits, begins):
        run = run_of(bench.database, one)
        assert (run["state"], run["reason"], run["first_started_at"]) == ("cancelled", "run_cancelled", None)


def test_a_run_that_runs_hears_it_and_decides(bench: Bench, cancel: Cancel) -> None:
    def stop(run: Run) -> None:
        if run.cancelled:
            raise Discard("told to")

    slow = Slow(bench, stop, last=stop)
    bench.engine.beat()
    assert slow.run is not None
    assert not slow.run.cancelled
    answers = [cancel(slow.task_id) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].headers["location"] == f"/v1/runs/{answers[0].json()['id']}"
    assert answers[0].json()["state"] == "running"
    assert answers[0].json()["cancel_asked_at"] == answers[1].json()["cancel_asked_at"] is not None
    assert not slow.run.cancelled
    bench.engine.beat()
    assert slow.run.cancelled
    run = slow.end()
    assert (run["state"], run["reason"], run["failures"]) == ("cancelled", "run_cancelled", 0)
    outcomes = select(bench.database, "SELECT outcome, error FROM attempts")
    assert outcomes == [{"outcome": "cancelled", "error": "Discard: told to"}]
    [event] = select(bench.database, EVENTS)
    assert event["actor"].startswith("key:")
    assert event["detail"] == f"run {run['id']}"
    assert cancel(slow.task_id).status_code == 200


@pytest.mark.parametrize(
    "last", [lambda run: 1 / 0, lambda run: Retry(5), lambda run: Snooze(5), lambda run: Discard("no")]
)
@pytest.mark.parametrize("heard", [True, False])
def test_however_it_ends_but_well_it_is_cancelled(bench: Bench, cancel: Cancel, last: Any, heard: bool) -> None:
    slow = Slow(bench, lambda run: None, last)
    cancel(slow.task_id)
    if heard:
        bench.engine.beat()
    run = slow.end()
    assert (run["state"], run["reason"], run["wake_at"]) == ("cancelled", "run_cancelled", None)
    assert run["finished_at"] is not None


def test_what_ends_well_all_the_same_has_succeeded(bench: Bench, cancel: Cancel) -> None:
    slow = Slow(bench, lambda run: None, last=lambda run: "done")
    cancel(slow.task_id)
    bench.engine.beat()
    run = slow.end()
    assert (run["state"], run["result"], run["reason"]) == ("succeeded", '"done"', None)
    assert_problem(cancel(slow.task_id), 409, "state-conflict")


def test_a_lost_attempt_is_the_last(bench: Bench, cancel: Cancel) -> None:
    one = insert(bench.database)
    start(bench.database, claim_all(bench.database))
    cancel(one)
    make_due(bench.database, run_of(bench.database, one)["id"])
    assert wake.look_again(bench.database, {})[0] == []
    run = run_of(bench.database, one)
    assert (run["state"], run["reason"], run["failures"]) == ("cancelled", "run_cancelled", 1)


def test_one_that_waits_for_its_limit_waits_no_more(bench: Bench, cancel: Cancel) -> None:
    one = insert(bench.database)
    [mine] = held(start(bench.database, claim_all(bench.database)))
    cancel(one)
    assert bench.database.transaction(lambda c: putting_off.put_off(c, [(mine, 5.0)])) == set()
    run = run_of(bench.database, one)
    assert (run["state"], run["reason"], run["wake_at"]) == ("cancelled", "run_cancelled", None)


@pytest.mark.parametrize("door", ["retry", "backfill"])
def test_one_that_is_brought_back_is_not_asked_any_more(
    bench: Bench, cancel: Cancel, http: TestClient, door: str
) -> None:
    hour = bench.database.now().replace(minute=0, second=0, microsecond=0)
    one = insert(bench.database, None, every_s=3600, start_at=hour, next_run_at=hour)
    started = start(bench.database, claim_all(bench.database))
    cancel(one)
    bench.database.transaction(lambda c: runs.hand_back(c, held(started)))
    run = run_of(bench.database, one)
    assert (run["state"], run["cancel_asked_at"] is None) == ("cancelled", False)
    due = text(run["due_at"])
    if door == "retry":
        assert http.post(f"/v1/runs/{run['id']}/retry").status_code == 202
    else:
        span = {"from": due, "to": due, "dry_run": False}
        assert http.post(f"/v1/tasks/{one}/backfill", json=span).json()["runs"] == 1
    run = run_of(bench.database, one)
    assert (run["state"], run["cancel_asked_at"], run["reason"]) == ("ready", None, None)


def test_one_that_is_over_stays(bench: Bench, cancel: Cancel) -> None:
    one = insert(bench.database)
    started = start(bench.database, claim_all(bench.database))
    finish(bench.database, Outcome(held(started)[0], "failed"))
    before = run_of(bench.database, one)
    assert_problem(cancel(one), 409, "state-conflict")
    assert run_of(bench.database, one) == before
    assert select(bench.database, EVENTS) == []


def test_with_a_key_it_is_once(bench: Bench, http: TestClient) -> None:
    run = run_of(bench.database, bench.due())["id"]
    answers = [http.post(f"/v1/runs/{run}/cancel", headers={"Idempotency-Key": "c"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[1].headers["idempotency-replayed"] == "true"
    assert len(select(bench.database, EVENTS)) == 1


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
    run = slow.end()
    assert (run["state"], run["reason"]) == ("cancelled", "cancelled")


def test_a_task_that_is_paused_or_edited_goes_on(bench: Bench) -> None:
    slow = Slow(bench, lambda run: None)
    bench.database.transaction(lambda c: control.pause(c, "default", slow.task_id, actor="key:abc"))
    bench.engine.beat()
    assert slow.run is not None
    assert not slow.run.cancelled
    assert slow.end()["state"] == "succeeded"
