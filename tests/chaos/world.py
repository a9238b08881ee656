"""The world of a run: servers, the proxy of every edge, the receiver, and Clockjack's processes under supervision."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql

from clockjack.ledger import keys
from clockjack.ledger.database import Database
from clockjack.ledger.migrate import migrate
from deploy import servers
from deploy.supervisor import free_port
from deploy.up import environment
from tests.chaos.clients import now_us
from tests.chaos.plan import SCALE, SQL_CLIENTS
from tests.prove.stage import AT_WORK, ROOT, Process, die_with_parent, until

RESTART_S, AT_WORK_S = 0.5, 40
SETTINGS = {"CLOCKJACK_CONCURRENCY": "20", "CLOCKJACK_GRACE_S": "10", "CLOCKJACK_BUILTIN": "none"}
SETTINGS |= {"CLOCKJACK_MEMORY_MB": "400"}
METRICS = {
    "redeliveries": "clockjack_repushed_total",
    "lost_attempts": "clockjack_lost_attempts_total",
    "fenced_writes": "clockjack_fenced_total",
    "claimed": "clockjack_claimed_total",
    "invalid_tasks": "clockjack_invalid_tasks_total",
    "clock_jumps": "clockjack_clock_jumps",
}


@dataclass
class Place:
    """Where a process lives, such as consumer.2: the same port and edges in every life."""

    name: str
    kind: str
    port: int
    env: dict[str, str]
    process: Process | None = None
    restart_at: float = 0.0
    noticed: int = 0


@dataclass
class Death:
    """An end of a process: when it was noticed, and its exit code."""

    at_us: int
    name: str
    pid: int
    code: int


class World:
    """All of it, from start() to close(). `out` keeps logs and evidence; the servers' data is gone afterwards."""

    def __init__(self, out: Path, disk_bytes: int = 0) -> None:
        self.out = out
        (out / "log").mkdir(parents=True, exist_ok=True)
        self.home = Path(tempfile.mkdtemp(prefix="clockjack-chaos-"))
        self.disk = self.home / "database"
        self._mounted = bool(disk_bytes) and self._mount(disk_bytes)
        self.database = servers.database(self.disk, max_connections="90", innodb_buffer_pool_size="128M")
        self.redis = servers.redis(self.home / "redis")
        self.servers = [self.database, self.redis]
        migrate(self.database.url)
        ledger = Database(self.database.url, size=1, locks=False)
        self.api_key = ledger.transaction(lambda c: keys.create(c, "default", "chaos"))
        ledger.close()
        self.places: dict[str, Place] = {}
        self.deaths: list[Death] = []
        self.scraped: dict[tuple[str, int], dict[str, float]] = {}
        self._children: list[subprocess.Popen[str]] = []
        self.moved: dict[str, int] | None = None  # when the database's clock was moved for good, and by how much
        self.starved_s = 0.0  # the longest that this process waited for a processor
        self._stopping = threading.Event()
        self._lock = threading.RLock()
        names = [f"{kind}.{n}" for kind, many in SCALE.items() for n in range(1, many + 1)]
        self.edges = {f"{name}>{server}": server for name in names for server in ("mysql", "redis")}
        self.edges |= {f"sql-{n}>mysql": "mysql" for n in range(1, SQL_CLIENTS + 1)}
        self.ports = self._proxy()
        self._receiver_port = self._receiver()
        for name in names:
            port = free_port(taken=[p.port for p in self.places.values()])
            self.places[name] = Place(name, name.split(".")[0], port, self.environment(name))

    def environment(self, name: str) -> dict[str, str]:
        """What the process finds in its environment: the servers behind its own edges."""
        return environment(
            f"mysql+pymysql://root@127.0.0.1:{self.ports[f'{name}>mysql']}/clockjack?charset=utf8mb4",
            f"redis://127.0.0.1:{self.ports[f'{name}>redis']}/0",
            CLOCKJACK_HANDLERS="tests.chaos.handlers",
            CHAOS_RECEIVER=str(self._receiver_port),
            **SETTINGS,
        )

    def _mount(self, size: int) -> bool:
        """A disk of its own for the database, which can be filled."""
        self.disk.mkdir(mode=0o700)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "chaos", self.disk], capture_output=True)
        return done.returncode == 0

    def start(self) -> "World":
        """All processes are at work."""
        for target in (self._supervise, self._weather, *(lambda p=p: self._scrape(p) for p in self.places.values())):
            threading.Thread(target=target, daemon=True).start()
        for name in self.places:
            self.wait_at_work(name, 30)
        return self

    def close(self) -> None:
        """Everything that was started has ended; the data is gone."""
        self._stopping.set()
        time.sleep(0.2)
        for place in self.places.values():
            if place.process:
                place.process.send(signal.SIGKILL)
        for child in self._children:
            child.kill()
            child.wait()
        for server in self.servers:
            server.kill()
            server.stop()  # lets go of its directory
            with contextlib.suppress(OSError):
                shutil.copy(server.directory / "server.log", self.out / "log" / f"server-{server.directory.name}.log")
        if self._mounted:
            until(lambda: subprocess.run(["umount", self.disk]).returncode == 0, 5, 0.5)
        shutil.rmtree(self.home, ignore_errors=True)

    def order(self, do: str, edges: list[str] | tuple[str, ...] = (), **more: Any) -> dict[str, dict[str, int]]:
        """The proxy has done it; the counters of each edge."""
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(10)
            line.connect(str(self.home / "proxy.sock"))
            line.sendall(json.dumps({"do": do, "edges": list(edges), **more}).encode() + b"\n")
            with line.makefile() as answers:
                answer: dict[str, Any] = json.loads(answers.readline())
        if "error" in answer:
            raise RuntimeError(str(answer["error"]))
        return answer

    def sql(self, statement: str, *values: Any) -> list[Any]:
        """The rows, asked of the server itself and not through an edge."""
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(statement, values)
            return list(cursor.fetchall())

    def connect(self, **options: Any) -> Any:
        """A connection to the server itself."""
        path = self.database.directory / "db.sock"
        return pymysql.connect(
            unix_socket=str(path), user="root", database="clockjack", autocommit=True, read_timeout=30, **options
        )

    def live_process(self, name: str) -> Process:
        """The process at this place, waited for if it is between two lives."""
        until(lambda: (p := self.places[name].process) is not None and p.alive, 30)
        process = self.places[name].process
        assert process is not None
        return process

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL, restart_after_s: float = RESTART_S) -> int:
        """The process was sent the signal, and lives again that much after its end; its pid."""
        process = self.live_process(name)
        with self._lock:
            self.places[name].restart_at = time.monotonic() + restart_after_s
            process.send(number)
        return process.pid

    def start_again(self) -> None:
        """Every place that is empty gets a process now."""
        with self._lock:
            for place in self.places.values():
                place.restart_at = 0.0

    def wait_at_work(self, name: str, timeout_s: float, but: int = 0) -> bool:
        """Whether the process at this place, another one than pid `but`, worked before the time was over."""
        place = self.places[name]
        sign = AT_WORK[place.kind]

        def works() -> bool:
            process = place.process
            if process is None or process.pid == but or not process.alive or process.frozen:
                return False
            page = process.page()
            return bool(page) if sign is None else sign in page

        return until(works, timeout_s, 0.1)

    def counters(self) -> dict[str, float]:
        """What the processes counted, all lives together."""
        with self._lock:
            return {name: sum(life.get(name, 0) for life in self.scraped.values()) for name in METRICS}

    def _weather(self) -> None:
        while not self._stopping.is_set():
            begun = time.monotonic()
            time.sleep(0.02)
            self.starved_s = max(self.starved_s, time.monotonic() - begun - 0.02)

    def _supervise(self) -> None:
        while not self._stopping.wait(0.05):
            for place in self.places.values():
                with self._lock:
                    self._tend(place)

    def _tend(self, place: Place) -> None:
        process = place.process
        if process is not None and not process.alive:
            self.deaths.append(Death(now_us(), place.name, process.pid, process.ended(0) or 0))
            place.process, place.restart_at = None, max(place.restart_at, time.monotonic() + RESTART_S)
        if place.process is None and time.monotonic() >= place.restart_at:
            place.process = Process(place.kind, self.out / "log" / f"{place.name}.log", place.env, place.port)

    def _scrape(self, place: Place) -> None:
        while not self._stopping.wait(1.0):
            if (process := place.process) and process.alive and not process.frozen and (page := process.page()):
                found = {name: total(page, metric) for name, metric in METRICS.items()}
                with self._lock:
                    self.scraped[place.name, process.pid] = found

    def _proxy(self) -> dict[str, int]:
        child = self._child("tests.chaos.proxy", str(self.home / "proxy.sock"))
        backends = {
            "mysql": str(self.database.directory / "db.sock"),
            "redis": str(self.redis.directory / "redis.sock"),
        }
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps({"edges": self.edges, "backends": backends}) + "\n")
        child.stdin.flush()
        ports: dict[str, int] = json.loads(child.stdout.readline())
        return ports

    def _receiver(self) -> int:
        child = self._child("tests.chaos.receiver", str(self.out / "effects.jsonl"))
        assert child.stdout is not None
        return int(child.stdout.readline())

    def _child(self, module: str, *arguments: str) -> "subprocess.Popen[str]":
        with open(self.out / "log" / f"{module.rsplit('.', 1)[1]}.log", "ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", module, *arguments], cwd=ROOT, text=True, env=dict(os.environ),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, preexec_fn=die_with_parent,
            )  # fmt: skip
        self._children.append(child)
        return child


def total(page: str, metric: str) -> float:
    """The sum of the metric's samples."""
    found = re.findall(rf"^{metric}(?:\{{[^}}]*\}})? (\S+)$", page, re.MULTILINE)
    return sum(map(float, found))
