"""Start, heartbeat, hand back, finish and look again: who holds the current attempt decides."""

from typing import Any

import pytest
from sqlalchemy.engine import Connection

from clockjack.ledger import finish as finishing
from clockjack.ledger import runs, wake
from clockjack.ledger.advance import Ready
from clockjack.ledger.database import Database, rows
from clockjack.ledger.finish import Outcome
from clockjack.ledger.runs import Popped
from tests.integration.life import claim_all, finish, held, insert, make_due, run_of, select, sql, start

pytestmark = pytest.mark.mysql
OTHER = b"another-token-16"


def begin(database: Database, **columns: Any) -> tuple[int, list[Ready], runs.Started]:
    one = insert(database, **columns)
    ready = claim_all(database)
    return one, ready, start(database, ready)


def test_start_and_finish(database: Database) -> None:
    one, _, started = begin(database, payload='{"a": 1}')
    (row,) = started.execute
    assert (row["handler"], row["payload"], row["attempt"]) == ("mock", '{"a": 1}', 1)
    running = run_of(database, one)
    assert (running["state"], running["worker"]) == ("running", "test")
    assert 5.9 < (running["lease_until"] - running["started_at"]).total_seconds() <= 6
    assert running["wake_at"] <= running["lease_until"]
    assert finish(database, Outcome(held(started)[0], "succeeded", result='"x"')) == set()
    over = run_of(database, one)
    assert (over["state"], over["wake_at"], over["result"]) == ("succeeded", None, '"x"')
    assert select(database, "SELECT * FROM attempts") == []


def test_the_same_message_twice_starts_once(database: Database) -> None:
    _, ready, _ = begin(database)
    again = start(database, ready, OTHER)
    assert (again.execute, again.refused) == ([], 1)


def test_never_early(database: Database) -> None:
    one = insert(database, 2)
    ready = claim_all(database)
    started = start(database, ready)
    assert started.execute == []
    assert [p.run_id for p in started.early] == [ready[0].run_id]
    assert run_of(database, one)["state"] == "ready"


def test_a_failure_is_retried_and_recorded_until_the_budget_is_spent(database: Database) -> None:
    one, _, started = begin(database, max_failures=2)
    finish(database, Outcome(held(started)[0], "failed", error="boom", retry_in_s=0.0))
    waiting = run_of(database, one)
    assert (waiting["state"], waiting["failures"], waiting["attempt"]) == ("ready", 1, 1)
    (again,), lost, _ = wake.look_again(database, {})
    assert (again.attempt, lost) == (2, 0)
    second = start(database, [again])
    finish(database, Outcome(held(second)[0], "failed", error="boom", retry_in_s=None))
    dead = run_of(database, one)
    assert (dead["state"], dead["failures"], dead["reason"], dead["error"]) == ("failed", 2, "failed", "boom")
    assert [(a["attempt"], a["outcome"]) for a in select(database, "SELECT * FROM attempts ORDER BY attempt")] == [
        (1, "failed"),
        (2, "failed"),
    ]


def test_the_back_off_is_waited_for(database: Database) -> None:
    one, _, started = begin(database)
    finish(database, Outcome(held(started)[0], "failed", error="boom", retry_in_s=60.0))
    assert wake.look_again(database, {})[0] == []
    assert wake.wake_all(database) == 0
    assert (run_of(database, one)["wake_at"] - database.now()).total_seconds() > 50


def test_a_lost_lease_is_a_lost_attempt_and_the_old_holder_is_refused(database: Database) -> None:
    one, _, started = begin(database)
    old = held(started)[0]
    make_due(database, old.run_id)
    (again,), lost, _ = wake.look_again(database, {})
    assert (lost, again.attempt) == (1, 2)
    assert [a["outcome"] for a in select(database, "SELECT outcome FROM attempts")] == ["lost"]
    second = start(database, [again], OTHER)
    assert database.transaction(lambda c: runs.heartbeat(c, [old])) == set()
    assert database.transaction(lambda c: runs.hand_back(c, [old])) == set()
    assert finish(database, Outcome(old, "succeeded", result='"late"')) == {(old.run_id, 1)}
    assert finish(database, Outcome(old, "succeeded")) == {(old.run_id, 1)}
    assert run_of(database, one)["state"] == "running"
    assert finish(database, Outcome(held(second)[0], "succeeded")) == set()
    assert (run_of(database, one)["state"], run_of(database, one)["failures"]) == ("succeeded", 1)


def test_losses_spend_the_budget(database: Database) -> None:
    one, _, started = begin(database, max_failures=1)
    make_due(database, held(started)[0].run_id)
    assert wake.look_again(database, {})[:2] == ([], 1)
    dead = run_of(database, one)
    assert (dead["state"], dead["reason"]) == ("failed", "lost")


def test_a_heartbeat_gives_20_s(database: Database) -> None:
    one, _, started = begin(database)
    assert database.transaction(lambda c: runs.heartbeat(c, held(started))) == {(held(started)[0].run_id, 1)}
    assert 18 < (run_of(database, one)["lease_until"] - database.now()).total_seconds() <= 20


def test_a_lease_that_is_not_over_is_looked_at_again_when_it_ends(database: Database) -> None:
    one, _, _ = begin(database)
    sql(database, "UPDATE runs SET wake_at = UTC_TIMESTAMP(6) WHERE task_id = :i", i=one)
    assert wake.look_again(database, {}) == ([], 0, False)
    run = run_of(database, one)
    assert (run["state"], run["wake_at"]) == ("running", run["lease_until"])


def test_a_lease_ends_6_s_after_the_start_however_far_the_claim_put_the_look(database: Database) -> None:
    one = insert(database)
    ready = claim_all(database)
    sql(database, "UPDATE runs SET wake_at = wake_at + INTERVAL 300 SECOND WHERE task_id = :i", i=one)
    start(database, ready)
    run = run_of(database, one)
    assert run["wake_at"] == run["lease_until"]


def test_handed_back_counts_no_failure_and_is_looked_at_now(database: Database) -> None:
    one, _, started = begin(database)
    assert database.transaction(lambda c: runs.hand_back(c, held(started))) == set()
    back = run_of(database, one)
    assert (back["state"], back["failures"], back["first_started_at"]) == ("ready", 0, None)
    (again,), _, _ = wake.look_again(database, {})
    assert again.attempt == 2
    assert len(start(database, [again]).execute) == 1


def test_a_lost_push_is_pushed_again_4_s_after_due(database: Database) -> None:
    one = insert(database)
    claim_all(database)
    run = run_of(database, one)
    assert 3.5 < (run["wake_at"] - database.now()).total_seconds() <= 4
    assert wake.look_again(database, {})[0] == []
    make_due(database, run["id"])
    assert [r.run_id for r in wake.look_again(database, {})[0]] == [run["id"]]
    assert 3.5 < (run_of(database, one)["wake_at"] - database.now()).total_seconds() <= 4


def test_a_saturated_queue_costs_few_looks_and_wakes_all_when_redis_lost_its_data(database: Database) -> None:
    one = insert(database)
    claim_all(database)
    make_due(database, run_of(database, one)["id"])
    wake.look_again(database, {"default": 100.0})
    assert (run_of(database, one)["wake_at"] - database.now()).total_seconds() > 190
    assert wake.wake_all(database) == 1
    assert len(wake.look_again(database, {})[0]) == 1


@pytest.mark.parametrize(
    ("change", "state", "reason"),
    [
        ("UPDATE tasks SET state = 'cancelled'", "cancelled", "cancelled"),
        ("UPDATE tasks SET state = 'paused'", "skipped", "paused"),
        ("UPDATE tasks SET schedule_version = schedule_version + 1", "cancelled", "edited"),
        ("DELETE FROM tasks", "cancelled", "deleted"),
    ],
)
def test_off_is_off_at_the_start(database: Database, change: str, state: str, reason: str) -> None:
    one = insert(database)
    ready = claim_all(database)
    sql(database, change)
    started = start(database, ready)
    assert (started.execute, [v for _, v in started.not_run]) == ([], [reason])
    run = run_of(database, one)
    assert (run["state"], run["reason"], run["first_started_at"], run["started_at"]) == (state, reason, None, None)


def test_an_edit_of_the_payload_drops_nothing(database: Database) -> None:
    insert(database)
    ready = claim_all(database)
    sql(database, "UPDATE tasks SET payload = '7', version = version + 1")
    assert start(database, ready).execute[0]["payload"] == "7"


def test_paused_between_attempts_waits(database: Database) -> None:
    one, _, started = begin(database)
    finish(database, Outcome(held(started)[0], "failed", error="x", retry_in_s=0.0))
    sql(database, "UPDATE tasks SET state = 'paused'")
    (again,), _, _ = wake.look_again(database, {})
    assert start(database, [again]).not_run[0][1] == "later"
    assert (run_of(database, one)["wake_at"] - database.now()).total_seconds() > 25


def test_a_start_whose_commit_was_lost_finds_its_rows(database: Database) -> None:
    _, ready, started = begin(database)
    messages = [Popped(r.run_id, r.due_at, r.attempt) for r in ready]
    from tests.integration.life import TOKEN

    found = database.transaction(lambda c: runs.mine(c, messages, TOKEN))
    assert [r["id"] for r in found.execute] == [r["id"] for r in started.execute]
    assert database.transaction(lambda c: runs.mine(c, messages, OTHER)).execute == []


@pytest.mark.parametrize("kind", ["succeeded", "failed"])
def test_a_finish_may_be_repeated(database: Database, kind: str) -> None:
    one, _, started = begin(database)
    outcome = Outcome(held(started)[0], kind, error="x" if kind == "failed" else None, retry_in_s=None)
    assert finish(database, outcome) == set()
    assert finish(database, outcome) == set()
    assert len(select(database, "SELECT * FROM attempts")) == (kind == "failed")
    assert run_of(database, one)["state"] == kind


def test_a_batch_is_fenced_run_by_run(database: Database) -> None:
    for _ in range(3):
        insert(database)
    started = start(database, claim_all(database))
    holds = held(started)
    make_due(database, holds[1].run_id)
    wake.look_again(database, {})
    refused = finish(database, *(Outcome(h, "succeeded") for h in holds))
    assert refused == {(holds[1].run_id, 1)}
    states = {r["id"]: r["state"] for r in select(database, "SELECT id, state FROM runs")}
    assert states == {holds[0].run_id: "succeeded", holds[1].run_id: "ready", holds[2].run_id: "succeeded"}


def test_a_finish_never_waits_for_a_row_that_somebody_holds(database: Database) -> None:
    """It may hold the locks of a start in the same transaction: waiting for another such pair would be a deadlock."""
    for _ in range(2):
        insert(database)
    first, second = held(start(database, claim_all(database)))

    def body(connection: Connection) -> None:
        rows(connection, "SELECT id FROM runs WHERE id = :i FOR UPDATE", i=first.run_id)
        outcomes = [Outcome(h, "succeeded") for h in (first, second)]
        done = database.transaction(lambda c: finishing.finish(c, outcomes))
        assert (done.later, done.refused) == ({(first.run_id, 1)}, set())

    database.transaction(body)
    assert finish(database, Outcome(first, "succeeded")) == set()
