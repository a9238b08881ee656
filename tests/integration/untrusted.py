"""Handlers that may not be trusted; test_isolation.py has them run in children."""

import ctypes
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from sqlalchemy import text

from clockjack import Discard, Fail, Retry, Run, Snooze, handler


@handler("untrusted.pid")
def pid(run: Run) -> int:
    """The child's pid."""
    return os.getpid()


@handler("untrusted.exit")
def leave(run: Run) -> None:
    """The child is gone."""
    os._exit(3)


@handler("untrusted.crash")
def crash(run: Run) -> None:
    """The child got SIGSEGV."""
    ctypes.string_at(0)


@handler("untrusted.return")
def give(run: Run) -> Any:
    """What JSON cannot say, or too much of it, or an error without a text."""

    class Odd(Exception):
        def __str__(self) -> str:
            raise ValueError

    if run.payload == "error":
        raise Odd
    return {"huge": "x" * 1_000_000, "set": {1}, "nan": float("nan"), "function": give}[run.payload]


@handler("untrusted.print")
def say(run: Run) -> str:
    """Much was written to both of the standard streams."""
    print("[true,false,666]" * 10_000)
    print("[true,false,666]", file=sys.stderr)
    os.write(1, b"\x00\x00\x00\x10[true,false,666]")
    return "said"


@handler("untrusted.forge")
def forge(run: Run) -> None:
    """The payload was written to every socket that the child has."""
    for fd in sockets():
        os.write(fd, bytes.fromhex(run.payload))
    time.sleep(60)


@handler("untrusted.sockets")
def connected(run: Run) -> int:
    """How many sockets the child has."""
    return len(sockets())


@handler("untrusted.thread")
def thread(run: Run) -> int:
    """The child's pid; a thread was left behind in it."""
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    return os.getpid()


@handler("untrusted.grow")
def grow(run: Run) -> int:
    """The child's pid; it once had 400 MB."""
    assert b"\1" * 400_000_000
    return os.getpid()


@handler("untrusted.spawn")
def spawn(run: Run) -> None:
    """A process of its own and a fork of the child were begun, their pids written to the file in the payload."""
    process = subprocess.Popen(["sleep", "60"])
    fork = os.fork()
    if fork:
        Path(run.payload).write_text(f"{process.pid} {fork}")
    time.sleep(60)


@handler("untrusted.async")
async def wait(run: Run) -> str:
    """It was awaited."""
    return "awaited"


@handler("untrusted.count")
def count(run: Run) -> None:
    """It was counted, once."""
    with run.transaction() as connection:
        connection.execute(text("INSERT INTO app.counted (run_key) VALUES (:key)"), {"key": run.key})


@handler("untrusted.then_die")
def count_and_die(run: Run) -> None:
    """It was counted, and its child is gone."""
    count(run)
    os._exit(3)


@handler("untrusted.then_work")
def count_and_work(run: Run) -> str:
    """It was counted, and its child worked on and then failed."""
    count(run)
    time.sleep(0.5)
    raise ValueError


@handler("untrusted.heed")
def heed(run: Run) -> bool:
    """It waited until it was cancelled, or did not wait; returns whether it was."""
    run.heartbeat({"waits": True})
    while run.payload != "once" and not run.cancelled:
        time.sleep(0.05)
    if run.cancelled:
        raise Discard("told to")
    return run.cancelled


def ending(word: str) -> Exception:
    return {"retry": Retry(500, "busy"), "snooze": Snooze(500), "discard": Discard("gone"), "fail": Fail("no")}[word]


@handler("untrusted.end")
def end(run: Run) -> None:
    """It raised the ending that the payload names."""
    raise ending(run.payload)


@handler("untrusted.give")
async def give_ending(run: Run) -> Exception:
    """It returned the ending that the payload names."""
    return ending(run.payload)


def sockets() -> list[int]:
    """The process's sockets."""
    links = [(int(fd), f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    return [fd for fd, link in links if os.path.exists(link) and os.readlink(link).startswith("socket:")]


@handler("untrusted.files")
def files(run: Run) -> int:
    """More files are open than before, and stay so."""
    for _ in range(200):
        os.open(os.devnull, os.O_RDONLY)
    return os.getpid()


@handler("untrusted.keep")
def keep(run: Run) -> None:
    """The process has 300 MB more, or hardly a file left, and stays so."""
    if run.payload == "memory":
        kept.append(b"x" * 300_000_000)
    else:
        most = 256
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        while len(os.listdir("/dev/fd")) < most - 6:
            kept.append(os.open(os.devnull, os.O_RDONLY))


kept: list[Any] = []
