"""The systems of the side-by-side run, each with its fastest sane settings (docs/performance.md says why these).

A peer's workers and its registration are programs of its own environment; they get the path of the file that handlers
write to, of the Redis socket, and the URL of the database.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import unquote

from tests.bench import installing
from tests.bench.installing import HERE
from tests.prove.stage import ROOT, die_with_parent

Argv = list[str]


@dataclass(frozen=True)
class Programs:
    """What runs a peer, once it is installed."""

    workers: list[Argv]
    register: Argv
    env: Mapping[str, str]


@dataclass(frozen=True)
class System:
    """`a_second`: registrations a second that its lead is reckoned with; `late`: workers start after registration.

    `aside`: not one of the figures that are asked for, unless by name. A `variant` is played only if it is named.
    """

    name: str
    durable: bool
    a_second: int
    install: Callable[[], Programs] | None = None
    late: bool = False
    aof: bool = False
    aside: bool = False
    variant: bool = False


def _node() -> Programs:
    home = installing.node("bullmq")
    program = [shutil.which("node") or "node", str(HERE / "peers" / "bullmq.mjs")]
    return Programs([[*program, "work"]] * 2, [*program, "register"], {"BENCH_NODE": str(home)})


def _celery(pool: str = "threads", concurrency: int = 4) -> Programs:
    python = str(installing.python("celery"))
    app, module = "tests.bench.peers.celery_peer", [python, "-m", "tests.bench.peers.celery_peer"]
    worker = [python, "-m", "celery", "-A", app, "worker", f"--pool={pool}", f"--concurrency={concurrency}"]
    worker += ["--loglevel=WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    return Programs([[*worker, f"--hostname=w{i}@bench"] for i in (1, 2)], module, {})


def _dramatiq(processes: int = 2, threads: int = 8, prefetch: int = 1_000) -> Programs:
    python, module = str(installing.python("dramatiq")), "tests.bench.peers.dramatiq_peer"
    worker = [python, "-m", "dramatiq", module, "--processes", str(processes), "--threads", str(threads)]
    env = {"dramatiq_delay_queue_prefetch": "65535", "dramatiq_queue_prefetch": str(prefetch)}
    return Programs([[*worker, "--queues", "bench"]], [python, "-m", module], env)


def _rq() -> Programs:
    program = [str(installing.python("rq")), "-m", "tests.bench.peers.rq_peer"]
    return Programs([[*program, "work"]] * 2, [*program, "register"], {})


def _apscheduler() -> Programs:
    program = [str(installing.python("apscheduler")), "-m", "tests.bench.peers.apscheduler_peer"]
    return Programs([[*program, "work"]], [*program, "register"], {})


def _variant(name: str, a_second: int, install: Callable[[], Programs]) -> System:
    return System(name, durable=False, a_second=a_second, install=install, aside=True, variant=True)


SYSTEMS = (
    System("clockjack", durable=True, a_second=10_000),
    System("bullmq", durable=False, a_second=4_000, install=_node),
    System("bullmq-aof", durable=False, a_second=3_000, install=_node, aof=True, aside=True),
    System("celery", durable=False, a_second=700, install=_celery),
    System("dramatiq", durable=False, a_second=1_500, install=_dramatiq),
    System("rq", durable=False, a_second=1_500, install=_rq),
    System("apscheduler", durable=True, a_second=400, install=_apscheduler, late=True),
    _variant("celery-prefork", 400, partial(_celery, "prefork", 1)),
    _variant("celery-1-thread", 400, partial(_celery, "threads", 1)),
    _variant("dramatiq-4x2", 1_000, partial(_dramatiq, 4, 2)),
    _variant("dramatiq-2x4", 1_000, partial(_dramatiq, 2, 4)),
    _variant("dramatiq-short-prefetch", 1_000, partial(_dramatiq, 2, 8, 16)),
)


class Peer:
    """One round's processes of a peer."""

    def __init__(self, programs: Programs, effects: Path, redis_url: str, database_url: str, log: Path) -> None:
        self._programs, self._log = programs, log
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("CLOCKJACK_", "VIRTUAL_ENV"))},
            **programs.env,
            "CLOCKJACK_EFFECTS": str(effects),
            "BENCH_REDIS": unquote(redis_url.removeprefix("unix://")),
            "BENCH_DATABASE": database_url,
        }
        self._workers: list[subprocess.Popen[bytes]] = []

    def work(self) -> None:
        """The workers have been started."""
        self._workers = [self._start(argv) for argv in self._programs.workers]

    def register(self, number: int, due_us: int) -> None:
        """So many jobs that are due then are registered; raises when that did not succeed."""
        process = self._start([*self._programs.register, str(number), str(due_us)])
        try:
            if process.wait(600) != 0:
                raise RuntimeError(f"the registration failed: {self.said()}")
        finally:
            _end(process)

    @property
    def alive(self) -> bool:
        """No worker has ended."""
        return all(worker.poll() is None for worker in self._workers)

    def said(self) -> str:
        """The end of what its processes printed."""
        return self._log.read_text(errors="replace")[-2000:]

    def end(self) -> None:
        """Its processes have ended."""
        for worker in self._workers:
            worker.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 2
        while any(worker.poll() is None for worker in self._workers) and time.monotonic() < deadline:
            time.sleep(0.05)
        for worker in self._workers:
            _end(worker)

    def _start(self, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        with open(self._log, "ab") as log:
            return subprocess.Popen(
                argv,
                cwd=ROOT,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )


def _end(process: subprocess.Popen[bytes]) -> None:
    """The process and those it started are gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # a session of its own
    process.wait()
