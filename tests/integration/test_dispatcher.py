"""The dispatcher's steps, driven by hand on real servers."""

import time
from datetime import timedelta

import pytest

from clockjack.ledger.database import Database
from clockjack.queues import Queues
from deploy import servers
from dispatcher.loops import Dispatcher
from tests.integration.life import insert, make_due, run_of, select, sql, task


@pytest.fixture
def dispatcher(database: Database, queues: Queues) -> Dispatcher:
    return Dispatcher(database, queues)


def lists(queues: Queues) -> tuple[int, int]:
    return queues.redis.zcard("clockjack:staged:default"), queues.redis.llen("rq:queue:default")


def test_claim_stages_and_release_queues(dispatcher: Dispatcher, database: Database, queues: Queues) -> None:
    insert(database, 0.3)
    assert dispatcher.claim_step() is False
    assert lists(queues) == (1, 0)
    while dispatcher.release_step() is not None:
        time.sleep(0.02)
    assert lists(queues) == (0, 1)


def test_a_full_batch_says_that_more_may_wait(dispatcher: Dispatcher, database: Database) -> None:
    for _ in range(501):
        insert(database, 3)
    assert dispatcher.claim_step() is True
    assert dispatcher.claim_step() is False
    assert len(select(database, "SELECT id FROM runs")) == 501


def test_what_was_never_pushed_is_pushed_when_looked_at(
    dispatcher: Dispatcher, database: Database, queues: Queues
) -> None:
    one = insert(database)
    dispatcher.claim_step()
    queues.redis.flushall()
    make_due(database, run_of(database, one)["id"])
    dispatcher.look_step()
    assert lists(queues) == (0, 1)


def test_after_a_loss_of_redis_what_waits_for_a_far_look_comes_at_once(
    dispatcher: Dispatcher, database: Database, queues: Queues
) -> None:
    dispatcher.look_step()
    one = insert(database)
    dispatcher.ages = {"default": 500.0}
    dispatcher.claim_step()
    assert (run_of(database, one)["wake_at"] - database.now()).total_seconds() > 500
    queues.redis.flushall()
    dispatcher.look_step()
    assert lists(queues) == (0, 1)


def test_a_restarted_redis_that_kept_its_data_wakes_nobody(
    dispatcher: Dispatcher, database: Database, queues: Queues
) -> None:
    dispatcher.look_step()
    one = insert(database)
    dispatcher.ages = {"default": 500.0}
    dispatcher.claim_step()
    dispatcher.ages = {}
    dispatcher.look_step()
    assert (run_of(database, one)["wake_at"] - database.now()).total_seconds() > 400


def test_when_a_saturated_queue_is_calm_again_its_runs_are_looked_at(
    dispatcher: Dispatcher, database: Database
) -> None:
    dispatcher.look_step()
    one = insert(database)
    dispatcher.ages = {"default": 500.0}
    dispatcher.claim_step()
    dispatcher.ages = {}
    dispatcher.look_step()
    assert (run_of(database, one)["wake_at"] - database.now()).total_seconds() > 400
    dispatcher._peaks = {"default": 500.0}  # a steady drain: each look sees a little less than the one before
    dispatcher.look_step()
    assert (run_of(database, one)["wake_at"] - database.now()).total_seconds() < 5


def test_claiming_goes_on_without_redis(
    dispatcher: Dispatcher, database: Database, redis_server: servers.Server
) -> None:
    from clockjack.queues import RedisError

    one = insert(database, 1)
    redis_server.kill()
    try:
        with pytest.raises(RedisError):
            dispatcher.claim_step()
        assert run_of(database, one)["state"] == "ready"
        assert task(database, one)["next_run_at"] is None
    finally:
        redis_server.start()


def test_gauges_and_partitions(dispatcher: Dispatcher, database: Database) -> None:
    insert(database, -30)
    dispatcher.measure_step()
    assert dispatcher.maintain_step() is False
    from clockjack import telemetry

    assert 25 < telemetry.OLDEST_DUE._value.get() < 60
    names = select(
        database,
        "SELECT partition_name AS name FROM information_schema.partitions"
        " WHERE table_schema = DATABASE() AND table_name = 'runs'",
    )
    assert len(names) >= 4


def test_old_history_goes_page_by_page_until_none_is_left(dispatcher: Dispatcher, database: Database) -> None:
    old = database.now() - timedelta(days=60)
    for _ in range(600):
        insert(database, None, run_at=old, next_run_at=None, created_at=old, updated_at=old)
    assert dispatcher.maintain_step() is True
    while dispatcher.maintain_step():
        pass
    assert select(database, "SELECT COUNT(*) AS n FROM tasks") == [{"n": 0}]


def test_a_queue_that_holds_nothing_and_is_not_served_is_forgotten(
    dispatcher: Dispatcher, database: Database, queues: Queues
) -> None:
    insert(database, queue="odd name: \u00e9")
    dispatcher.claim_step()
    dispatcher.measure_step()
    assert queues.names() == ["odd name: \u00e9"]
    queues.redis.flushall()
    queues.redis.sadd("rq:queues", "rq:queue:odd name: \u00e9".encode())
    dispatcher.measure_step()
    assert queues.names() == []
    assert dispatcher._names == set()


def test_a_run_that_cannot_be_looked_at_is_put_off_and_its_neighbours_are_pushed(
    dispatcher: Dispatcher, database: Database
) -> None:
    ids = [insert(database, queue=q) for q in ("default", "poison", "default")]
    dispatcher.claim_step()
    for one in ids:
        make_due(database, run_of(database, one)["id"])
    sql(
        database,
        "ALTER TABLE runs ADD CONSTRAINT no_wake CHECK (queue <> 'poison' OR wake_at < due_at + INTERVAL 2 SECOND"
        " OR wake_at > due_at + INTERVAL 30 SECOND)",
    )
    try:
        dispatcher.look_step()
    finally:
        sql(database, "ALTER TABLE runs DROP CONSTRAINT no_wake")
    left = [(run_of(database, one)["wake_at"] - database.now()).total_seconds() for one in ids]
    assert left[0] < 5 < 50 < left[1]
    assert left[2] < 5
