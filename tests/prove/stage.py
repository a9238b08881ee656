"""The stage of the proofs: private servers, emptied for each proof, and processes that are ended by their own pid.

Nothing here knows what a proof expects; that is counted in `tests.prove.counting`.
"""

import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from clockjack.ledger import keys
from clockjack.ledger.database import Clock, Database, from_us
from clockjack.ledger.migrate import migrate
from clockjack.queues import Queues
from deploy import grants, servers
from deploy.supervisor import free_port
from deploy.up import environment

ROOT = Path(__file__).resolve().parents[2]
EMPTIED = ("tasks", "runs", "attempts", "task_events", "idempotency_keys")
MODULES = {"producer": "producer", "dispatcher": "dispatcher", "consumer": "consumers"}
# the metric that a process shows once it works, and not only listens
AT_WORK = {"producer": None, "dispatcher": 'loop="claim"', "consumer": 'loop="heartbeat"'}
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


class Process:
    """One process of ours. `kind` is producer, dispatcher or consumer; `failpoint` says where it stops or dies."""

    def __init__(self, kind: str, log: Path, env: dict[str, str], port: int, failpoint: Sequence[str] = ()) -> None:
        self.kind, self.log, self.port = kind, log, port
        module = ["tests.prove.failpoints", kind, *failpoint] if failpoint else [MODULES[kind]]
        with open(log, "ab") as out:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", *module],
                cwd=ROOT,
                env={**env, "PORT": str(port)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                preexec_fn=die_with_parent,
            )
        self.pid = self._popen.pid

    @property
    def alive(self) -> bool:
        """It has not ended (it may be frozen)."""
        return self._popen.poll() is None

    @property
    def frozen(self) -> bool:
        """The kernel holds it stopped."""
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        return False

    def send(self, number: signal.Signals) -> None:
        """The signal was sent, if the process had not ended."""
        if self.alive:
            os.kill(self.pid, number)

    def ended(self, timeout_s: float) -> int | None:
        """Its exit code, or None when it still lives after `timeout_s`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._popen.wait(timeout_s)
        return None

    def page(self) -> str:
        """What /metrics answers now; empty while nobody answers."""
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=2) as answer,
        ):
            return str(answer.read().decode())
        return ""

    def metric(self, name: str, label: str = "") -> float:
        """The sum of the metric's samples whose labels contain `label`."""
        found = re.findall(rf"^{name}(?:\{{([^}}]*)\}})? (\S+)$", self.page(), re.MULTILINE)
        return sum(float(value) for labels, value in found if label in labels)

    def said(self, word: str = "failpoint ") -> list[str]:
        """What follows `word` on the lines of its log that begin with it."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return [line.removeprefix(word) for line in lines if line.startswith(word)]


class Stage:
    """A database, a Redis and the processes of one proof after the other; a `home` that is given may hold data."""

    def __init__(self, home: Path | None = None, **database_options: str) -> None:
        self.home = home or Path(tempfile.mkdtemp(prefix="clockjack-prove-"))
        self.database = servers.database(self.home / "database", **database_options)
        self.redis = servers.redis(self.home / "redis")
        migrate(self.database.url)
        self.users = grants.users(self.database.url)  # each process connects as the user of its stage
        self.queues = Queues(self.redis.url)
        self.ledger = Database(self.database.url, size=8, locks=False)
        self.clock: Clock = self.ledger.clock
        self.ledger.now()
        self.api_key = self.ledger.transaction(lambda c: keys.create(c, "default", "prove"))
        self.processes: list[Process] = []
        self._acts = 0
        self.effects = self.home / "effects-0"

    def close(self) -> None:
        """Everything that was started here has ended, and its directory is gone."""
        self.end()
        self.ledger.close()
        self.database.kill()
        self.redis.kill()
        shutil.rmtree(self.home, ignore_errors=True)

    def empty(self) -> None:
        """No process runs, no task or run exists, Redis holds nothing, and nobody has written effects."""
        self.end()
        for table in EMPTIED:
            self.sql(f"TRUNCATE TABLE {table}")
        self.begin()

    def begin(self) -> None:
        """No process runs, Redis holds nothing, and nobody has written effects; the tables are as they were."""
        self.end()
        self.queues.redis.flushall()
        self._acts += 1
        self.effects = self.home / f"effects-{self._acts}"
        self.now_us()

    def end(self) -> None:
        """The processes of this proof have ended."""
        for process in self.processes:
            process.send(signal.SIGKILL)
        for process in self.processes:
            process.ended(10)
        self.processes.clear()

    def start(
        self, kind: str, failpoint: Sequence[str] = (), *, wait: bool = True, port: int | None = None, **settings: Any
    ) -> Process:
        """A process of this kind is at work (or only begun, with wait=False); `settings` as in the environment."""
        more = {f"CLOCKJACK_{name.upper()}": str(value) for name, value in settings.items()}
        env = environment(self.users[kind], self.redis.url, CLOCKJACK_EFFECTS=str(self.effects), **more)
        port = port or free_port(taken={p.port for p in self.processes})
        log = self.home / f"{self._acts}-{kind}-{len(self.processes)}.log"
        self.processes.append(process := Process(kind, log, env, port, failpoint))
        if wait:
            self.ready(process)
        return process

    def cast(self, **numbers: int) -> list[Process]:
        """So many processes of each kind are at work, begun at once."""
        begun = [self.start(kind, wait=False) for kind, number in numbers.items() for _ in range(number)]
        for process in begun:
            self.ready(process)
        return begun

    def ready(self, process: Process) -> None:
        """The process is at work; raises when it ended or took more than 20 s."""
        sign = AT_WORK[process.kind]

        def at_work() -> bool:
            if not process.alive:
                raise RuntimeError(f"{process.kind} ended at its start; see {process.log.read_text()[-2000:]}")
            page = process.page()
            return bool(page) if sign is None else sign in page

        if not until(at_work, 20, 0.05):
            raise RuntimeError(f"{process.kind} is not at work after 20 s")

    def sql(self, statement: str, **values: Any) -> list[Any]:
        """The rows of a statement that was committed at once; for set-up, counters and second opinions."""
        clause = sa.text(statement).bindparams(
            *(sa.bindparam(k, expanding=True) for k, v in values.items() if isinstance(v, (list, tuple)))
        )

        def body(connection: Any) -> list[Any]:
            result = connection.execute(clause, values)
            return list(result) if result.returns_rows else [result.rowcount]

        return self.ledger.transaction(body)

    def one(self, statement: str, **values: Any) -> Any:
        """The first column of the first row."""
        return self.sql(statement, **values)[0][0]

    def now_us(self) -> int:
        """The database's time, read now."""
        self.ledger.now()
        return self.clock.now_us()

    def register(
        self, dues_us: Iterable[int], payload: str = "{}", handler: str = "mock", **columns: Any
    ) -> dict[str, int]:
        """One-time tasks are registered by plain SQL, 500 a statement: {the key of its run: due_us}."""
        names = ["handler", "payload", "run_at", *columns]
        expected: dict[str, int] = {}
        dues = list(dues_us)
        for i in range(0, len(dues), 500):
            part = dues[i : i + 500]

            def body(connection: Any, part: list[int] = part) -> int:
                done = connection.exec_driver_sql(
                    f"INSERT INTO tasks ({', '.join(names)}) VALUES "
                    + ", ".join([f"({', '.join(['%s'] * len(names))})"] * len(part)),
                    tuple(v for due in part for v in (handler, payload, from_us(due), *columns.values())),
                )
                return int(done.lastrowid)

            first = self.ledger.transaction(body)  # the ids of one INSERT are contiguous
            expected |= {f"{first + n}-{due}": due for n, due in enumerate(part)}
        return expected

    def live(self) -> int:
        """How many runs are neither finished nor given up: tells when to stop waiting, never what ran."""
        return int(self.one("SELECT COUNT(*) FROM runs WHERE wake_at IS NOT NULL"))


def until(true: Callable[[], Any], timeout_s: float, every_s: float = 0.05) -> bool:
    """Whether `true()` became true before the time was over."""
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_s)
    return True


def die_with_parent() -> None:
    if _prctl:
        _prctl(1, signal.SIGKILL)
