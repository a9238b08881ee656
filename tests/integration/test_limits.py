"""Limits by key: never more at once or a second than it says, nothing twice, and nobody else waits for it."""

import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError
from starlette.testclient import TestClient

from clockjack import cli
from clockjack.handlers import Run
from clockjack.ledger import reports
from clockjack.ledger.database import Database
from clockjack.queues import Queues
from consumers import limits
from consumers.execution import Job
from consumers.limits import Limit, Limits
from tests.integration.life import insert, make_due, run_of, select, sql, task
from tests.integration.test_consumer import Bench

pytestmark = pytest.mark.mysql
ONE = {"limit_key": "tenant-7", "max_concurrent": 1}


class Watched:
    """A handler that knows how many of it are at work, how often each run began, and when."""

    def __init__(self, takes_s: float = 0.0) -> None:
        self.now = self.peak = 0
        self.began: dict[str, int] = {}
        self.at_s: list[float] = []
        self._takes_s, self._lock = takes_s, threading.Lock()
        self.go = threading.Event()
        self.go.set()

    def __call__(self, run: Run) -> None:
        with self._lock:
            self.now += 1
            self.peak = max(self.peak, self.now)
            self.began[run.key] = self.began.get(run.key, 0) + 1
            self.at_s.append(time.monotonic())
        time.sleep(self._takes_s)
        self.go.wait(10)
        with self._lock:
            self.now -= 1


@pytest.fixture
def benches(database: Database, queues: Queues) -> Iterator[list[Bench]]:
    """Two consumers of one queue."""
    found = [Bench(database, queues), Bench(database, queues)]
    yield found
    for bench in found:
        bench.engine.pool.close()


@pytest.fixture
def bench(benches: list[Bench]) -> Bench:
    return benches[0]


def due(database: Database, n: int, **columns: Any) -> list[int]:
    return [insert(database, -0.01, **columns) for _ in range(n)]


def until(benches: list[Bench], condition: Any, within_s: float = 40) -> None:
    """Each consumer steps in a thread of its own, and a dispatcher beside them, until it is true."""
    over = threading.Event()

    def turn(bench: Bench) -> None:
        while not over.is_set():
            bench.engine.bell.set()
            bench.engine.tick()
            if not bench.engine.step():
                bench.engine.wake.wait(0.02)
                bench.engine.wake.clear()

    def dispatch() -> None:
        while not over.is_set():
            benches[0].dispatcher.claim_step()
            benches[0].dispatcher.release_step()
            benches[0].dispatcher.look_step()
            over.wait(0.2)

    threads = [threading.Thread(target=turn, args=(bench,)) for bench in benches]
    threads.append(threading.Thread(target=dispatch))
    for thread in threads:
        thread.start()
    try:
        give_up = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < give_up, "it did not come true"
            time.sleep(0.02)
    finally:
        over.set()
        for thread in threads:
            thread.join()


def succeeded(database: Database) -> int:
    return int(select(database, "SELECT COUNT(*) AS n FROM runs WHERE state = 'succeeded'")[0]["n"])


@pytest.mark.parametrize("most", [1, 3])
def test_never_more_at_once_and_each_once(database: Database, benches: list[Bench], most: int) -> None:
    watched = Watched(0.03)
    for bench in benches:
        bench.handle = watched
    due(database, 30, limit_key="t", max_concurrent=most)
    begun = time.monotonic()
    until(benches, lambda: succeeded(database) == 30)
    assert watched.peak == most
    assert sorted(watched.began.values()) == [1] * 30
    assert time.monotonic() - begun < 20, "a place that comes free is taken at once"
    states = select(database, "SELECT failures, reason, first_started_at = started_at AS fresh FROM runs")
    assert {tuple(row.values()) for row in states} == {(0, None, 1)}
    assert select(database, "SELECT run_id FROM attempts") == []


def test_never_more_in_a_second(database: Database, benches: list[Bench]) -> None:
    watched = Watched()
    for bench in benches:
        bench.handle = watched
    due(database, 25, limit_key="t", per_second=10)
    until(benches, lambda: succeeded(database) == 25)
    assert sorted(watched.began.values()) == [1] * 25
    times = sorted(row["started_at"] for row in select(database, "SELECT started_at FROM runs"))
    # between the start in MySQL and the judgement lie milliseconds
    spans = [(times[i + 10] - times[i]).total_seconds() for i in range(15)]
    assert min(spans) > 0.9, spans
    assert (times[-1] - times[0]).total_seconds() < 8


def test_nobody_else_waits_for_it(database: Database, benches: list[Bench]) -> None:
    watched, others = Watched(), Watched()
    watched.go.clear()
    for bench in benches:
        bench.handle = lambda run: watched(run) if run.name == "slow" else others(run)
    due(database, 20, name="slow", **ONE)
    until(benches, lambda: watched.now == 1)
    due(database, 5)
    due(database, 5, limit_key="tenant-8", max_concurrent=1)
    due(database, 5, limit_key="tenant-8", per_second=100)
    begun = time.monotonic()
    until(benches, lambda: succeeded(database) == 15, within_s=8)
    assert time.monotonic() - begun < 8
    assert (watched.peak, others.peak <= 8) == (1, True)
    watched.go.set()
    until(benches, lambda: succeeded(database) == 35)
    assert (watched.peak, sorted(watched.began.values())) == (1, [1] * 20)


def test_a_run_that_waits_is_as_if_it_had_never_begun(database: Database, bench: Bench, http: TestClient) -> None:
    watched = Watched()
    watched.go.clear()
    bench.handle = watched
    first = bench.due(**ONE)
    bench.until(lambda: watched.now == 1)
    before = database.now()
    second = bench.due(**ONE)
    bench.until(lambda: run_of(database, second)["reason"] == "limit" and not bench.engine.pool.outcomes)
    run = run_of(database, second)
    assert (run["state"], run["failures"], run["first_started_at"], run["started_at"] is None) == (
        "ready",
        0,
        None,
        False,
    )
    assert timedelta(seconds=4) < run["wake_at"] - before < timedelta(seconds=62)
    assert database.transaction(reports.health)["oldest_due_age_s"] == 0.0, "nobody is to be woken for it"
    assert "Waits for the limit 'tenant-7'" in http.get(f"/v1/tasks/{second}/explain").text
    watched.go.set()
    bench.until(lambda: bench.state(first) == bench.state(second) == "succeeded" and bench.engine.empty)
    assert run_of(database, second)["wake_at"] is None
    assert not bench.queues.redis.keys("clockjack:limit:*:held")


def test_the_earliest_due_comes_first(database: Database, bench: Bench) -> None:
    watched, order = Watched(), list[int]()
    watched.go.clear()
    bench.handle = lambda run: (order.append(run.task_id), watched(run))[1]
    first = bench.due(**ONE)
    bench.until(lambda: watched.now == 1)
    now = database.now()
    later = [insert(database, None, run_at=now - timedelta(seconds=s), **ONE) for s in (1, 3, 2)]
    bench.dispatcher.claim_step()
    bench.until(lambda: all(run_of(database, i)["reason"] == "limit" for i in later) and not bench.engine.pool.outcomes)
    bench.until(lambda: len(bench.engine.pool.jobs) == 1)
    watched.go.set()
    bench.until(lambda: all(bench.state(i) == "succeeded" for i in later))
    assert order == [first, later[1], later[2], later[0]]


def test_what_was_cancelled_while_it_waited_holds_no_place(database: Database, bench: Bench) -> None:
    watched = Watched()
    watched.go.clear()
    bench.handle = watched
    bench.due(**ONE)
    bench.until(lambda: watched.now == 1)
    waiting = [bench.due(**ONE) for _ in range(4)]
    bench.until(lambda: all(run_of(database, i)["reason"] == "limit" for i in waiting))
    sql(database, "UPDATE tasks SET state = 'cancelled' WHERE id IN :ids", ids=waiting[:3])
    begun = time.monotonic()
    watched.go.set()
    bench.until(lambda: bench.state(waiting[3]) == "succeeded" and bench.engine.empty)
    assert time.monotonic() - begun < 5, "a place that is kept in vain is free at once"
    assert {bench.state(i) for i in waiting[:3]} <= {"cancelled", "ready"}


def test_what_redis_forgets_waits_until_its_wake_at(database: Database, bench: Bench) -> None:
    watched = Watched()
    watched.go.clear()
    bench.handle = watched
    bench.due(**ONE)
    bench.until(lambda: watched.now == 1)
    second = bench.due(**ONE)
    bench.until(lambda: run_of(database, second)["reason"] == "limit" and not bench.engine.pool.outcomes)
    bench.queues.redis.flushall()
    bench.engine.limits._renew_s = 0.0
    bench.engine.tick()  # the place of what is at work is there again
    make_due(database, run_of(database, second)["id"])
    bench.dispatcher.look_step()
    bench.until(lambda: run_of(database, second)["attempt"] == 2 and len(bench.engine.pool.jobs) == 1)
    assert (watched.peak, run_of(database, second)["reason"]) == (1, "limit")
    watched.go.set()
    bench.until(lambda: bench.state(second) == "succeeded")


def test_an_edit_of_the_limit_counts_from_the_next_start(database: Database, bench: Bench) -> None:
    watched = Watched()
    watched.go.clear()
    bench.handle = watched
    bench.due(**ONE)
    bench.until(lambda: watched.now == 1)
    second = bench.due(**ONE | {"max_concurrent": 2})  # its own task says so
    bench.until(lambda: watched.now == 2)
    watched.go.set()
    bench.until(lambda: bench.state(second) == "succeeded")


class At:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.us = 1_700_000_000_000_000

    def now_us(self) -> int:
        return self.us


def row(number: int, **more: Any) -> dict[str, Any]:
    from datetime import datetime

    found = {"id": number, "due_at": datetime(2030, 1, 1), "attempt": 1, "token": b"x", "task_id": 1, "fresh": 1}
    found |= {"namespace": "default", "limit_key": "k", "max_concurrent": 2, "per_second": None, "overlap": "allow"}
    return found | more


class Hand:
    """What a pool is to the limits."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.outcomes: list[Any] = []


def admitted(one: Limits, *numbers: int, **more: Any) -> list[int]:
    return [r["id"] for r in one.admit([row(n, **more) for n in numbers], Hand(), 0.0)]  # type: ignore[arg-type]


def test_places_of_a_consumer_that_died_come_free(queues: Queues) -> None:
    at = At()
    dead, alive = (Limits(queues, "default", at) for _ in range(2))  # type: ignore[arg-type]
    assert admitted(dead, 1, 2, 3) == [1, 2]
    assert admitted(alive, 4) == []
    at.us += 15_000_000
    dead.renew()
    at.us += 15_000_000
    assert admitted(alive, 4) == [], "renewed"
    at.us += 6_000_000
    assert admitted(alive, 4, 5, 6) == [4, 5], "not renewed for 20 s"
    alive.release(["r4-a1"])
    assert admitted(alive, 6) == [6]


def test_a_window_slides(queues: Queues) -> None:
    at, many = At(), {"max_concurrent": None, "per_second": 2.5}
    one = Limits(queues, "default", at)  # type: ignore[arg-type]
    assert (Limit.of(row(1, **many)).often, Limit.of(row(1, **many)).window_us) == (2, 800_000)
    assert admitted(one, 1, **many) == [1]
    at.us += 500_000
    assert admitted(one, 2, 3, **many) == [2]
    at.us += 299_000
    assert admitted(one, 3, **many) == []
    at.us += 2_000
    assert admitted(one, 3, 4, **many) == [3]
    slow = {"max_concurrent": None, "per_second": 0.5, "limit_key": "slow"}
    assert admitted(one, 1, 2, **slow) == [1]
    at.us += 1_900_000
    assert admitted(one, 2, **slow) == []
    at.us += 200_000
    assert admitted(one, 2, **slow) == [2]


def test_without_redis_each_consumer_keeps_them_for_itself(queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    at = At()
    monkeypatch.setattr(type(queues.reach), "away", True)
    one, other = (Limits(queues, "default", at) for _ in range(2))  # type: ignore[arg-type]
    assert admitted(one, 1, 2, 3) == [1, 2]
    assert admitted(other, 3) == [3]
    one.release(["r1-a1"])
    assert admitted(one, 4) == [4]
    assert admitted(one, 5, 6, max_concurrent=None, per_second=1, limit_key="s") == [5]


@pytest.mark.parametrize(
    "entry",
    ["", " ", "x", "r1-a1 1 2", "r1-a1 1 " + "9" * 30 + " 1 0", "r1-a1 x y z w", b"\xff\xfe", "a b c d e f g"],
)
def test_what_somebody_else_writes_into_redis_stops_nobody(queues: Queues, entry: Any) -> None:
    one = Limits(queues, "default", At())  # type: ignore[arg-type]
    limit = Limit.of(row(1))
    key = f"clockjack:limit:{limit.name}"
    queues.redis.zadd(f"{key}:waiting:default", {entry: 1})
    one.known[limit.name] = limit
    assert one.next(10) == []
    for name in ("held", "starts", "waiting:default"):
        queues.redis.set(f"{key}:{name}", "a text")
    one._next_s = 0.0
    assert one.next(10) == []
    for name in ("held", "starts", "waiting:default"):
        queues.redis.set(f"{key}:{name}", "a text")
    assert admitted(one, 1, 2, 3) == [1, 2]


def test_while_rq_is_suspended_nobody_is_taken_up(queues: Queues) -> None:
    one = Limits(queues, "default", At())  # type: ignore[arg-type]
    one.wait([row(1)])
    queues.reach.answered(suspended=True)
    assert one.next(10) == []
    queues.reach.answered(suspended=False)
    assert [p.run_id for p in one.next(10)] == [1]


def test_names_of_namespaces_and_keys_are_not_mixed_up() -> None:
    one, other = row(1, namespace="a:b", limit_key="c"), row(1, namespace="a", limit_key="b:c")
    assert Limit.of(one).name != Limit.of(other).name


def test_namespaces_have_limits_of_their_own(queues: Queues) -> None:
    one = Limits(queues, "default", At())  # type: ignore[arg-type]
    assert admitted(one, 1, 2, 3) == [1, 2]
    assert admitted(one, 4, namespace="other") == [4]


def test_the_doors(
    http: TestClient, database: Database, owner_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bad, field in (
        ({"limit_key": "k"}, "#/limit_key"),
        ({"max_concurrent": 1}, "#/limit_key"),
        ({"limit_key": "k", "max_concurrent": 0}, "#/max_concurrent"),
        ({"limit_key": "k", "per_second": 0}, "#/per_second"),
        ({"limit_key": "a b", "per_second": 1}, "#/limit_key"),
    ):
        refused = http.post("/v1/tasks", json={"handler": "mock", "in_s": 60} | bad)
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, field), bad
    given = {"limit_key": "k", "max_concurrent": 3, "per_second": 0.5}
    made = http.post("/v1/tasks", json={"handler": "mock", "in_s": 60} | given).json()
    assert {name: made[name] for name in given} == given
    assert "at most 3 at once and 0.5 a second" in http.get(f"/v1/tasks/{made['id']}/explain").text
    changed = http.patch(f"/v1/tasks/{made['id']}", json={"per_second": None})
    assert (changed.status_code, changed.json()["per_second"]) == (200, None)
    assert http.patch(f"/v1/tasks/{made['id']}", json={"limit_key": None}).status_code == 422
    gone = http.patch(f"/v1/tasks/{made['id']}", json={"limit_key": None, "max_concurrent": None})
    assert (gone.status_code, gone.json()["limit_key"]) == (200, None)
    for columns in ({"limit_key": "k"}, {"per_second": 1}, {"limit_key": "k", "max_concurrent": 0}):
        with pytest.raises(DBAPIError, match="tasks_limit"):
            insert(database, **columns)
    monkeypatch.setenv("CLOCKJACK_DATABASE_URL", owner_url)
    monkeypatch.setenv("CLOCKJACK_REDIS_URL", redis_url)
    add = ["add", "mock", "--in", "60", "--limit-key", "k"]
    assert cli.run(add) == 2
    assert cli.run([*add, "--per-second", "2.5"]) == 0
    newest = select(database, "SELECT MAX(id) AS id FROM tasks")[0]["id"]
    assert (task(database, newest)["limit_key"], task(database, newest)["per_second"]) == ("k", 2.5)


def test_a_limit_of_many_tasks_is_changed_at_once(http: TestClient, database: Database) -> None:
    new = {"handler": "mock", "in_s": 60, "tags": ["a"], "limit_key": "k", "per_second": 5}
    made = [http.post("/v1/tasks", json=new).json()["id"] for _ in range(2)]
    wanted = {"action": "edit", "filter": {"tag": "a"}, "set": {"max_concurrent": 7}}
    assert http.post("/v1/tasks/control", json=wanted).json()["changed"] == 2
    assert {task(database, i)["max_concurrent"] for i in made} == {7}
    assert http.post("/v1/tasks/control", json=wanted | {"set": {"max_concurrent": 0}}).status_code == 422


def test_many_limits_of_a_batch_are_asked_about_at_once(queues: Queues) -> None:
    one = Limits(queues, "default", At())  # type: ignore[arg-type]
    runs = [row(n, limit_key=f"user-{n % 100}", max_concurrent=2) for n in range(1, 501)]
    queues.redis.config_resetstat()
    begun = [r["id"] for r in one.admit(runs, Hand(), 0.0)]  # type: ignore[arg-type]
    assert begun == list(range(1, 201))
    assert queues.redis.info("commandstats")["cmdstat_evalsha"]["calls"] == 100
    assert len(one.known) == 100


def test_waits_are_spread() -> None:
    limit = Limit("k", 1, 0, 1)
    one = Limits.__new__(Limits)
    one._queues = type("Q", (), {"reach": type("R", (), {"away": False})})  # type: ignore[assignment]
    waits = [one._wait_s(limit, 100) for _ in range(200)]
    assert max(waits) <= limits.LONGEST_WAIT_S
    assert max(waits) - min(waits) > 5
