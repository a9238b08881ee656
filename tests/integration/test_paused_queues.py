"""A paused queue starts nothing, through every way that leads to a start, and loses nothing. Driven step by step."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from clockjack import Client, ClientError, cli, telemetry
from clockjack.handlers import Run
from clockjack.ledger import acceptance, claim, keys
from clockjack.ledger import queues as switches
from clockjack.ledger.database import Database
from clockjack.queues import Queues
from clockjack.settings import Settings
from consumers.engine import Engine
from consumers.worker import BatchWorker
from dispatcher.loops import Dispatcher
from tests.integration.life import insert, owner, run_of, select, sql, task
from tests.integration.serving import Producer

pytestmark = pytest.mark.mysql
Started = list[str]


def pause(database: Database, queue: str = "default") -> None:
    assert database.transaction(lambda c: switches.pause(c, queue, actor="test"))


def resume(database: Database, queue: str = "default") -> None:
    assert database.transaction(lambda c: switches.resume(c, queue, actor="test"))


class Pipeline:
    """A dispatcher and consumers of queues that are driven by hand; `entered` has what handlers got."""

    def __init__(self, database: Database, queues: Queues) -> None:
        self.database, self.queues = database, queues
        self.dispatcher, self.entered = Dispatcher(database, queues), list[int]()
        self.engines = {name: self.consumer(name) for name in ("default", "other")}
        self.hear()

    def consumer(self, queue: str) -> Engine:
        def call(job: Any, run: Run) -> None:
            self.entered.append(run.task_id)

        return Engine(self.database, self.queues, queue, f"w-{queue}-{time.monotonic_ns()}", 4, call)

    def hear(self) -> None:
        """Two seconds went by: all know what is paused."""
        self.dispatcher.measure_step()
        for engine in self.engines.values():
            engine.beat()

    def turn(self) -> None:
        """All did what they do again and again, and what was started has ended."""
        self.dispatcher.claim_step()
        self.dispatcher.release_step()
        self.dispatcher.look_step()
        for engine in self.engines.values():
            engine.bell.set()
            engine.direct._next_s = 0.0
            give_up = time.monotonic() + 10
            while engine.step() or not engine.empty:
                assert time.monotonic() < give_up
                time.sleep(0.002)


@pytest.fixture
def pipeline(database: Database, queues: Queues) -> Iterator[Pipeline]:
    pipeline = Pipeline(database, queues)
    yield pipeline
    for engine in pipeline.engines.values():
        engine.pool.close()


def test_what_is_due_waits_and_the_other_queue_goes_on(pipeline: Pipeline, database: Database) -> None:
    pause(database)
    pipeline.hear()
    waits, goes = insert(database), insert(database, queue="other")
    pipeline.turn()
    assert pipeline.entered == [goes]
    assert select(database, "SELECT id FROM runs WHERE task_id = :t", t=waits) == [], "not even claimed"
    resume(database)
    pipeline.turn()
    assert pipeline.entered == [goes], "until they have heard of it"
    pipeline.hear()
    pipeline.turn()
    assert pipeline.entered == [goes, waits]
    assert run_of(database, waits)["state"] == "succeeded"


@pytest.mark.parametrize("way", ["claimed", "found", "manual", "retried", "limited"])
def test_what_was_claimed_before_is_not_started_by_any_way(pipeline: Pipeline, database: Database, way: str) -> None:
    limits: dict[str, Any] = {"limit_key": "k", "max_concurrent": 1} if way == "limited" else {}
    one = insert(database, **limits)
    pipeline.dispatcher.claim_step()
    if way == "limited":  # it found its limit full, and waits for it in Redis
        held = "clockjack:limit:7:default:k:held"
        pipeline.queues.redis.zadd(held, {"somebody": (time.time_ns() // 1000) + 60_000_000})
        pipeline.turn()
        assert run_of(database, one)["reason"] == "limit"
        pipeline.queues.redis.delete(held)
        pipeline.engines["default"].limits._next_s = 0.0
    if way == "found":  # no message brings it: a consumer would find it in MySQL
        pipeline.queues.redis.flushall()
        sql(database, "UPDATE runs SET wake_at = UTC_TIMESTAMP(6) - INTERVAL 10 SECOND")
    if way == "retried":
        sql(database, "UPDATE runs SET attempt = 1, failures = 1, wake_at = UTC_TIMESTAMP(6)")
    pause(database)
    pipeline.hear()
    if way == "manual":
        acceptance.run_now(database, "default", [one], actor="test", write=lambda made: "")
        sql(database, "UPDATE runs SET wake_at = UTC_TIMESTAMP(6)")
    if way == "found":
        pipeline.engines["default"].bell.clear()
        pipeline.engines["default"].direct._next_s = 0.0
        assert not pipeline.engines["default"].step()
    pipeline.turn()
    assert pipeline.entered == []
    resume(database)
    pipeline.hear()
    pipeline.turn()
    assert set(pipeline.entered) == {one}
    assert {row["state"] for row in select(database, "SELECT state FROM runs")} == {"succeeded"}


def test_what_has_begun_goes_on(pipeline: Pipeline, database: Database) -> None:
    one = insert(database)
    pipeline.dispatcher.claim_step()
    engine = pipeline.engines["default"]
    engine.bell.set()
    assert engine.step(), "popped and started"
    pause(database)
    pipeline.hear()
    give_up = time.monotonic() + 10
    while not engine.empty:
        assert time.monotonic() < give_up
        engine.step() or time.sleep(0.002)
    assert (pipeline.entered, run_of(database, one)["state"]) == ([one], "succeeded")


@pytest.mark.parametrize(
    ("policy", "states"),
    [
        ({"misfire": "once"}, ["succeeded", "skipped"]),
        ({"misfire": "skip"}, ["skipped"]),
        ({"misfire": "all", "max_misfires": 3}, ["succeeded", "succeeded", "succeeded", "skipped"]),
        ({"max_lateness_s": 20}, ["skipped"]),
    ],
)
def test_after_the_resume_a_late_task_does_as_its_misfire_says(
    pipeline: Pipeline, database: Database, policy: dict[str, Any], states: list[str]
) -> None:
    pause(database)
    pipeline.hear()
    hour = database.now() - timedelta(seconds=3630)
    one = insert(database, None, every_s=600, start_at=hour, created_at=hour, next_run_at=hour, **policy)
    pipeline.turn()
    assert select(database, "SELECT id FROM runs") == []
    resume(database)
    pipeline.hear()
    for _ in range(5):
        pipeline.turn()
    found = select(database, "SELECT state, reason, skipped_until FROM runs WHERE task_id = :t ORDER BY due_at", t=one)
    assert [row["state"] for row in found] == states
    assert {row["reason"] for row in found if row["state"] == "skipped"} <= {"misfire", "too_late"}
    assert task(database, one)["next_run_at"] > database.now()


def test_a_large_backlog_of_a_paused_queue_keeps_no_other_waiting(pipeline: Pipeline, database: Database) -> None:
    """More is due in it, on time and overdue, than one claim looks at."""
    pause(database)
    pipeline.hear()
    for in_s in (-100.0, -1.0):
        first = insert(database, in_s)
        for _ in range(11):
            sql(
                database,
                "INSERT INTO tasks (handler, run_at) SELECT handler, run_at FROM tasks WHERE id >= :i",
                i=first,
            )
    assert select(database, "SELECT COUNT(*) AS n FROM tasks") == [{"n": 4096}]
    late, soon = insert(database, -60.0, queue="other"), insert(database, queue="other")
    pipeline.turn()
    assert sorted(pipeline.entered) == [late, soon]


def test_a_consumer_knows_it_before_its_first_step(database: Database, users: dict[str, str], redis_url: str) -> None:
    pause(database)
    settings = Settings(database_url=users["consumer"], redis_url=redis_url)
    worker = BatchWorker(settings, database, list, lambda job, run: None)
    worker._wait_for_database()
    assert worker.engine.paused
    worker.engine.pool.close()


def test_restarted_dispatchers_and_consumers_know_it_before_they_do_anything(
    database: Database, queues: Queues, users: dict[str, str], redis_url: str, tmp_path: Path
) -> None:
    claimed = insert(database)
    queues.push(claim.claim(database, {}).ready, database.clock.now_us())
    pause(database)
    one, other = insert(database), insert(database, queue="other")
    processes = []
    for module, more in (
        ("dispatcher", {"CLOCKJACK_DATABASE_URL": users["dispatcher"]}),
        ("consumers", {"CLOCKJACK_DATABASE_URL": users["consumer"]}),
        ("consumers", {"CLOCKJACK_DATABASE_URL": users["consumer"], "CLOCKJACK_QUEUE": "other"}),
    ):
        environment = {
            **os.environ,
            "CLOCKJACK_REDIS_URL": redis_url,
            "CLOCKJACK_METRICS_PORT": "0",
            "PORT": "0",
            **more,
        }
        log = open(tmp_path / f"{len(processes)}.log", "wb")  # noqa: SIM115
        processes.append(subprocess.Popen([sys.executable, "-m", module], env=environment, stdout=log, stderr=log))
    try:

        def state(task_id: int) -> list[str]:
            return [r["state"] for r in select(database, "SELECT state FROM runs WHERE task_id = :t", t=task_id)]

        wait(lambda: state(other) == ["succeeded"], tmp_path)
        assert (state(one), state(claimed)) == ([], ["ready"])
        resumed = time.monotonic()
        resume(database)
        wait(lambda: state(one) == state(claimed) == ["succeeded"], tmp_path)
        assert time.monotonic() - resumed < 8
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.wait(10)


def wait(true: Callable[[], bool], logs: Path, within_s: float = 30.0) -> None:
    give_up = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < give_up, "\n".join(path.read_text() for path in sorted(logs.glob("*.log")))
        time.sleep(0.05)


def test_an_idle_consumer_asks_nothing_more_and_a_dispatcher_one_thing_more(
    pipeline: Pipeline, database: Database
) -> None:
    from sqlalchemy import event

    asked: list[str] = []
    event.listen(database._engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    pipeline.engines["default"].beat()
    assert len(asked) == 1, "the clock and the pause are one statement"
    asked.clear()
    pipeline.dispatcher.measure_step()
    assert sum("FROM queues" in text for text in asked) == 1
    asked.clear()
    pipeline.dispatcher.claim_step()
    pipeline.dispatcher.look_step()
    pipeline.engines["default"].step()
    assert not any("FROM queues" in text for text in asked)
    assert not any("queue NOT IN" in text for text in asked if "10 SECOND AND next_run_at <=" in text)


def test_the_doors(
    http: TestClient,
    database: Database,
    queues: Queues,
    owner_url: str,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    key = owner(database).transaction(lambda c: keys.create(c, "theirs", "operator", "admin"))
    admin = {"Authorization": f"Bearer {key}"}
    assert http.get("/v1/queues").json() == {"items": [], "truncated": False}
    queues.announce("w", "mail", ["mock"], 4)
    for in_s in (-30.0, -20.0, 3.0):
        insert(database, in_s, queue="mail")
    claim.claim(database, {})
    insert(database, -40.0, queue="mail")
    sql(database, "UPDATE runs SET state = 'running' ORDER BY due_at LIMIT 1")
    [mail] = http.get("/v1/queues").json()["items"]
    oldest = mail.pop("oldest_due_at")
    assert oldest == min(row["run_at"] for row in select(database, "SELECT run_at FROM tasks")).isoformat() + "Z"
    counts = {"due": 1, "waiting": 1, "staged": 1, "running": 1, "consumers": 1}
    assert mail == {"queue": "mail", "state": "active", "paused_at": None, "paused_by": None} | counts
    writer = owner(database).transaction(lambda c: keys.create(c, "theirs", "writer", "write"))
    refused = http.post("/v1/queues/mail/pause", headers={"Authorization": f"Bearer {writer}"})
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert select(database, "SELECT queue FROM queues") == []
    for _ in range(2):  # the second time it stays as it is
        answer = http.post("/v1/queues/mail/pause", headers=admin)
        assert (answer.status_code, answer.json()["state"], answer.json()["waiting"]) == (200, "paused", 1)
    [mail] = http.get("/v1/queues").json()["items"]
    assert mail["paused_by"].startswith("key:")
    assert answer.json() == mail
    again = [http.post("/v1/queues/mail/resume", headers=admin | {"Idempotency-Key": "k"}) for _ in range(2)]
    assert [a.json()["state"] for a in again] == ["active", "active"]
    assert again[1].headers["idempotency-replayed"] == "true"
    assert http.post("/v1/queues/never-paused/resume", headers=admin).json()["state"] == "active"
    for bad in ("%20a", "x" * 65, "%07"):
        assert http.post(f"/v1/queues/{bad}/pause", headers=admin).status_code == 422, bad

    monkeypatch.setenv("CLOCKJACK_DATABASE_URL", owner_url)
    monkeypatch.setenv("CLOCKJACK_REDIS_URL", redis_url)
    assert cli.run(["queue", "pause", "mail"]) == 0
    capsys.readouterr()
    assert cli.run(["queue", "list", "--json"]) == 0
    [mail] = json.loads(capsys.readouterr().out)["items"]
    assert (mail["queue"], mail["state"], mail["paused_by"]) == ("mail", "paused", "cli")
    assert cli.run(["doctor"]) == 1
    assert "the queue 'mail' is paused since" in capsys.readouterr().out
    one = select(database, "SELECT MAX(id) AS id FROM tasks")[0]["id"]
    assert any("the queue 'mail' is paused" in text for text in http.get(f"/v1/tasks/{one}/explain").json()["warnings"])
    Dispatcher(database, queues).measure_step()
    assert telemetry.PAUSED.labels("mail")._value.get() == 1
    assert cli.run(["queue", "resume", "mail"]) == 0
    assert cli.run(["queue", "pause", ""]) == 2
    capsys.readouterr()
    assert cli.run(["queue", "list"]) == 0
    assert "mail\tactive" in capsys.readouterr().out


def test_by_the_client(serving: Producer, database: Database, redis_url: str) -> None:
    made = {s: owner(database).transaction(lambda c, s=s: keys.create(c, "default", s, s)) for s in ("write", "admin")}
    with Client(serving.url, made["admin"]) as client:
        assert client.pause_queue("a b")["state"] == "paused"
        assert [one["queue"] for one in client.queues()["items"]] == ["a b"]
        assert client.resume_queue("a b")["state"] == "active"
    with Client(serving.url, made["write"]) as client, pytest.raises(ClientError, match="403"):
        client.pause_queue("a b")


def test_by_plain_sql(pipeline: Pipeline, database: Database) -> None:
    sql(database, "INSERT INTO queues (queue, paused_at) VALUES ('default', UTC_TIMESTAMP(6))")
    pipeline.hear()
    insert(database)
    pipeline.turn()
    assert pipeline.entered == []
    sql(database, "DELETE FROM queues")
    pipeline.hear()
    pipeline.turn()
    assert len(pipeline.entered) == 1
