"""What 1,000 runs cost, in statements, commits and Redis commands: exact, so that no machine's speed comes into it.

A number here that grows is a regression of speed; one that falls is to be written down. Commands are as Redis counts
them, those inside the scripts included.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event

from clockjack.ledger.database import Database
from clockjack.queues import Queues
from consumers.engine import BATCH, Engine
from dispatcher.loops import Dispatcher
from tests.integration.life import insert, select, sql

pytestmark = [pytest.mark.mysql, pytest.mark.xdist_group("heavy")]

RUNS = 1_000
# capitals: SQL; the rest: Redis. Claimed 500 at a time, found first and then locked, and once more to find nothing;
# pushed 100 at a time
CLAIM_AND_STAGE = {
    **dict.fromkeys(("hmget", "hset", "expire"), RUNS),
    **dict.fromkeys(("evalsha", "llen", "sadd", "zadd"), 10),
    "SELECT": 8,
    "INSERT": 4,
    "UPDATE": 2,
    "COMMIT": 3,
}
RELEASE = {"evalsha": 1, "llen": 1, "zrangebyscore": 1, "zrem": 1, "rpush": 1, "zrange": 1}
# batches of 500, each started in the transaction that finishes the one before
START_AND_FINISH = {
    **dict.fromkeys(("hget", "hset"), RUNS),
    **dict.fromkeys(("evalsha", "exists", "llen", "lpop", "SELECT", "UPDATE"), 4),
    "COMMIT": 3,
    **dict.fromkeys(("zadd", "zmscore", "zrem", "del"), 2),
}
OTHERS = {"config|resetstat", "info"}  # ours, to count


@contextlib.contextmanager
def counted(database: Database, queues: Queues) -> Iterator[Counter[str]]:
    """The counter holds, at the end, what was asked of the two servers meanwhile."""
    seen: Counter[str] = Counter()

    def statement(connection: Any, cursor: Any, text: str, *rest: Any) -> None:
        seen[text.split(None, 1)[0]] += 1

    def commit(connection: Any) -> None:
        seen["COMMIT"] += 1

    event.listen(database._engine, "before_cursor_execute", statement)
    event.listen(database._engine, "commit", commit)
    queues.redis.config_resetstat()
    try:
        yield seen
    finally:
        event.remove(database._engine, "before_cursor_execute", statement)
        event.remove(database._engine, "commit", commit)
        stats = queues.redis.info("commandstats")
        seen.update({name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()})
        for name in OTHERS:
            del seen[name]


@pytest.fixture
def engine(database: Database, queues: Queues) -> Iterator[Engine]:
    engine = Engine(database, queues, "default", "w1", 50, lambda job, run: None)
    engine.direct._next_s = float("inf")  # an idle consumer's question to MySQL every 3 s is no cost of a run
    yield engine
    engine.pool.close()


def batch(engine: Engine) -> bool:
    """One step was made, and every handler that it began has ended."""
    engine.bell.set()
    worked = engine.step()
    give_up = time.monotonic() + 30
    while len(engine.pool.outcomes) < len(engine.pool.jobs):
        assert time.monotonic() < give_up, "a handler does not end"
        time.sleep(0.001)
    return worked


def prepare(dispatcher: Dispatcher, engine: Engine) -> None:
    """One run went through before anything is counted: scripts are loaded, connections open, statements compiled."""
    insert(dispatcher.database)
    dispatcher.claim_step()
    dispatcher.release_step()
    while batch(engine):
        pass
    assert engine.empty
    engine.pool.ewma_s = 0.001  # how long that one took is not to decide about the batches
    assert engine.pool.room(BATCH)[0] == BATCH


def test_what_1000_runs_cost(database: Database, queues: Queues, engine: Engine) -> None:
    dispatcher = Dispatcher(database, queues)
    prepare(dispatcher, engine)
    due = database.now() + timedelta(seconds=4)
    values = ", ".join(["('mock', '{}', :due)"] * RUNS)
    sql(database, f"INSERT INTO tasks (handler, payload, run_at) VALUES {values}", due=due)

    with counted(database, queues) as claimed:
        while dispatcher.claim_step():
            pass
    assert database.now() < due, "this machine is too slow to claim ahead: nothing was measured"
    assert dict(claimed) == CLAIM_AND_STAGE

    while database.now() <= due:
        time.sleep(0.1)
    with counted(database, queues) as released:
        dispatcher.release_step()
    assert dict(released) == RELEASE

    with counted(database, queues) as executed:
        while batch(engine):
            pass
    assert engine.empty
    assert dict(executed) == START_AND_FINISH
    states = select(database, "SELECT state, COUNT(*) AS n FROM runs GROUP BY state")
    assert states == [{"state": "succeeded", "n": RUNS + 1}]
