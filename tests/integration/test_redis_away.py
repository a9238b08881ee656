"""Without Redis everything goes on by way of MySQL: on time, once each, by the same policies. Driven step by step."""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rq.worker import Worker

from clockjack import reach
from clockjack.handlers import Run
from clockjack.ledger import direct
from clockjack.ledger.database import Database, rows, to_us
from clockjack.moments import FIRST
from clockjack.queues import Queues, RedisError
from consumers.engine import Engine
from deploy import servers
from dispatcher.loops import Dispatcher
from tests.integration.life import insert, run_of, select, sql, task
from tests.prove.counting import Effects, count
from tests.prove.stage import Stage, until

pytestmark = pytest.mark.mysql
FAR = "UTC_TIMESTAMP(6) + INTERVAL 1 HOUR"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """One that may be stopped; it keeps nothing."""
    server = servers.redis(tmp_path_factory.mktemp("redis"), persistent=False)
    yield server
    server.kill()


class Pipeline:
    """Dispatchers and consumers, each with a connection to Redis of its own. A probe that fails counts at once."""

    def __init__(self, database: Database, redis: servers.Server) -> None:
        self.database, self.redis = database, redis
        self.entered: list[str] = []
        self.handle: Callable[[Run], Any] = lambda run: None
        self.engines: list[Engine] = []

    def dispatcher(self, url: str = "") -> Dispatcher:
        dispatcher = Dispatcher(self.database, Queues(url or self.redis.url))
        dispatcher.queues.probe()
        return dispatcher

    def consumer(self, url: str = "", size: int = 4) -> Engine:
        queues = Queues(url or self.redis.url)
        engine = Engine(
            self.database, queues, "default", f"w{len(self.engines)}", size, lambda job, run: self._run(run)
        )
        queues.probe()
        self.engines.append(engine)
        return engine

    def _run(self, run: Run) -> Any:
        self.entered.append(run.key)
        return self.handle(run)

    def poll(self, engine: Engine, times: int = 1) -> None:
        """The consumer's turn to ask MySQL came so many times, and what it started has ended and was written."""
        for _ in range(times):
            engine.direct._next_s = 0.0
            engine.step()
            self.work(engine)

    def work(self, engine: Engine) -> None:
        give_up = time.monotonic() + 10
        while (
            engine.pool.waiting or engine.pool.outcomes or any(j.state == "running" for j in engine.pool.jobs.values())
        ):
            assert time.monotonic() < give_up
            engine.direct._next_s = float("inf")
            engine.step() or engine.wake.wait(0.01)
            engine.wake.clear()

    def state(self, task_id: int) -> str:
        return str(run_of(self.database, task_id)["state"])


NOWHERE = "unix:///nonexistent/redis.sock"


@pytest.fixture
def pipeline(database: Database, redis: servers.Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    monkeypatch.setattr(reach, "AWAY_S", 0.0)
    redis.start()
    Queues(redis.url).redis.flushall()
    pipeline = Pipeline(database, redis)
    yield pipeline
    for engine in pipeline.engines:
        engine.pool.close()


def test_runs_are_claimed_for_their_due_time_and_started_from_mysql_not_before(pipeline: Pipeline) -> None:
    pipeline.redis.kill()
    dispatcher, consumer = pipeline.dispatcher(), pipeline.consumer()
    one = insert(pipeline.database, 1.0)
    dispatcher.claim_step()
    run = run_of(pipeline.database, one)
    assert run["wake_at"] == run["due_at"]
    pipeline.poll(consumer)
    assert pipeline.state(one) == "ready"
    until(lambda: pipeline.database.now() >= run["due_at"], 5)
    pipeline.poll(consumer)
    assert (pipeline.state(one), pipeline.entered) == ("succeeded", [f"{one}-{to_us(run['due_at'])}"])
    consumer.step()
    assert consumer.empty


def test_a_task_of_the_past_that_is_claimed_without_redis_is_found_at_once(pipeline: Pipeline) -> None:
    """Its row may be that of an occurrence which was claimed before, skipped as paused, and is due again."""
    one = insert(pipeline.database, -0.1)
    pipeline.dispatcher().claim_step()
    sql(
        pipeline.database,
        "UPDATE runs SET state = 'skipped', reason = 'paused', wake_at = NULL, finished_at = UTC_TIMESTAMP(6)",
    )
    sql(pipeline.database, "UPDATE tasks SET next_run_at = run_at")
    pipeline.redis.kill()
    pipeline.dispatcher().claim_step()
    assert run_of(pipeline.database, one)["wake_at"] <= pipeline.database.now()
    pipeline.poll(pipeline.consumer())
    assert (pipeline.state(one), len(pipeline.entered)) == ("succeeded", 1)


def test_a_dispatcher_without_redis_leaves_ready_runs_alone_and_finds_lost_ones(pipeline: Pipeline) -> None:
    ready, lost, held = (insert(pipeline.database, -1) for _ in range(3))
    pipeline.redis.kill()
    dispatcher = pipeline.dispatcher()
    dispatcher.claim_step()
    wake_at = run_of(pipeline.database, ready)["wake_at"]
    lease = "state = 'running', attempt = 1, run_token = 'x', started_at = UTC_TIMESTAMP(6), lease_until ="
    sql(pipeline.database, f"UPDATE runs SET {lease} UTC_TIMESTAMP(6) WHERE task_id = :i", i=lost)
    sql(pipeline.database, f"UPDATE runs SET {lease} {FAR} WHERE task_id = :i", i=held)
    assert dispatcher.look_step() is False
    assert run_of(pipeline.database, ready)["wake_at"] == wake_at
    assert pipeline.state(held) == "running"
    run = run_of(pipeline.database, lost)
    assert (run["state"], run["failures"]) == ("ready", 1)
    pipeline.poll(pipeline.consumer())
    assert (pipeline.state(ready), pipeline.state(lost)) == ("succeeded", "succeeded")


def test_nobody_waits_for_a_redis_that_hangs(pipeline: Pipeline) -> None:
    """Each of these steps would call Redis at least once; a call that is made takes a second to fail."""
    dispatcher, consumer = pipeline.dispatcher(), pipeline.consumer()
    pipeline.redis.suspend()
    try:
        dispatcher.queues.probe()
        consumer.queues.probe()
        ids = [insert(pipeline.database) for _ in range(3)]
        begun = time.monotonic()
        dispatcher.claim_step()
        dispatcher.release_step()
        dispatcher.look_step()
        dispatcher._listen(None)
        pipeline.poll(consumer)
        for call in (lambda: consumer.queues.nudge("look"), lambda: consumer.queues.withdraw("w0")):
            with pytest.raises(RedisError):
                call()
        assert time.monotonic() - begun < 1.0
        assert [pipeline.state(i) for i in ids] == ["succeeded"] * 3
    finally:
        pipeline.redis.resume()


def test_redis_is_away_after_two_seconds_and_no_sooner(redis: servers.Server) -> None:
    queues = Queues(redis.start().url)
    queues.probe()
    redis.kill()
    begun = time.monotonic()
    queues.probe()
    assert not queues.reach.away
    assert until(lambda: queues.probe() or queues.reach.away, 5)
    assert time.monotonic() - begun > 1.9
    redis.start()
    queues.probe()
    assert not queues.reach.away


def test_a_redis_that_takes_no_writes_is_away_and_a_full_one_is_not(pipeline: Pipeline) -> None:
    queues = Queues(pipeline.redis.url)
    queues.redis.config_set("maxmemory", "1")
    queues.probe()
    assert not queues.reach.away
    queues.redis.config_set("maxmemory", "0")
    queues.redis.execute_command("REPLICAOF", "127.0.0.1", "1")
    queues.probe()
    assert queues.reach.away
    Queues(pipeline.redis.url).redis.execute_command("REPLICAOF", "NO", "ONE")


def test_what_waits_for_its_back_off_or_its_turn_is_not_started_early(pipeline: Pipeline) -> None:
    pipeline.redis.kill()
    dispatcher, consumer = pipeline.dispatcher(), pipeline.consumer()
    pipeline.handle = lambda run: 1 / 0 if run.attempt == 1 and run.payload else None
    retried = insert(pipeline.database, payload="1")
    dispatcher.claim_step()
    pipeline.poll(consumer)
    filled = insert(pipeline.database)
    dispatcher.claim_step()
    sql(pipeline.database, f"UPDATE runs SET origin = 'backfill', wake_at = {FAR} WHERE task_id = :i", i=filled)
    sql(pipeline.database, f"UPDATE runs SET wake_at = {FAR} WHERE task_id = :i", i=retried)
    pipeline.poll(consumer, times=3)
    assert (pipeline.state(retried), pipeline.state(filled), len(pipeline.entered)) == ("ready", "ready", 1)
    sql(pipeline.database, "UPDATE runs SET wake_at = UTC_TIMESTAMP(6)")
    pipeline.poll(consumer)
    assert (pipeline.state(retried), pipeline.state(filled), len(pipeline.entered)) == ("succeeded", "succeeded", 3)


@pytest.mark.parametrize(("policy", "then"), [("skip", "skipped"), ("queue_one", "ready")])
def test_runs_that_must_not_overlap_do_not(pipeline: Pipeline, policy: str, then: str) -> None:
    pipeline.redis.kill()
    dispatcher, first, second = pipeline.dispatcher(), pipeline.consumer(), pipeline.consumer()
    one = insert(pipeline.database, None, every_s=1, overlap=policy)
    sql(pipeline.database, "UPDATE tasks SET created_at = created_at - INTERVAL 2 SECOND")
    dispatcher.claim_step()
    due = "SELECT id, due_at FROM runs WHERE due_at <= UTC_TIMESTAMP(6) ORDER BY due_at"
    until(lambda: select(pipeline.database, due), 5)
    release = time.monotonic() + 30
    pipeline.handle = lambda run: until(lambda: time.monotonic() > release, 30)
    first.direct._next_s = 0.0
    assert first.step()
    assert until(lambda: pipeline.entered, 5)
    until(lambda: dispatcher.claim_step() or len(select(pipeline.database, due)) > 1, 10)
    later = select(pipeline.database, due)[1]
    second.direct._next_s = 0.0
    second.step()
    run = select(pipeline.database, "SELECT * FROM runs WHERE id = :i", i=later["id"])[0]
    assert (run["state"], len(pipeline.entered)) == (then, 1)
    assert run["live_task_id"] == (one if then == "ready" else None)
    release = 0.0
    pipeline.work(first)


def test_paused_and_cancelled_tasks_start_nothing(pipeline: Pipeline) -> None:
    pipeline.redis.kill()
    paused, cancelled = insert(pipeline.database), insert(pipeline.database)
    pipeline.dispatcher().claim_step()
    sql(pipeline.database, "UPDATE tasks SET state = IF(id = :i, 'paused', 'cancelled')", i=paused)
    pipeline.poll(pipeline.consumer())
    assert (pipeline.state(paused), pipeline.state(cancelled), pipeline.entered) == ("skipped", "cancelled", [])


def test_a_poll_takes_what_the_pool_has_room_for(pipeline: Pipeline) -> None:
    pipeline.redis.kill()
    done = False
    pipeline.handle = lambda run: until(lambda: done, 20)
    for _ in range(10):
        insert(pipeline.database)
    pipeline.dispatcher().claim_step()
    consumer = pipeline.consumer(size=3)
    for _ in range(3):
        consumer.direct._next_s = 0.0
        consumer.step()
    states = select(pipeline.database, "SELECT state, COUNT(*) AS n FROM runs GROUP BY state ORDER BY state")
    assert states == [{"state": "ready", "n": 7}, {"state": "running", "n": 3}]
    done = True
    pipeline.work(consumer)
    pipeline.poll(consumer, times=5)
    assert len(pipeline.entered) == len(set(pipeline.entered)) == 10


def test_polls_at_once_take_different_runs_and_do_not_wait_for_each_other(pipeline: Pipeline) -> None:
    pipeline.redis.kill()
    for _ in range(6):
        insert(pipeline.database)
    pipeline.dispatcher().claim_step()
    first = select(pipeline.database, "SELECT id, due_at FROM runs ORDER BY id LIMIT 3")
    consumer = pipeline.consumer(size=10)
    with pipeline.database._engine.connect() as frozen, frozen.begin():
        found = rows(frozen, "SELECT id FROM runs WHERE id IN :ids FOR UPDATE", ids=[run["id"] for run in first])
        assert len(found) == 3
        begun = time.monotonic()
        pipeline.poll(consumer)
        assert time.monotonic() - begun < 1.0
        assert len(pipeline.entered) == 3
    pipeline.poll(consumer, times=2)  # what was tried in vain has its turn again
    assert len(pipeline.entered) == len(set(pipeline.entered)) == 6


def test_a_consumer_alone_without_redis_finds_what_dispatchers_push_in_vain(pipeline: Pipeline) -> None:
    """Also what was looked at, and is not to be looked at again for hours; then the old messages count no more."""
    dispatcher = pipeline.dispatcher()
    consumer = pipeline.consumer(NOWHERE)
    pipeline.handle = lambda run: 1 / 0 if run.attempt == 1 and run.payload else None
    fresh, looked, retried = (
        insert(pipeline.database),
        insert(pipeline.database),
        insert(pipeline.database, payload="1"),
    )
    dispatcher.claim_step()
    sql(pipeline.database, f"UPDATE runs SET wake_at = {FAR} WHERE task_id <> :i", i=retried)
    sql(pipeline.database, "UPDATE runs SET wake_at = UTC_TIMESTAMP(6) WHERE task_id = :i", i=looked)
    dispatcher.ages = {"default": 7200.0}
    pipeline.redis.kill()  # so that the look keeps this age
    with pytest.raises(RedisError):
        dispatcher.look_step()
    assert (run_of(pipeline.database, looked)["wake_at"] - pipeline.database.now()).total_seconds() > 7200
    pipeline.redis.start()
    pipeline.poll(consumer, times=2)
    assert [pipeline.state(i) for i in (fresh, looked, retried)] == ["succeeded", "succeeded", "ready"]
    sql(pipeline.database, "UPDATE runs SET wake_at = UTC_TIMESTAMP(6) WHERE state = 'ready'")
    dispatcher.look_step()  # its back-off is over: it is pushed
    assert run_of(pipeline.database, retried)["wake_at"] > pipeline.database.now()
    pipeline.poll(consumer)
    assert (pipeline.state(retried), len(pipeline.entered)) == ("succeeded", 4)
    again = pipeline.consumer()
    again.bell.set()
    while again.queues.redis.llen("rq:queue:default"):
        again.step()
    again.step()
    assert len(pipeline.entered) == 4
    assert again.queues.redis.keys("rq:job:*") == []


def test_a_dispatcher_alone_without_redis_leaves_the_push_to_another(pipeline: Pipeline) -> None:
    cut, dispatcher, consumer = pipeline.dispatcher(NOWHERE), pipeline.dispatcher(), pipeline.consumer()
    one = insert(pipeline.database)
    cut.claim_step()
    cut.look_step()
    assert consumer.queues.redis.llen("rq:queue:default") == 0
    dispatcher.look_step()
    consumer.bell.set()
    consumer.step()
    pipeline.work(consumer)
    assert (pipeline.state(one), len(pipeline.entered)) == ("succeeded", 1)


def test_an_idle_consumer_finds_what_no_dispatcher_can_push(pipeline: Pipeline) -> None:
    cut, consumer = pipeline.dispatcher(NOWHERE), pipeline.consumer()
    one, soon = insert(pipeline.database, -4), insert(pipeline.database, -1)
    cut.claim_step()
    sql(pipeline.database, "UPDATE runs SET wake_at = due_at")
    consumer.bell.set()
    pipeline.poll(consumer)  # asks Redis, which has nothing
    pipeline.poll(consumer)
    assert (pipeline.state(one), pipeline.state(soon)) == ("succeeded", "ready")


def test_a_suspended_consumer_stays_so(pipeline: Pipeline) -> None:
    consumer, dispatcher = pipeline.consumer(), pipeline.dispatcher()
    consumer.queues.redis.set("rq:suspended", 1)
    consumer.queues.probe()
    pipeline.redis.kill()
    consumer.queues.probe()
    dispatcher.queues.probe()
    one = insert(pipeline.database)
    dispatcher.claim_step()
    pipeline.poll(consumer)
    assert pipeline.state(one) == "ready"


def test_redis_comes_back_with_old_messages_and_without(pipeline: Pipeline) -> None:
    """What was started meanwhile is not started again, and what was claimed meanwhile is pushed."""
    dispatcher, consumer = pipeline.dispatcher(), pipeline.consumer()
    staged = insert(pipeline.database)
    dispatcher.claim_step()
    pipeline.redis.suspend()
    dispatcher.queues.probe()
    consumer.queues.probe()
    pipeline.poll(consumer)
    claimed = insert(pipeline.database)
    dispatcher.claim_step()
    pipeline.redis.resume()
    dispatcher.queues.probe()
    consumer.queues.probe()
    dispatcher.look_step()
    assert consumer.queues.redis.llen("rq:queue:default") == 2
    consumer.bell.set()
    consumer.step()
    pipeline.work(consumer)
    pipeline.redis.kill()
    dispatcher.queues.probe()
    last = insert(pipeline.database)
    dispatcher.claim_step()
    pipeline.redis.start()
    dispatcher.queues.probe()
    dispatcher.look_step()
    consumer.bell.set()
    consumer.step()
    pipeline.work(consumer)
    assert [pipeline.state(i) for i in (staged, claimed, last)] == ["succeeded"] * 3
    assert len(pipeline.entered) == len(set(pipeline.entered)) == 3


def test_overdue_work_keeps_its_pace_without_redis(pipeline: Pipeline) -> None:
    """The ages of the queues come from the runs; those that Redis told last count no more."""
    pipeline.redis.kill()
    dispatcher = pipeline.dispatcher()
    dispatcher.ages = {"default": 500.0}
    late = insert(pipeline.database, -60)
    dispatcher.look_step()
    dispatcher.claim_step()
    assert task(pipeline.database, late)["next_run_at"] is None
    sql(pipeline.database, "UPDATE runs SET wake_at = wake_at - INTERVAL 30 SECOND")
    dispatcher.look_step()
    assert 20 < dispatcher.ages["default"] < 40


def test_a_walk_through_many_runs_of_other_queues_comes_to_ours(pipeline: Pipeline) -> None:
    insert(pipeline.database, -0.1, queue="other")
    pipeline.dispatcher(NOWHERE).claim_step()
    sql(pipeline.database, "UPDATE runs SET task_id = 1000000")
    for i in range(14):
        sql(
            pipeline.database,
            "INSERT INTO runs (task_id, due_at, schedule_version, task_version, queue, state, wake_at)"
            " SELECT task_id + :s, due_at, 1, 1, queue, 'ready', wake_at - INTERVAL 3600000 + :s SECOND FROM runs",
            s=2**i,
        )
    one = insert(pipeline.database, -0.1)
    pipeline.dispatcher(NOWHERE).claim_step()
    sql(pipeline.database, "UPDATE runs SET wake_at = wake_at - INTERVAL 1 MINUTE WHERE task_id = :i", i=one)
    pipeline.poll(pipeline.consumer(NOWHERE), times=5)
    assert pipeline.state(one) == "succeeded"


def test_a_bad_run_does_not_stop_the_rest(pipeline: Pipeline) -> None:
    ids = [insert(pipeline.database) for _ in range(2)]
    pipeline.dispatcher(NOWHERE).claim_step()
    find = lambda avoid: pipeline.database.transaction(  # noqa: E731
        lambda c: direct.find(c, "default", 1, FIRST, avoid, away=True)
    )
    first, _ = find([])
    second, _ = find([p.run_id for p in first])
    assert {first[0].run_id, second[0].run_id} == {run_of(pipeline.database, i)["id"] for i in ids}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["refuses", "hangs"])
def test_processes_begin_work_and_end_without_redis(tmp_path: Path, how: str) -> None:
    stage = Stage(tmp_path)
    try:
        stage.begin()
        stage.redis.suspend() if how == "hangs" else stage.redis.kill()
        dispatcher, consumer, other = stage.cast(dispatcher=1, consumer=2)
        effects = Effects(stage.effects)
        expected = stage.register([stage.now_us() + n * 500_000 for n in range(8)])
        assert effects.wait(expected, 30)
        assert count(effects, expected).late_s < 10
        other.send(signal.SIGTERM)
        assert other.ended(10) == 0
        if how == "hangs":
            stage.redis.resume()
        else:
            for file in (stage.redis.directory / "appendonlydir").iterdir():
                file.unlink()  # it comes back empty
            stage.redis.start()
        until(lambda: stage.queues.served(), 10)
        redis = stage.queues.redis
        until(lambda: {*stage.queues.consumers()} <= {worker.name for worker in Worker.all(connection=redis)}, 10)
        expected |= stage.register([stage.now_us() + n * 100_000 for n in range(20)])
        assert effects.wait(expected, 30)
        done = count(effects, expected)
        assert done.once_each
        assert done.late_s < 10
        assert dispatcher.alive
        assert consumer.alive
    finally:
        stage.close()
