"""Whoever can write to Redis runs no code: a pickle, a callback and a webhook lie wherever RQ or we read.

Each door is opened: consumer, dispatcher, producer, status, doctor, every page of the dashboard, RQ's own commands.
"""

import base64
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clockjack import doctor
from clockjack.ledger.database import Database
from clockjack.queues import Queues
from clockjack.settings import Settings
from consumers.worker import BatchWorker
from deploy import rq
from dispatcher.loops import Dispatcher
from tests.integration.life import insert, run_of
from tests.integration.test_consumer import Bench

ROOT = Path(__file__).parents[2]
NAMES = ("r1-a1", "r2-a1", "abandoned")


class Trap:
    """A file that exists once somebody has loaded one of the pickles, or called one of the names."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)

    @property
    def sprung(self) -> bool:
        return self.path.exists()


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    return Trap(tmp_path / "sprung")


@pytest.fixture
def mined(queues: Queues, trap: Trap, tmp_path: Path) -> Iterator[Queues]:
    """Redis with traps in every value that somebody decodes."""
    redis, bomb = queues.redis, pickle.dumps(trap)
    (tmp_path / "mine.py").write_text(f"import os\nos.mkdir({str(trap.path)!r})\ndef explode(*args): pass\n")
    callbacks = {f"{kind}_callback_name": "mine.explode" for kind in ("success", "failure", "stopped")}
    job = {"status": "started", "created_at": "2030-01-01T00:00:00.000000Z", "origin": "default", "data": bomb}
    job |= {"meta": bomb, "result": bomb, "exc_info": bomb, "due_us": bomb, "pushed_us": bomb, "timeout": "3600"}
    for name in NAMES:
        redis.hset(f"rq:job:{name}", mapping={**job, **callbacks})
        redis.xadd(f"rq:results:{name}", {"type": 1, "created_at": 1.0, "return_value": base64.b64encode(bomb)})
        redis.rpush("rq:queue:default", name)
    redis.rpush("rq:queue:default", bomb)
    redis.sadd("rq:queues", "rq:queue:default", bomb)
    redis.zadd("rq:wip:default", {"abandoned:x": 1, bomb: 1, "r1-a1:x": 9e9})
    for registry in ("finished", "failed", "deferred", "scheduled", "canceled"):
        redis.zadd(f"rq:{registry}:default", {"abandoned": 9e9})
    redis.zadd("clockjack:staged:default", {bomb: 1, "r2-a1": 1})
    redis.hset("rq:worker:w", mapping={"queues": "default", "state": "busy", "current_job": "r1-a1"})
    redis.sadd("rq:workers", "rq:worker:w")
    redis.sadd("clockjack:consumers", "w", bomb)
    redis.set("clockjack:consumer:w", bomb)
    redis.set("clockjack:epoch", bomb)
    redis.rpush("clockjack:nudge", bomb)
    yield queues
    assert not trap.sprung


def shell(redis_url: str, tmp_path: Path, *argv: str) -> "subprocess.CompletedProcess[str]":
    env = os.environ | {"CLOCKJACK_REDIS_URL": redis_url, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    return subprocess.run([sys.executable, *argv], env=env, capture_output=True, text=True, timeout=30, cwd=ROOT)


@pytest.mark.parametrize("what", ["meta", "callback"])
def test_the_traps_are_sharp_for_rq_itself(queues: Queues, trap: Trap, tmp_path: Path, what: str) -> None:
    """Else the other tests would show nothing."""
    job = {"created_at": "2030-01-01T00:00:00.000000Z", "origin": "default", "status": "started", "data": b"\x80\x04N."}
    job |= {"meta": pickle.dumps(trap)} if what == "meta" else {"failure_callback_name": "mine.explode"}
    (tmp_path / "mine.py").write_text(f"import os\nos.mkdir({str(trap.path)!r})\n")
    queues.redis.hset("rq:job:abandoned", mapping=job)
    queues.redis.sadd("rq:queues", "rq:queue:default")
    queues.redis.zadd("rq:wip:default", {"abandoned:x": 1})
    shell(queues.url, tmp_path, "-m", "rq.cli", "info", "-u", queues.url, "--raw")
    assert trap.sprung


def test_rqs_own_commands(mined: Queues, tmp_path: Path) -> None:
    before = mined.redis.zrange("rq:wip:default", 0, -1)
    refused = shell(mined.url, tmp_path, "-m", "deploy.rq", "info", "--raw")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1), "of a name that is no text"
    mined.names()  # as each dispatcher does: such names are taken out
    shown = shell(mined.url, tmp_path, "-m", "deploy.rq", "info", "--raw")
    assert "default" in shown.stdout, shown
    assert mined.redis.zrange("rq:wip:default", 0, -1) == before, "it shows, and tidies up nothing"
    assert rq.main(["suspend", "-u", mined.url]) == 0
    assert mined.redis.exists("rq:suspended")
    assert rq.main(["resume", "-u", mined.url]) == 0
    assert not mined.redis.exists("rq:suspended")
    assert {rq.main([command]) for command in ("worker", "enqueue", "requeue", "empty", "cron")} == {2}
    assert rq.main([]) == 2


def test_every_page_of_the_dashboard(mined: Queues, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deploy.dashboard import application

    monkeypatch.syspath_prepend(str(tmp_path))
    app = application(mined.url, "secret")
    client, good = app.test_client(), {"Authorization": "Basic " + base64.b64encode(b"clockjack:secret").decode()}
    values = {"instance_number": "0", "queue_name": "default", "per_page": "50", "order": "asc", "page": "1"}
    values |= {"filename": "x"}
    with app.test_request_context():
        opened = 0
        for rule in app.url_map.iter_rules():
            for job in NAMES:
                for registry in ("queued", "started", "finished", "failed", "deferred", "scheduled", "canceled"):
                    known = {**values, "job_id": job, "registry_name": registry}
                    _, url = rule.build({name: known[name] for name in rule.arguments}, append_unknown=False)
                    for method in (rule.methods or set()) & {"GET", "POST"}:
                        answer = client.open(url, method=method, headers=good, follow_redirects=True)
                        assert answer.status_code in (200, 404, 405, 422), (method, url, answer.status)
                        opened += 1
                    if "registry_name" not in rule.arguments:
                        break
    assert opened > 50


def test_consumer_dispatcher_doctor_and_status(
    mined: Queues, database: Database, database_url: str, trap: Trap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(trap.path.parent))
    bench = Bench(database, mined)
    one = bench.due()
    dispatcher = Dispatcher(database, mined)
    for step in (dispatcher.release_step, dispatcher.look_step, dispatcher.measure_step):
        step()
    bench.until(lambda: bench.state(one) == "succeeded" and bench.engine.empty)
    bench.engine.pool.close()
    settings = Settings(database_url=database_url, redis_url=mined.url)
    worker = BatchWorker(settings, database, lambda: ["mock"], lambda job, run: None)
    worker.engine.pool.close()
    for data in (pickle.dumps(trap), b"[]", b"5", b"[" * 5000, b"", b"\xff", b'{"command": ["shutdown"]}'):
        worker.handle_payload({"data": data})
    assert not worker.engine.stopping
    assert doctor.examine(settings, database)["queues"][0]["queue"] == "default"
    assert mined.served() == {}
    assert run_of(database, insert_and_claim(dispatcher))["state"] == "ready"


def insert_and_claim(dispatcher: Dispatcher) -> int:
    one = insert(dispatcher.database)
    dispatcher.claim_step()
    return one
