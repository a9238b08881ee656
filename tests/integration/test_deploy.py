"""The supervisor brings back what dies; the dashboard shows queues and changes nothing."""

import base64
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import rq
from rq.serializers import JSONSerializer

from clockjack.queues import Queues
from deploy.supervisor import Supervisor, read_procfile, read_scale
from tests.integration.test_queues import NOW_US, ready


def wait(condition: object, within_s: float = 10) -> None:
    give_up = time.monotonic() + within_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < give_up
        time.sleep(0.02)


@pytest.fixture
def procfile(tmp_path: Path) -> Path:
    path = tmp_path / "Procfile"
    path.write_text(f"# a comment\n\nsleeper: exec {sys.executable} -c 'import time; time.sleep(600)'\n")
    return path


def test_the_procfile_of_the_project_is_the_list_of_processes() -> None:
    assert set(read_procfile(Path(__file__).parents[2] / "Procfile")) == {
        "producer",
        "dispatcher",
        "consumer",
        "dashboard",
    }


@pytest.mark.parametrize("text", ["consumer", "consumer=x", "consumer=-1", "=3"])
def test_a_bad_scale_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="name=number"):
        read_scale(text)


def test_what_dies_comes_back_and_scales_live(procfile: Path, tmp_path: Path) -> None:
    supervisor = Supervisor(procfile, {"sleeper": 2}, dict(os.environ), tmp_path / "log", grace_s=2).start()
    try:
        before = {p["name"]: p for p in supervisor.processes()}
        assert set(before) == {"sleeper.1", "sleeper.2"}
        supervisor.kill("sleeper.1", signal.SIGKILL)
        wait(lambda: {p["pid"] for p in supervisor.processes()} - {p["pid"] for p in before.values()})
        after = {p["name"]: p for p in supervisor.processes()}
        assert after["sleeper.2"]["pid"] == before["sleeper.2"]["pid"]
        assert after["sleeper.1"]["port"] == before["sleeper.1"]["port"]
        supervisor.scale("sleeper", 3)
        wait(lambda: len(supervisor.processes()) == 3)
        supervisor.scale("sleeper", 1)
        wait(lambda: len(supervisor.processes()) == 1)
        (last,) = supervisor.processes()
    finally:
        supervisor.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(last["pid"], 0)


def test_the_dashboard_shows_our_queues_and_changes_nothing(queues: Queues, tmp_path: Path) -> None:
    from deploy.dashboard import application

    queues.push([ready(1), ready(2)], NOW_US)
    client = application(queues.url, "secret").test_client()
    assert client.get("/").status_code == 401
    good = {"Authorization": "Basic " + base64.b64encode(b"clockjack:secret").decode()}
    for page in ("/", "/0/view/queues", "/0/view/workers", "/0/view/jobs/default/queued/8/asc/1", "/0/view/job/r1-a1"):
        assert client.get(page, headers=good, follow_redirects=True).status_code == 200, page
    listed = client.get("/0/data/jobs/default/queued/8/asc/1.json", headers=good).json
    assert [job["id"] for job in listed["jobs"]] == ["r1-a1", "r2-a1"]
    assert client.post("/job/r1-a1/delete", headers=good).status_code == 405
    assert client.get("/requeue/all", headers=good).status_code in (404, 405)
    trap = tmp_path / "unpickled"
    queues.redis.hset("rq:job:r1-a1", "meta", b"cos\nsystem\n(S'touch " + str(trap).encode() + b"'\ntR.")
    assert client.get("/0/data/job/r1-a1.json", headers=good).status_code == 422
    assert not trap.exists()
    assert queues.redis.llen("rq:queue:default") == 2


def test_rq_unpickles_nothing_here(queues: Queues) -> None:
    """Every side names the JSON serializer; what a pickle would do is refused as unreadable."""
    queue = rq.Queue("default", connection=queues.redis, serializer=JSONSerializer)
    assert queue.serializer is JSONSerializer
    queues.push([ready(1)], NOW_US)
    queues.redis.hset("rq:job:r1-a1", "data", b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    assert queues.step("default", "w", NOW_US, (1, 1, 1), [])[0] == []
