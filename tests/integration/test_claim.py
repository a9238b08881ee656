"""Claim: exactly one row an occurrence, every task moves on, and no row can stop the loop."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from clockjack.ledger import claim, control, tasks
from clockjack.ledger.database import Database, Unavailable, rows
from tests.integration.life import claim_all, finish, held, insert, run_of, select, sql, start, task

pytestmark = pytest.mark.mysql


def test_a_plain_insert_becomes_one_run_and_is_over(database: Database) -> None:
    one = insert(database, 3)
    ready = claim_all(database)
    assert [(r.run_id, r.attempt, r.queue) for r in ready] == [(run_of(database, one)["id"], 1, "default")]
    assert run_of(database, one)["due_at"] == task(database, one)["run_at"]
    assert task(database, one)["next_run_at"] is None
    assert claim_all(database) == []


def test_what_is_due_later_waits(database: Database) -> None:
    insert(database, 7)
    assert claim_all(database) == []


def test_a_cron_row_is_advanced_first_and_never_fires_at_the_stored_time(database: Database) -> None:
    one = insert(database, None, cron="0 3 * * *", timezone="Europe/Berlin")
    assert claim_all(database) == []
    after = task(database, one)
    assert after["next_run_at"] > database.now()
    assert after["version"] == 1
    assert select(database, "SELECT action, actor FROM task_events WHERE task_id = :i", i=one) == [
        {"action": "registered", "actor": "sql"}
    ]


def test_each_occurrence_of_a_recurring_task_has_its_row(database: Database) -> None:
    now = database.now()
    one = insert(database, None, every_s=1, start_at=now - timedelta(seconds=4), next_run_at=now - timedelta(seconds=4))
    claim_all(database)
    due = [r["due_at"] for r in select(database, "SELECT due_at FROM runs WHERE task_id = :i ORDER BY due_at", i=one)]
    assert due == [now + timedelta(seconds=i - 4) for i in range(len(due))]
    assert 9 <= len(due) <= 11  # 4 s behind, 5 s ahead


def test_missed_occurrences_are_one_row(database: Database) -> None:
    now = database.now()
    begin = now - timedelta(hours=3)
    one = insert(database, None, every_s=60, start_at=begin, next_run_at=begin)
    claim.claim(database, {})
    ran, missed = select(database, "SELECT * FROM runs WHERE task_id = :i ORDER BY due_at", i=one)
    assert (ran["state"], ran["due_at"]) == ("ready", begin)
    assert (missed["state"], missed["reason"], missed["due_at"]) == ("skipped", "misfire", begin + timedelta(minutes=1))
    assert missed["skipped_until"] == task(database, one)["next_run_at"]
    assert missed["skipped_until"] > now - timedelta(seconds=10)


def test_end_at_and_max_runs_end_a_task(database: Database) -> None:
    now = database.now()
    ends = insert(database, None, every_s=1, start_at=now, end_at=now + timedelta(seconds=2), next_run_at=now)
    twice = insert(database, None, every_s=1, start_at=now, max_runs=2, next_run_at=now)
    claim_all(database)
    counts = {r["task_id"]: r["n"] for r in select(database, "SELECT task_id, COUNT(*) n FROM runs GROUP BY task_id")}
    assert counts == {ends: 3, twice: 2}
    assert task(database, twice)["next_run_at"] is None


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"cron": "0 * * * *", "payload": "{nope"}, "payload"),
        ({"cron": "0 * * * *", "payload": '"' + "x" * 70_000 + '"'}, "payload"),
    ],
)
def test_a_row_that_only_python_can_refuse_is_parked(database: Database, columns: dict[str, str], says: str) -> None:
    bad = insert(database, None, **columns)
    good = insert(database, 1)
    claim_all(database)
    parked = task(database, bad)
    assert parked["state"] == "invalid"
    assert parked["error"].startswith(says)
    assert parked["next_run_at"] is None
    assert run_of(database, good)["state"] == "ready"


def test_checks_refuse_contradictions(database: Database) -> None:
    for columns in (
        {"cron": "* * * * *", "timeout_s": 0},
        {"cron": "* * * * *", "state": "sleeping"},
        {"cron": "* * * * *", "state": "paused "},
        {"cron": "* * * * *", "dst_gap": "skip "},
    ):
        with pytest.raises(DBAPIError):
            insert(database, None, **columns)


def test_a_zero_date_is_refused_also_in_a_lenient_session(database: Database, database_url: str) -> None:
    """The driver hands it out as text, which no comparison in the claim survives."""
    engine = sa.create_engine(database_url)
    with engine.connect() as connection:
        connection.exec_driver_sql("SET SESSION sql_mode = ''")
        for column in ("created_at", "start_at", "end_at", "run_at"):
            with pytest.raises(DBAPIError):
                connection.exec_driver_sql(
                    f"INSERT INTO tasks (handler, cron, {column}) VALUES ('mock', '* * * * *', '0000-00-00')"
                )
    engine.dispose()
    assert select(database, "SELECT id FROM tasks") == []


def test_a_row_that_breaks_its_batch_is_parked_and_its_neighbours_run(database: Database) -> None:
    bad = insert(database, 1, queue="poison")
    good = [insert(database, 1) for _ in range(5)]
    sql(database, "ALTER TABLE runs ADD CONSTRAINT no_poison CHECK (queue <> 'poison')")
    try:
        ready = claim_all(database)
    finally:
        sql(database, "ALTER TABLE runs DROP CONSTRAINT no_poison")
    assert len(ready) == 5
    assert all(run_of(database, i)["state"] == "ready" for i in good)
    assert task(database, bad)["state"] == "invalid"
    assert "claiming it fails" in task(database, bad)["error"]


@pytest.mark.parametrize("errno", [1021, 1026, 1114])  # disk full, error writing, table full
def test_a_server_that_cannot_write_parks_nobody(database: Database, errno: int) -> None:
    ids = [insert(database, 1) for _ in range(3)]
    sql(
        database,
        "CREATE TRIGGER full BEFORE INSERT ON runs FOR EACH ROW"
        f" SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {errno}, MESSAGE_TEXT = 'no space left on device'",
    )
    try:
        with pytest.raises(Unavailable):
            claim_all(database)
    finally:
        sql(database, "DROP TRIGGER full")
    assert all(task(database, i)["state"] == "active" for i in ids)
    assert len(claim_all(database)) == 3


def test_an_occurrence_that_has_a_row_does_not_make_its_neighbours_be_claimed_one_by_one(database: Database) -> None:
    one = insert(database, 3)
    claim_all(database)
    sql(database, "UPDATE tasks SET next_run_at = run_at WHERE id = :i", i=one)
    neighbours = [insert(database, 1) for _ in range(64)]
    begun: list[Connection] = []
    count = begun.append
    event.listen(database._engine, "begin", count)
    ready = claim.claim(database, {}).ready
    event.remove(database._engine, "begin", count)
    assert len(ready) == 64
    assert all(run_of(database, i)["state"] == "ready" for i in neighbours)
    assert task(database, one)["next_run_at"] is None
    assert len(begun) < 20  # one by one it would be 67


def test_two_claimers_never_take_the_same_task(database: Database) -> None:
    ids = {insert(database, 1) for _ in range(40)}
    with ThreadPoolExecutor(4) as pool:
        ready = [r for done in pool.map(lambda _: claim.claim(database, {}, 10).ready, range(12)) for r in done]
    ready += claim_all(database)
    assert len(ready) == len({r.run_id for r in ready}) == 40
    assert {r["task_id"] for r in select(database, "SELECT task_id FROM runs")} == ids


def test_overdue_work_of_a_saturated_queue_waits(database: Database) -> None:
    late = insert(database, -60, queue="slow")
    fresh = insert(database, 1, queue="slow")
    done = claim.claim(database, {"slow": 30.0})
    assert [r.queue for r in done.ready] == ["slow"]
    assert run_of(database, fresh)["state"] == "ready"
    assert task(database, late)["next_run_at"] is not None
    assert len(claim.claim(database, {"slow": 0.0}).ready) == 1


def test_on_time_work_comes_before_overdue_work(database: Database) -> None:
    for _ in range(6):
        insert(database, -60)
    fresh = insert(database, 1)
    assert [r.run_id for r in claim.claim(database, {}, 1).ready] == [run_of(database, fresh)["id"]]


def test_a_paused_task_leaves_a_row_and_runs_after_all_when_resumed_in_time(database: Database) -> None:
    one = insert(database, 3)
    sql(database, "UPDATE tasks SET state = 'paused' WHERE id = :i", i=one)
    assert claim_all(database) == []
    skipped = run_of(database, one)
    assert (skipped["state"], skipped["reason"]) == ("skipped", "paused")
    sql(database, "UPDATE tasks SET state = 'active', next_run_at = COALESCE(run_at, UTC_TIMESTAMP(6))")
    assert [(r.run_id, r.attempt) for r in claim_all(database)] == [(skipped["id"], 2)]
    assert run_of(database, one)["state"] == "ready"
    assert claim_all(database) == []


def test_an_edit_there_and_back_keeps_the_one_run(database: Database) -> None:
    one = insert(database, 3)
    claim_all(database)
    before = run_of(database, one)
    at = task(database, one)["run_at"]
    for moment in (at + timedelta(seconds=3600), at):
        sql(
            database,
            "UPDATE tasks SET run_at = :t, next_run_at = :t, schedule_version = schedule_version + 1 WHERE id = :i",
            t=moment,
            i=one,
        )
    assert claim_all(database) == []
    after = run_of(database, one)
    assert (after["id"], after["state"], after["schedule_version"]) == (before["id"], "ready", 3)
    assert task(database, one)["next_run_at"] is None


def test_an_occurrence_that_ran_does_not_run_again(database: Database) -> None:
    one = insert(database)
    from clockjack.ledger.finish import Outcome

    (hold,) = held(start(database, claim_all(database)))
    finish(database, Outcome(hold, "succeeded"))
    sql(database, "UPDATE tasks SET next_run_at = run_at WHERE id = :i", i=one)
    assert claim_all(database) == []
    assert run_of(database, one)["state"] == "succeeded"


def test_run_now_twice_in_one_statement_makes_two_runs(database: Database) -> None:
    one = insert(database, None, cron="0 3 * * *")
    made = database.transaction(lambda c: control.run_now(c, "default", [one, one], actor="test"))
    assert made[1]["due_at"] - made[0]["due_at"] == timedelta(microseconds=1)
    claim_all(database)
    assert len(select(database, "SELECT id FROM runs WHERE task_id = :i AND origin = 'manual'", i=one)) == 2


def test_cancelled_by_sql_fires_no_more(database: Database) -> None:
    one = insert(database, None, every_s=1)
    claim_all(database)
    sql(database, "UPDATE tasks SET state = 'cancelled' WHERE id = :i", i=one)
    sql(database, "UPDATE tasks SET next_run_at = UTC_TIMESTAMP(6) WHERE id = :i", i=one)
    assert claim_all(database) == []
    assert task(database, one)["next_run_at"] is None


def test_a_lock_that_somebody_holds_on_a_run_parks_nobody(database: Database, database_url: str) -> None:
    one = insert(database, 1)
    claim_all(database)
    run = run_of(database, one)
    sql(database, "UPDATE tasks SET next_run_at = run_at WHERE id = :i", i=one)
    neighbours = [insert(database, 1) for _ in range(3)]
    memory = claim.Memory()
    holder = Database(database_url, size=1, locks=False)

    def hold(connection: Connection) -> None:
        rows(connection, "SELECT id FROM runs WHERE id = :i FOR UPDATE", i=run["id"])
        assert len(claim.claim(database, {}, memory=memory).ready) == 3
        assert claim.claim(database, {}, memory=memory).tasks == 0  # put off, not tried again at once

    holder.transaction(hold)
    assert list(memory.avoid) == [one]
    assert all(run_of(database, i)["state"] == "ready" for i in neighbours)
    assert task(database, one)["state"] == "active"
    memory.avoid[one] = 0.0
    claim.claim(database, {}, memory=memory)
    assert (memory.avoid, task(database, one)["next_run_at"]) == ({}, None)


@pytest.mark.parametrize(
    "payload", ["[" * 101 + "]" * 101, "[" * 50_000, '{"a": NaN}', '{"a": 1e999}', "", '"\\ud800"']
)
def test_odd_payloads_park_one_task(database: Database, payload: str) -> None:
    bad = insert(database, 1, payload=payload)
    good = insert(database, 1)
    assert len(claim_all(database)) == 1
    assert (task(database, bad)["state"], run_of(database, good)["state"]) == ("invalid", "ready")
    assert task(database, bad)["error"].startswith("payload: ")


def test_a_payload_that_would_stall_the_claim_is_refused_by_the_server(database: Database) -> None:
    with pytest.raises(DBAPIError):
        insert(database, 1, payload='"' + "x" * 300_000 + '"')


def test_a_backlog_of_a_saturated_queue_is_walked_through_in_pieces(database: Database) -> None:
    slow = [insert(database, -60 + i, queue="slow") for i in range(3)]
    other = insert(database, -30, queue="other")
    memory = claim.Memory()
    assert [r.queue for r in claim.claim(database, {"slow": 9.0}, memory=memory).ready] == ["other"]
    insert(database, -30, queue="other")
    assert claim.claim(database, {"slow": 9.0}, memory=memory).ready == []  # at most once a second
    assert run_of(database, other)["state"] == "ready"
    assert all(task(database, i)["next_run_at"] for i in slow)


def test_max_runs_counts_every_run_also_after_pause_and_resume(database: Database) -> None:
    now = database.now()
    one = insert(database, None, every_s=1, start_at=now, max_runs=2, next_run_at=now)
    claim_all(database)
    for _ in range(3):
        sql(database, "UPDATE tasks SET state = 'active', next_run_at = UTC_TIMESTAMP(6) WHERE id = :i", i=one)
        claim_all(database)
    assert len(select(database, "SELECT id FROM runs")) == 2
    two = insert(database, None, every_s=3600, start_at=now + timedelta(seconds=2), max_runs=1)
    sql(database, "UPDATE tasks SET state = 'paused', next_run_at = start_at WHERE id = :i", i=two)
    claim_all(database)
    sql(database, "UPDATE tasks SET state = 'active', next_run_at = start_at WHERE id = :i", i=two)
    assert len(claim_all(database)) == 1
    assert task(database, two)["runs_claimed"] == 1


def test_a_task_cancelled_and_registered_again_for_the_same_time_still_runs(database: Database) -> None:
    one = insert(database, -0.1, task_key="once more")
    ready = claim_all(database)
    database.transaction(lambda c: control.cancel(c, "default", one, actor="test"))
    assert start(database, ready).execute == []
    row = task(database, one)
    fields = {name: row[name] for name in ("task_key", "handler", "queue", "payload", "run_at")}
    limits = {"timeout_s": 60, "max_failures": 5, "backoff_s": 2, "backoff_max_s": 3600}
    database.transaction(lambda c: tasks.register(c, "default", fields | limits, actor="test"))
    (again,) = claim_all(database)
    assert again.run_id == ready[0].run_id
    assert [run["task_id"] for run in start(database, [again]).execute] == [one]
