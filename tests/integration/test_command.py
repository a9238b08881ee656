"""The handler `command`: what is listed is executed, within its limits, and ends with all that it has started."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clockjack.commands import Command
from clockjack.handlers import Run
from clockjack.ledger import asking
from clockjack.ledger.database import Database
from clockjack.queues import Queues
from clockjack.settings import Settings
from consumers import command
from consumers.execution import Job
from consumers.isolation import Children
from tests.integration.life import run_of
from tests.integration.test_consumer import Bench

SH, CAT, ENV = "/bin/sh", "/bin/cat", "/usr/bin/env"


def listed(tmp_path: Path) -> dict[str, Command]:
    """What the consumers of these tests may execute; `family` leaves three kinds of descendants behind."""
    pids = tmp_path / "pids"
    family = (
        f"sleep 60 & echo $! >> {pids};"  # a child
        f" (sleep 60 & echo $! >> {pids}) ;"  # an orphan
        f" setsid sh -c 'echo $$ >> {pids}; exec sleep 60' &"  # of a session of its own
        f" setsid setsid sh -c 'trap \"\" TERM; echo $$ >> {pids}; sleep 60; sleep 60' &"
        f" while [ $(wc -l < {pids}) -lt 4 ]; do sleep 0.02; done"
    )
    return {
        "cat": Command(argv=(CAT,)),
        "env": Command(argv=(ENV,), env={"REGION": "eu"}, cwd="/tmp"),
        "echo": Command(argv=("/bin/echo", "$(id)", ";", "id", "*")),
        "fail": Command(argv=(SH, "-c", "echo out; echo the reason >&2; exit 3")),
        "killed": Command(argv=(SH, "-c", "kill -9 $$")),
        "none": Command(argv=("/nonexistent/program",)),
        "file": Command(argv=(str(Path(__file__)),)),
        "much": Command(argv=(SH, "-c", "head -c 3000000 /dev/zero | tr '\\0' x; echo; echo the end")),
        "binary": Command(argv=(SH, "-c", "head -c 50000 /dev/urandom")),
        "deaf": Command(argv=(SH, "-c", "exec sleep 0.2")),
        "family": Command(argv=(SH, "-c", f"{family}; exit 0")),
        "stays": Command(argv=(SH, "-c", f"trap '' TERM INT; {family}; while :; do sleep 1; done")),
        "limits": Command(
            argv=(SH, "-c", "ulimit -c; ulimit -n; ulimit -t; ulimit -v; ulimit -f; ps -o sid= -p $$; echo $$")
        ),
        "memory": Command(argv=(sys.executable, "-c", "x = b'1' * 300_000_000"), memory_mb=200),
        "cpu": Command(argv=(SH, "-c", "while :; do :; done")),
    }


@pytest.fixture
def commands(tmp_path: Path) -> dict[str, Command]:
    (tmp_path / "pids").touch()
    return listed(tmp_path)


@pytest.fixture
def bench(database: Database, queues: Queues, commands: dict[str, Command]) -> Iterator[Bench]:
    bench = Bench(database, queues)
    bench.handle = lambda run: command.execute(run, commands)
    yield bench
    bench.engine.pool.close()


def ended(bench: Bench, name: str, work: Any = None, **columns: Any) -> dict[str, Any]:
    """The run of a task that executes this command, ended."""
    payload = json.dumps({"command": name} | (work or {}))
    one = bench.due(handler="command", payload=payload, **{"max_failures": 1, "timeout_s": 20} | columns)
    bench.until(lambda: bench.state(one) in ("succeeded", "failed", "cancelled") and bench.engine.empty, within_s=30)
    return run_of(bench.database, one)


def result(bench: Bench, name: str, work: Any = None) -> dict[str, Any]:
    run = ended(bench, name, work)
    assert run["state"] == "succeeded", run["error"]
    return dict(json.loads(run["result"]))


def family(tmp_path: Path) -> list[int]:
    return [int(pid) for pid in (tmp_path / "pids").read_text().split()]


def gone(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def soon(true: Callable[[], bool], within_s: float = 10) -> None:
    give_up = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_the_input_comes_on_stdin_as_json(bench: Bench) -> None:
    given = {"customer": 7, "name": "ü"}
    assert json.loads(result(bench, "cat", {"input": given})["stdout"]) == given
    assert result(bench, "cat")["stdout"] == ""
    assert result(bench, "cat", {"input": None})["stdout"] == "null"
    assert len(result(bench, "cat", {"input": "x" * 60_000})["stdout"]) == command.KEPT_BYTES
    assert result(bench, "deaf", {"input": "x" * 60_000})["exit_code"] == 0  # who does not read it is not to blame


def test_no_shell_and_no_argument_of_the_payload(bench: Bench) -> None:
    assert result(bench, "echo", {"input": "; id"})["stdout"] == "$(id) ; id *\n"


def test_the_environment_is_clean(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOCKJACK_DATABASE_URL", "mysql://secret")
    run = ended(bench, "env")
    found = dict(line.split("=", 1) for line in json.loads(run["result"])["stdout"].splitlines())
    assert set(found) - {"PWD", "_", "LC_CTYPE"} == {
        *("PATH", "LANG", "REGION"),
        *("CLOCKJACK_RUN_KEY", "CLOCKJACK_TASK_ID", "CLOCKJACK_ATTEMPT", "CLOCKJACK_DUE_AT"),
    }
    assert found["CLOCKJACK_RUN_KEY"].startswith(f"{run['task_id']}-")
    assert (found["CLOCKJACK_ATTEMPT"], found["REGION"]) == ("1", "eu")


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("fail", "CommandError: fail ended with exit code 3: the reason"),
        ("killed", "CommandError: killed ended with exit code 137 (ended by signal 9)"),
        ("none", "CommandError: none ended with exit code 127 (not found): /nonexistent/program: FileNotFoundError: "),
        ("file", "CommandError: file ended with exit code 126 (it cannot be executed): "),
        ("other", "CommandError: this consumer has no command named 'other': see CLOCKJACK_COMMANDS"),
    ],
)
def test_how_it_goes_wrong(bench: Bench, name: str, error: str) -> None:
    run = ended(bench, name)
    assert (run["state"], run["failures"]) == ("failed", 1)
    assert run["error"].startswith(error)


@pytest.mark.parametrize("payload", ["null", "[]", "{}", '{"command": 5}', '{"command": ["/bin/sh"]}'])
def test_a_payload_that_names_no_command_fails_for_good(bench: Bench, payload: str) -> None:
    one = bench.due(handler="command", payload=payload, max_failures=5)
    bench.until(lambda: bench.state(one) == "failed")
    assert run_of(bench.database, one)["error"].startswith("InvalidPayload: expected")


@pytest.mark.parametrize("more", [{"args": ["x"]}, {"argv": ["/bin/sh"]}, {"env": {"A": "B"}}])
def test_a_payload_cannot_add_to_it(bench: Bench, more: Any) -> None:
    assert ended(bench, "echo", more)["error"].startswith("InvalidPayload: expected")


def test_much_output_is_read_and_its_end_kept(bench: Bench) -> None:
    out = result(bench, "much")["stdout"]
    assert out.endswith("x\nthe end\n")
    assert len(out) == command.KEPT_BYTES
    assert len(result(bench, "binary")["stdout"]) > 100  # each byte that is no text is six in JSON


def test_its_limits(bench: Bench) -> None:
    core, files, cpu_s, memory, file, session, pid = result(bench, "limits")["stdout"].split()
    assert (core, files, cpu_s) == ("0", "1024", "20")
    assert int(memory) == 1_024 * 1_000_000 // 1_024
    assert int(file) > 0
    assert session == pid  # its own, and so is its process group
    assert "MemoryError" in ended(bench, "memory")["error"]


def test_a_command_that_computes_for_ever_is_ended(bench: Bench) -> None:
    run = ended(bench, "cpu", timeout_s=1)
    assert run["state"] == "failed"
    assert run["reason"] == "timeout" or "ended by signal" in run["error"]


def test_what_it_leaves_behind_ends_with_it(bench: Bench, tmp_path: Path) -> None:
    assert result(bench, "family")["exit_code"] == 0
    assert len(family(tmp_path)) == 4
    assert all(gone(pid) for pid in family(tmp_path))


def test_grandchildren_are_killed_at_the_timeout(bench: Bench, tmp_path: Path) -> None:
    run = ended(bench, "stays", timeout_s=2)
    assert (run["state"], run["reason"]) == ("failed", "timeout")
    assert len(family(tmp_path)) == 4
    assert all(gone(pid) for pid in family(tmp_path))
    assert not bench.engine.stuck


def test_a_cancelled_run_ends_its_command(bench: Bench, tmp_path: Path) -> None:
    one = bench.due(handler="command", payload='{"command": "stays"}')
    bench.until(lambda: len(family(tmp_path)) == 4)
    run_id = run_of(bench.database, one)["id"]
    bench.database.transaction(lambda c: asking.cancel_run(c, "default", run_id, actor="test"))
    bench.engine.beat()
    bench.until(lambda: bench.engine.empty)
    assert (bench.state(one), run_of(bench.database, one)["reason"]) == ("cancelled", "run_cancelled")
    assert all(gone(pid) for pid in family(tmp_path))


def test_in_a_child_that_is_killed(
    database: Database, queues: Queues, commands: dict[str, Command], tmp_path: Path
) -> None:
    settings = Settings(database_url="", redis_url=queues.url, isolated=True, commands=commands)
    children, bench = Children(settings, 1), Bench(database, queues, size=1)
    pool = bench.engine.pool
    pool.isolated = True

    def call(job: Job, run: Run) -> Any:
        return children.call(run, 0, lambda child: pool.owns(job, child))

    pool._call = call
    assert ended(bench, "stays", timeout_s=2)["reason"] == "timeout"
    soon(lambda: len(family(tmp_path)) == 4 and all(gone(pid) for pid in family(tmp_path)))
    pool.close()
    children.close()


CONSUMER = """
import os, sys, json
from datetime import datetime, UTC
from clockjack.commands import read
from clockjack.handlers import Run
from consumers import command
run = Run(1, "1-1", 1, "default", None, "command", {"command": "stays"}, datetime(2027, 1, 1, tzinfo=UTC), 1, 0, 60)
command.execute(run, read(sys.argv[1]))
"""


def test_when_its_consumer_is_killed_it_ends_with_all_it_started(commands: dict[str, Command], tmp_path: Path) -> None:
    setting = json.dumps({"stays": list(commands["stays"].argv)})
    consumer = subprocess.Popen([sys.executable, "-c", CONSUMER, setting])
    soon(lambda: len(family(tmp_path)) == 4)
    os.kill(consumer.pid, signal.SIGKILL)
    consumer.wait()
    soon(lambda: all(gone(pid) for pid in family(tmp_path)))
