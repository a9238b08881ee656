"""Runs what a Procfile lists, as many of each as wanted, and starts again what dies."""

import contextlib
import ctypes
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TICK_S = 0.05
BACK_OFF_S = (0.2, 5.0)  # the first pause before a restart, doubled up to the second
STEADY_S = 10.0  # a life as long as this makes the next pause the first one again
GRACE_S = 35.0
PORTS = range(20000, 30000)  # below the kernel's own choice, so that a port stays free between two lives


@dataclass
class Child:
    """One place in the list, such as consumer.2: its command and port are the same in every life."""

    name: str
    command: str
    port: int
    process: subprocess.Popen[bytes] | None = None
    born_at: float = 0.0
    due_at: float = 0.0
    pause_s: float = BACK_OFF_S[0]
    kill_at: float | None = None  # set once it has been asked to end

    @property
    def pid(self) -> int:
        return self.process.pid if self.process and self.process.poll() is None else 0


class Supervisor:
    """Keeps `scale` processes of each Procfile line alive, in a thread of its own, from start() to stop()."""

    def __init__(
        self,
        procfile: str | Path,
        scale: Mapping[str, int],
        env: Mapping[str, str],
        log_dir: str | Path,
        ports: Mapping[str, int] | None = None,
        grace_s: float = GRACE_S,
        own_env: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self._commands = read_procfile(procfile)
        if unknown := set(scale) - set(self._commands):
            raise ValueError(f"{procfile} has no line {', '.join(sorted(unknown))}; it has {', '.join(self._commands)}")
        self._wanted = dict(scale)
        self._env = dict(env)
        self._own_env = dict(own_env or {})  # what only the processes of one line are told
        self._log_dir = Path(log_dir)
        self._cwd = Path(procfile).resolve().parent
        self._ports = dict(ports or {})
        self._grace_s = grace_s
        self._children: dict[str, Child] = {}
        self._stopping = False
        self._begun = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._loop, name="supervisor", daemon=True)

    def start(self) -> "Supervisor":
        """Every wanted process has been started once."""
        self._log_dir.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        self._begun.wait()
        return self

    def processes(self) -> list[dict[str, Any]]:
        """Name, pid and port of each process that lives now."""
        with self._lock:
            return [{"name": c.name, "pid": c.pid, "port": c.port} for c in self._children.values() if c.pid]

    def scale(self, name: str, count: int) -> None:
        """From now on `count` processes of the Procfile's line `name` are wanted; surplus ones are asked to end."""
        if name not in self._commands:
            raise ValueError(f"the Procfile has no line {name}; it has {', '.join(self._commands)}")
        self._wanted[name] = count

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """The process `name` (such as consumer.1) has been sent the signal; its pid."""
        with self._lock:
            if not (child := self._children.get(name)) or not child.pid:
                raise ProcessLookupError(f"no process {name} is alive")
            os.kill(pid := child.pid, number)
            return pid

    def stop(self) -> None:
        """No process is left: each had SIGTERM and the grace period before SIGKILL."""
        self._stopping = True
        if self._thread.ident is not None:
            self._thread.join()

    def _loop(self) -> None:
        while not self._stopping or self._children:
            with self._lock:
                self._step(time.monotonic())
            self._begun.set()
            time.sleep(TICK_S)

    def _step(self, now: float) -> None:
        """The processes are one step nearer to what is wanted."""
        wanted = {} if self._stopping else self._wanted
        names = [f"{line}.{n}" for line in self._commands for n in range(1, wanted.get(line, 0) + 1)]
        for name in names:
            if name not in self._children:
                self._children[name] = Child(name, self._commands[name.split(".")[0]], self._port(name))
        for child in list(self._children.values()):
            if child.kill_at is not None or child.name not in names:
                self._end(child, now)
            elif child.process is None:
                if now >= child.due_at:
                    self._spawn(child, now)
            elif child.process.poll() is not None:
                if now - child.born_at >= STEADY_S:
                    child.pause_s = BACK_OFF_S[0]
                child.process, child.due_at = None, now + child.pause_s
                child.pause_s = min(2 * child.pause_s, BACK_OFF_S[1])

    def _end(self, child: Child, now: float) -> None:
        if not child.pid:
            del self._children[child.name]
        elif child.kill_at is None:
            child.kill_at = now + self._grace_s
            for number in (signal.SIGTERM, signal.SIGCONT):  # a frozen one must wake up to see the first
                os.kill(child.pid, number)
        elif now >= child.kill_at:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)

    def _spawn(self, child: Child, now: float) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{self._env.get('PATH', os.defpath)}"
        line = child.name.split(".")[0]
        with open(self._log_dir / f"{child.name}.log", "ab") as log:
            child.process = subprocess.Popen(
                ["/bin/sh", "-c", child.command],
                cwd=self._cwd,
                env={**self._env, **self._own_env.get(line, {}), "PATH": path, "PORT": str(child.port)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        child.born_at = now

    def _port(self, name: str) -> int:
        return free_port(self._ports.get(name), taken={child.port for child in self._children.values()})


def read_procfile(path: str | Path) -> dict[str, str]:
    """The commands of a Procfile by name, in its order."""
    commands = {}
    for number, line in enumerate(Path(path).read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if not (match := re.fullmatch(r"([A-Za-z0-9_-]+):\s*(\S.*)", line)):
            raise ValueError(f"{path} line {number}: expected `name: command`, got {line!r}")
        commands[match[1]] = match[2]
    return commands


def read_scale(text: str) -> dict[str, int]:
    """The numbers of processes in `consumer=4 dispatcher=2`."""
    scale = {}
    for word in text.replace(",", " ").split():
        if not (match := re.fullmatch(r"([A-Za-z0-9_-]+)=(\d+)", word)):
            raise ValueError(f"scale: expected name=number such as consumer=4, got {word!r}")
        scale[match[1]] = int(match[2])
    return scale


def free_port(preferred: int | None = None, taken: Collection[int] = ()) -> int:
    """A TCP port of 127.0.0.1 on which nobody listens and that is not `taken`: the preferred one, or another."""
    for port in [*([preferred] if preferred else []), *random.sample(PORTS, 100)]:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            if port not in taken:
                return port
    raise OSError(f"no free TCP port on 127.0.0.1 between {PORTS.start} and {PORTS.stop}")


_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def _die_with_parent() -> None:
    """In the child: the kernel kills it when the supervisor's thread ends, however that happens (Linux)."""
    if _prctl:
        _prctl(1, signal.SIGKILL)
