"""One handler in one child process, which can be killed.

Children are forked from a fork server (a fork of this threaded process could inherit a held lock). They die with it,
and it dies with the consumer, so that no handler outlives the process that holds its lease.
"""

import contextlib
import ctypes
import json
import multiprocessing
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any

from clockjack.handlers import Run, load
from clockjack.settings import Settings
from consumers import builtin

_context = multiprocessing.get_context("forkserver")


class ChildDied(Exception):
    """The child ended without an answer."""


def prepare(modules: Sequence[str]) -> None:
    """The fork server has the handlers' modules loaded, so that a child begins in milliseconds."""
    _context.set_forkserver_preload(["consumers.isolation", "consumers.execution", *modules])
    # started now, so that no handler waits for the imports; and deaf to the SIGTERM of a whole process group, because
    # begun handlers have their grace period
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGTERM, before)


def call(run: Run, settings: Settings, now_us: int, started: Callable[[Any], None]) -> Any:
    """The handler's JSON result from a child; raises what describes its failure. `started(process)` gets the child."""
    ours, theirs = _context.Pipe()
    child = _context.Process(target=_child, args=(theirs, run, settings, now_us), daemon=True)
    child.start()
    theirs.close()
    try:
        started(child)
        kind, value = ours.recv()
    except (EOFError, OSError):
        child.join(1)
        raise ChildDied(f"the handler's process ended with code {child.exitcode} and no answer") from None
    finally:
        ours.close()
        child.join(1)
        if child.is_alive():
            child.kill()
            child.join()
    if kind == "failed":
        raise RuntimeError(value)
    return json.loads(value)


def _child(pipe: Connection, run: Run, settings: Settings, now_us: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        builtin.install(settings, lambda: now_us)
        function = load(settings.handlers)[run.handler]
        from consumers.execution import invoke

        answer = ("succeeded", json.dumps(invoke(function, run), allow_nan=False))
    except BaseException as error:
        answer = ("failed", f"{type(error).__name__}: {error}")
    with contextlib.suppress(OSError):
        pipe.send(answer)
