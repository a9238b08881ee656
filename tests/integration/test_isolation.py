"""Handlers in child processes: what they do to their child stays in it."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clockjack.handlers import Run
from clockjack.ledger.database import Database
from clockjack.queues import Queues
from clockjack.settings import Settings
from consumers import isolation
from consumers.execution import Job
from consumers.isolation import Child, Children
from tests.integration.life import run_of
from tests.integration.test_consumer import Bench

HANDLERS = ("tests.integration.untrusted",)


@pytest.fixture
def children(database_url: str, queues: Queues) -> Iterator[Children]:
    settings = Settings(database_url=database_url, redis_url=queues.url, isolated=True, handlers=HANDLERS)
    children = Children(settings, 2)
    yield children
    children.close()


@pytest.fixture
def bench(database: Database, queues: Queues, children: Children) -> Iterator[Bench]:
    bench = Bench(database, queues, size=2)
    pool = bench.engine.pool
    pool.isolated = True

    def call(job: Job, run: Run) -> Any:
        return children.call(run, 0, lambda child: pool.owns(job, child))

    pool._call = call
    yield bench
    pool.close()


def ended(bench: Bench, *ids: int) -> list[dict[str, Any]]:
    """The runs of these tasks, ended."""
    bench.until(lambda: all(bench.state(i) in ("succeeded", "failed") for i in ids), within_s=30)
    return [run_of(bench.database, i) for i in ids]


def due(bench: Bench, name: str, **columns: Any) -> int:
    return bench.due(handler=f"untrusted.{name}", max_failures=1, **columns)


def result(bench: Bench, name: str, **columns: Any) -> str:
    (run,) = ended(bench, due(bench, name, **columns))
    assert run["state"] == "succeeded", run["error"]
    return str(run["result"])


def pids(children: Children) -> list[int]:
    return [child._process.pid or 0 for child in children._idle]


def gone(pid: int) -> bool:
    """The process has ended; who has to reap it may not have done so."""
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_child_executes_many_runs(bench: Bench, children: Children) -> None:
    known = {str(pid) for pid in pids(children)}
    assert len(known) == 2
    assert {result(bench, "pid") for _ in range(4)} <= known
    assert sum(child.runs for child in children._idle) == 4


@pytest.mark.parametrize(("name", "code"), [("exit", 3), ("crash", -signal.SIGSEGV)])
def test_a_crash_fails_its_own_run_only(bench: Bench, children: Children, name: str, code: int) -> None:
    beside = bench.due(payload='{"sleep_ms": 1000, "echo": 5}')
    bench.until(lambda: bench.state(beside) == "running")
    (crashed,) = ended(bench, due(bench, name))
    assert f"ended with code {code} and no answer" in crashed["error"]
    assert crashed["reason"] != "timeout"
    assert ended(bench, beside)[0]["result"] == "5"
    assert {result(bench, "pid") for _ in range(3)} == {str(pid) for pid in pids(children)}


def test_a_child_is_killed_at_the_timeout_and_another_takes_its_place(bench: Bench, children: Children) -> None:
    (slow,) = ended(bench, bench.due(payload='{"sleep_ms": 60000}', timeout_s=1, max_failures=1))
    assert (slow["state"], slow["reason"]) == ("failed", "timeout")
    assert len(pids(children)) == 1
    two = [bench.due(payload='{"sleep_ms": 300}') for _ in range(2)]
    assert {run["state"] for run in ended(bench, *two)} == {"succeeded"}
    assert len(pids(children)) == 2


def test_a_lost_lease_kills_the_child(bench: Bench, children: Children) -> None:
    one = bench.due(payload='{"sleep_ms": 60000}')
    bench.until(lambda: any(job.child for job in bench.engine.pool.jobs.values()))
    (job,) = bench.engine.pool.jobs.values()
    pid = job.child._process.pid
    job.lease_s = 0
    bench.engine.stopping = True
    bench.until(lambda: bench.engine.empty)
    assert gone(pid)
    assert run_of(bench.database, one)["failures"] == 1


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("huge", "ValueError: the handler's result has more than 16384 bytes"),
        ("set", "TypeError: Object of type set is not JSON serializable"),
        ("nan", "ValueError: Out of range float values are not JSON compliant"),
        ("function", "TypeError: Object of type function is not JSON serializable"),
        ("error", "Odd: it has no text"),
    ],
)
def test_what_cannot_be_stored_is_a_failure_and_the_child_goes_on(
    bench: Bench, children: Children, what: str, error: str
) -> None:
    before = pids(children)
    (run,) = ended(bench, due(bench, "return", payload=f'"{what}"'))
    assert run["error"].startswith(error)
    assert sorted(pids(children)) == sorted(before)


def frame(body: bytes) -> str:
    return (len(body).to_bytes(4, "big") + body).hex()


@pytest.mark.parametrize(
    "forged",
    [
        frame(b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R."),  # a pickle
        frame(b"[" * 20_000),
        frame(b'{"succeeded": true}'),
        frame(b"5"),
        frame(b"\xff\xfe"),
        "7fffffff",  # more than anybody wants
        "ffffffff" + 8 * "7f",
    ],
)
def test_an_answer_that_is_none_fails_its_own_run_only(bench: Bench, children: Children, forged: str) -> None:
    before = pids(children)
    (run,) = ended(bench, due(bench, "forge", payload=f'"{forged}"', timeout_s=10))
    assert run["error"] == "ChildDied: the handler's process gave an answer that cannot be read"
    assert len(set(before) & set(pids(children))) == 1
    assert result(bench, "pid")


def test_what_a_handler_prints_is_no_answer(bench: Bench) -> None:
    assert result(bench, "print") == '"said"'


def test_a_child_has_no_socket_but_its_own(bench: Bench) -> None:
    assert bench.database.now()
    assert bench.queues.redis.ping()
    assert result(bench, "sockets") == "1"


def test_a_coroutine_is_awaited_in_its_child(bench: Bench) -> None:
    assert result(bench, "async") == '"awaited"'


@pytest.mark.parametrize("name", ["thread", "grow", "files"])
def test_a_child_that_is_no_longer_clean_is_replaced(bench: Bench, children: Children, name: str) -> None:
    pid = result(bench, name)
    assert int(pid) not in pids(children)
    assert gone(int(pid))


def test_a_child_is_replaced_after_many_runs(bench: Bench, children: Children) -> None:
    children._runs = 2
    seen = [result(bench, "pid") for _ in range(5)]
    assert len(set(seen)) == 3


def test_a_child_that_died_idle_is_not_the_next_runs_fault(bench: Bench, children: Children) -> None:
    before = pids(children)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    for child in children._idle:
        child._process.join()
    assert int(result(bench, "pid")) not in before


def test_what_a_handler_started_is_killed_with_it(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "pids"
    (run,) = ended(bench, due(bench, "spawn", payload=f'"{file}"', timeout_s=1))
    assert run["reason"] == "timeout"
    assert not bench.engine.stuck
    give_up = time.monotonic() + 5
    while not all(gone(int(pid)) for pid in file.read_text().split()):
        assert time.monotonic() < give_up


def test_the_fork_server_may_die(bench: Bench, children: Children) -> None:
    before = pids(children)
    os.kill(isolation.forkserver._forkserver._forkserver_pid, signal.SIGKILL)
    for pid in before:
        give_up = time.monotonic() + 5
        while not gone(pid):
            assert time.monotonic() < give_up
    assert int(result(bench, "pid")) not in before


def test_a_kill_for_one_run_never_meets_the_next(bench: Bench, children: Children) -> None:
    """A child that was killed as its run ended is not used again."""
    run = Run(1, "1-1", 1, "default", None, "untrusted.pid", None, bench.database.now(), 1, 0, 60)
    told: list[Child] = []

    def owns(child: Child | None) -> bool:
        if child is not None:
            told.append(child)
            return True
        told[0].kill()  # between its answer and here
        return False

    children.call(run, 0, owns)
    assert told[0] not in children._idle
