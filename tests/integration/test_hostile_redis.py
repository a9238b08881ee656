"""Whoever can write to Redis starts nothing that MySQL does not say is due, stops no loop, makes no honest run late."""

import json
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from clockjack import doctor
from clockjack.handlers import Run
from clockjack.ledger.database import Database, to_us
from clockjack.queues import Queues
from clockjack.settings import Settings
from tests.integration.life import insert, make_due, select, sql
from tests.integration.test_consumer import Bench

FAR_US = 4_000_000_000_000_000
AHEAD = 40  # so many runs are forged before there are any of them


class Scene(Bench):
    """A dispatcher and a consumer beside an attacker who writes to their Redis."""

    def __init__(self, database: Database, queues: Queues) -> None:
        super().__init__(database, queues, size=8)
        self.ran: list[str] = []
        self.handle = lambda run: self.ran.append(run.key)
        self.redis: Any = queues.redis
        first = insert(database)
        self.dispatcher.claim_step()
        self.until(lambda: self.state(first) == "succeeded" and self.engine.empty)
        self.ran.clear()
        self.last = int(select(database, "SELECT MAX(id) AS id FROM runs")[0]["id"])
        self.coming = range(self.last + 1, self.last + AHEAD)

    def forge(self, name: str, data: Any, **fields: Any) -> None:
        """A job lies at the head of the queue whose data is this (bytes as they are, ids as a message of ours)."""
        if not isinstance(data, bytes):
            data = json.dumps(["consumers.entry.execute", None, data, {}])
        self.redis.hset(f"rq:job:{name}", mapping={"status": "queued", "data": data, **fields})
        self.redis.lpush("rq:queue:default", name)
        self.redis.sadd("rq:queues", "rq:queue:default")

    def honest(self) -> None:
        """Honest tasks run once each and on time, whatever lies in Redis; no step of a loop fails."""
        now = self.database.now()
        due = [insert(self.database, None, run_at=now + timedelta(seconds=s)) for s in (-0.1, 0, 0, 0.5)]
        due += [insert(self.database, None, run_at=now, overlap="skip") for _ in range(2)]
        give_up = time.monotonic() + 10
        while len(self.ran) < len(due) or not self.engine.empty:
            assert time.monotonic() < give_up, f"{len(self.ran)} of {len(due)} ran"
            self.dispatcher.claim_step()
            for step in (self.dispatcher.release_step, self.dispatcher.look_step, self.dispatcher.measure_step):
                step()
            self.engine.queues.keep("default", "w1", [*self.engine.pool.jobs], self.database.clock.now_us())
            self.engine.queues.announce("w1", "default", ["mock"], 8)
            self.engine.bell.set()
            self.engine.tick()
            self.engine.step()
        assert sorted(int(key.split("-")[0]) for key in self.ran) == due
        found = select(
            self.database,
            "SELECT state, failures, attempt, CONCAT(task_id, '-', due_at) AS k,"
            " TIMESTAMPDIFF(MICROSECOND, due_at, first_started_at) AS late_us FROM runs WHERE task_id IN :ids",
            ids=due,
        )
        assert {(run["state"], run["failures"]) for run in found} == {("succeeded", 0)}
        assert all(0 <= run["late_us"] < 10_000_000 for run in found), found
        assert len({run["k"] for run in found}) == len(due)


@pytest.fixture
def scene(database: Database, queues: Queues) -> Iterator[Scene]:
    scene = Scene(database, queues)
    yield scene
    scene.engine.pool.close()


KINDS = ("string", "list", "set", "zset", "hash", "stream")


def wrong(redis: Any, key: str, kind: str) -> None:
    """The key holds a value of this type."""
    redis.delete(key)
    {
        "string": lambda: redis.set(key, "x" * 1000),
        "list": lambda: redis.rpush(key, "x"),
        "set": lambda: redis.sadd(key, "x"),
        "zset": lambda: redis.zadd(key, {"x": 1}),
        "hash": lambda: redis.hset(key, "x", "x"),
        "stream": lambda: redis.xadd(key, {"x": "x"}),
    }[kind]()


@pytest.mark.parametrize("shift", range(0, len(KINDS), 2))
def test_keys_of_a_wrong_type_at_every_name(scene: Scene, shift: int) -> None:
    names = ["rq:queues", "rq:queue:default", "rq:wip:default", "clockjack:staged:default", "clockjack:epoch"]
    names += ["clockjack:consumers", "clockjack:consumer:w1", "clockjack:nudge", "rq:workers", "rq:workers:default"]
    for n, name in enumerate((*names, *(f"rq:job:r{i}-a1" for i in scene.coming))):
        wrong(scene.redis, name, KINDS[(n + shift) % len(KINDS)])
    scene.queues.nudge()
    scene.honest()
    for n, name in enumerate(("rq:wip:default", "rq:queue:default")):
        wrong(scene.redis, name, KINDS[(n + shift) % len(KINDS)])
    assert [queue["queue"] for queue in scene.queues.status()] == ["default"]


def test_forged_hashes_of_runs_to_come(scene: Scene) -> None:
    """Each says that its run is on its way already: believed, it would never start."""
    us = scene.database.clock.now_us()
    for n, i in enumerate(scene.coming):
        told = [
            {"status": "started", "popped_us": FAR_US},
            {"status": "started", "popped_us": "soon"},
            {"status": "started", "popped_us": "inf"},
            {"status": "queued", "data": b"\x80"},
            {"status": "finished", "data": "[" * 900},
        ][n % 5]
        scene.redis.hset(f"rq:job:r{i}-a1", mapping=told)
        if n % 2:
            scene.redis.zadd("clockjack:staged:default", {f"r{i}-a1": FAR_US + us})
    scene.honest()


NONSENSE = (b"", b"x", b"-1e9", b"nan", b"9" * 4000, b"-9999999999999999999", b"1", b"1e300", b"\xff", b"1" * 10**6)


def test_heads_of_queues_that_tell_nonsense(scene: Scene) -> None:
    """They are of queues that nobody serves, so that they stay there."""
    odd = (b"\xff\xfe", b"", b"x", b"rq:queue:" + b"q" * 5000, b"rq:queue:e\x1b[2J", b"rq:queue:\n")
    for n, due_us in enumerate(NONSENSE):
        name = f"x{n}" if n % 2 else f"{n}" * 100_000
        scene.redis.hset(f"rq:job:{name}", mapping={"data": b'["f",null,[1,%b,1,%b],{}]' % (due_us, due_us)})
        scene.redis.rpush(f"rq:queue:evil{n}", name)
        scene.redis.sadd("rq:queues", f"rq:queue:evil{n}", *odd)
        insert(scene.database, queue=f"evil{n}")  # to be staged behind it
    scene.dispatcher.look_step()
    assert 0 < max(scene.dispatcher.ages.values()) <= 86_400
    scene.honest()
    assert select(scene.database, "SELECT id FROM tasks WHERE state = 'invalid'") == []


def test_staged_at_no_time(scene: Scene) -> None:
    for score in ("-inf", "+inf", "-1", "0", "1e300", str(FAR_US)):
        members = {f"x{score}{i}": score for i in range(100)} | {score * 10_000: score}
        scene.redis.zadd("clockjack:staged:default", members)
        scene.redis.zadd(f"clockjack:staged:only{score}", members)
        scene.redis.sadd("rq:queues", "rq:queue:default", f"rq:queue:only{score}")
    scene.honest()


def test_a_list_that_was_filled_with_junk(scene: Scene) -> None:
    scene.redis.sadd("rq:queues", "rq:queue:default", *(f"rq:queue:junk{i}" for i in range(50)))
    for _ in range(4):
        scene.redis.rpush("rq:queue:default", *(f"junk{i}" for i in range(10_000)))
    scene.redis.sadd("clockjack:consumers", *range(10_000))
    scene.redis.rpush("clockjack:nudge", *range(10_000))
    scene.honest()


TOLD = (
    b"", b"x", b"5", b"[]", b"{}", b"null", b"[" * 5000, b'{"queue": 5, "handlers": [], "concurrency": 1}', b"\xff",
    b'{"queue": "default", "handlers": 5, "concurrency": 1}', b'{"queue": "default", "handlers": [[]]}',
    b'{"queue": "default", "handlers": [5], "concurrency": 1}', b'"' + b"x" * 10**6 + b'"',
)  # fmt: skip


def test_announcements_of_nobody(scene: Scene, http: TestClient, database_url: str, redis_url: str) -> None:
    for n, told in enumerate(TOLD):
        scene.redis.set(f"clockjack:consumer:{n}", told)
        scene.redis.sadd("clockjack:consumers", n, b"\xff")
        http.app.state.notices._looked_s = float("-inf")  # type: ignore[attr-defined]
        made = http.post("/v1/tasks", json={"handler": "mock", "run_at": "2030-01-01T00:00:00Z"})
        assert (made.status_code, len(made.json()["warnings"])) == (201, 1), told
        assert "no consumer serves" in made.json()["warnings"][0], told
        scene.redis.sadd("clockjack:consumers", n)
        scene.dispatcher.measure_step()
        scene.redis.sadd("clockjack:consumers", n)
    settings = Settings(database_url=database_url, redis_url=redis_url)
    problems = {f["what"] for f in doctor.examine(settings, scene.database)["findings"] if f["level"] == "problem"}
    assert problems == {"consumers"}
    scene.queues.announce("w1", "default", ["mock"], 8)
    assert scene.queues.served() == {"default": {"mock"}}


def test_lost_scripts_are_sent_again(scene: Scene) -> None:
    scene.redis.script_flush()
    scene.honest()


FORGED: list[Any] = [
    [], [1], [1, 2], [None, None, None], ["1", "2", "3"], [True, True, True], [1.5, 1.5, 1.5], [[1], [2], [3]], {},
    {"a": 1}, "abc", 5, None, [-1, 1, 1], [0, 1, 1], [2**64, 1, 1], [10**300, 1, 1], [1, 10**300, 1], [1, -1, 1],
    [1, 1, -1], [1, 1, 0], [1, 1, 2**32], [1, 1, 10**300], [1, 1, 1, "x"], [1, 1, 1, -1], [1, 1, 1, 10**300],
    [1, 1, 1, 1, 1], [1e999, 1, 1], [1, 1, 1, 1, "x"],
    [1, 1, 1, 1, -1], [1, 1, 1, 1, 10**300], [1, 1, 1, 10**300], [1, 1, 1, 1, 1, 1],
    b"", b"\x80\x04N.", b"[", b"[" * 100_000, b"NaN", b'["x"],["y"]', b'["f",null,[1,1,1],{}],["f",null,[2,2,2],{}]',
    b'["f",null,[1,1,1],{"a":"', b'["f",null,["' + b"1" * 10**6 + b'"],{}]', b"[0,0,[" + b"9" * 5000 + b",1,1],{}]",
]  # fmt: skip


def test_messages_that_cannot_be_ours(scene: Scene) -> None:
    for n, data in enumerate(FORGED):
        scene.forge(f"forged{n}", data)
    before = rows_of(scene)
    scene.honest()
    assert rows_of(scene)[: len(before)] == before


def rows_of(scene: Scene) -> list[dict[str, Any]]:
    return select(scene.database, "SELECT * FROM runs ORDER BY id")


def test_messages_name_runs_that_may_not_start(scene: Scene) -> None:
    """Runs of every state but ready, of other attempts and times, of the future, and of nobody."""
    names = ("cancelled", "skipped", "failed", "succeeded", "running", "future")
    ids = {name: insert(scene.database, 1.5 if name == "future" else -1) for name in names}
    scene.dispatcher.claim_step()
    scene.redis.flushall()
    sets = {"running": "lease_until = UTC_TIMESTAMP(6) + INTERVAL 1 HOUR, wake_at = UTC_TIMESTAMP(6) + INTERVAL 1 HOUR"}
    for name in names[:-1]:
        more = sets.get(name, "wake_at = NULL")
        sql(scene.database, f"UPDATE runs SET state = :s, {more} WHERE task_id = :t", s=name, t=ids[name])
    before = rows_of(scene)
    for run in before:
        us = to_us(run["due_at"])
        for attempt in (run["attempt"], run["attempt"] + 1, 7):
            for due_us in (us, us - 1, us + 10_000_000, FAR_US):
                for more in ([], [run["task_id"]]) if due_us == us else ([10**15],) if due_us == us - 1 else ([],):
                    scene.forge(f"f{run['id']}-{attempt}-{due_us}-{more}", [run["id"], due_us, attempt, 1, *more])
    scene.forge("nobody", [10**15, to_us(scene.database.now()), 1])
    for _ in range(60):
        scene.engine.bell.set()
        scene.engine.step()
        scene.engine.tick()
    assert scene.redis.llen("rq:queue:default") <= 1  # that of the future, given back
    assert scene.ran == []
    assert rows_of(scene) == before
    key = f"{ids['future']}-{to_us(before[-1]['due_at'])}"
    make_due(scene.database, before[-1]["id"])
    scene.until(lambda: (scene.dispatcher.look_step(), scene.dispatcher.release_step(), scene.ran)[2])
    assert scene.ran == [key]
    scene.ran.clear()
    scene.honest()


def test_a_message_with_another_due_time_beside_the_true_one_changes_no_key(scene: Scene) -> None:
    seen: list[Run] = []
    scene.handle = seen.append
    one = insert(scene.database)
    scene.dispatcher.claim_step()
    run = rows_of(scene)[-1]
    for n, more_us in enumerate((1, 10_000_000, -5)):
        scene.forge(f"late{n}", [run["id"], to_us(run["due_at"]) + more_us, 1])
    scene.until(lambda: scene.state(one) == "succeeded")
    assert [handled.key for handled in seen] == [f"{one}-{to_us(run['due_at'])}"]
