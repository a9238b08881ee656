"""Handlers in child processes that can be killed: a pool of warm children, each with one run at a time.

Children are forked from a fork server (a fork of this threaded process could inherit a held lock, or a socket). They
die with it, and it dies with the consumer, so that no handler outlives the process that holds its lease. What a child
says is not trusted: it is one frame of JSON of bounded length, never a pickle.
"""

import asyncio
import contextlib
import inspect
import json
import multiprocessing
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any

from clockjack.endings import Ending
from clockjack.handlers import Run, load
from clockjack.ledger.runs import Held
from clockjack.settings import Settings
from consumers import builtin
from consumers.ending import heard, told
from consumers.handling import Failed, as_json, described
from consumers.inside import Inside
from consumers.leaks import open_files, peak_bytes
from consumers.waiting import wait_for

READY = 8
RUNS = 1_000  # then the child is replaced: what its handlers leak has an end
GROWTH_MB, GROWTH_FILES = 256, 100  # or when its peak, or its open files, have grown by so much
FRAME_BYTES, ERROR_CHARS = 65_536, 4_000
CANCEL = "cancel"
UNREADABLE = "the handler's process gave an answer that cannot be read"

_context = multiprocessing.get_context("forkserver")


class ChildDied(Exception):
    """The child ended without an answer, or with one that cannot be read."""


class Child:
    """A warm process that executes one run after the other."""

    def __init__(self, settings: Settings) -> None:
        self._pipe, theirs = _context.Pipe()
        self._process = _context.Process(target=_serve, args=(theirs, settings), daemon=True)
        self._process.start()
        theirs.close()
        self._poll = select.poll()
        for end in (self._pipe.fileno(), self._process.sentinel):
            self._poll.register(end, select.POLLIN)
        self._sending = threading.Lock()
        self.runs = 0

    def begin(self, run: Run, now_us: int, held: Held | None) -> None:
        """The child has the run; OSError when it had ended before."""
        with self._sending:
            self._pipe.send((run, now_us, held))
        self.runs += 1

    def ask(self, held: Held) -> None:
        """The handler hears, if it asks, that it is to stop; no other run's handler does."""
        with contextlib.suppress(OSError), self._sending:
            self._pipe.send((CANCEL, held.run_id, held.attempt))

    def answer(self, hold: Any) -> tuple[bool, bool, Any]:
        """Whether it went well, whether the child wants to be replaced, and the result, ending or error.

        `hold` hears what it says before.
        """
        while len(frame := self._frame()) == 2 and hold is not None:
            try:
                hold.heard(*frame)
            except (ValueError, TypeError):
                raise ChildDied(UNREADABLE) from None
        try:
            how, last, value = frame
            if isinstance(how, str):
                value = heard(how, value)
                how = True
        except (ValueError, TypeError, KeyError):
            raise ChildDied(UNREADABLE) from None
        return how is True, last is not False, value

    def _frame(self) -> list[Any]:
        ready = [end for end, _ in self._poll.poll()]  # its end counts too: what it forked may hold the pipe open
        try:
            if self._pipe.fileno() not in ready:
                raise EOFError
            frame = json.loads(self._pipe.recv_bytes(FRAME_BYTES))
        except (EOFError, ConnectionError):
            self._process.join(1)
            raise ChildDied(f"the handler's process ended with code {self._process.exitcode} and no answer") from None
        except (OSError, ValueError, RecursionError):
            frame = None
        if not isinstance(frame, list):
            raise ChildDied(UNREADABLE)
        return frame

    def kill(self) -> None:
        """The process and what it started get SIGKILL."""
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid or 0, signal.SIGKILL)
        self._process.kill()

    def end(self) -> None:
        """The process has ended."""
        self.kill()
        self._process.join()
        self._pipe.close()


class Children:
    """A few children are ready (at most `most`); more come when all are busy, or when one had to end."""

    def __init__(self, settings: Settings, most: int, runs: int = RUNS) -> None:
        self._settings, self._runs = settings, runs
        modules = ["consumers.mortal", "consumers.isolation", *settings.handlers]
        _context.set_forkserver_preload(modules)  # so that a child begins in milliseconds
        # started now, in the thread that lives longest; and deaf to the SIGTERM of a whole process group, because begun
        # handlers have their grace period
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            forkserver.ensure_running()
        finally:
            signal.signal(signal.SIGTERM, before)
        self._idle = [Child(settings) for _ in range(min(READY, most))]

    def call(self, run: Run, now_us: int, owns: Callable[[Child | None], bool]) -> Any:
        """The handler's result or ending; raises what describes its failure.

        `owns(child)` is told the child before it begins, and None when it is done; it answers whether it may go on.
        """
        hold, run.hold = run.hold, None
        child, again = self._begun(run, now_us, getattr(hold, "job", None), owns), False
        try:
            succeeded, last, value = child.answer(hold)
            again = not last and child.runs < self._runs
        finally:
            # disowned first: a kill that is meant for this run must not meet the next one
            if owns(None) and again:
                self._idle.append(child)
            else:
                child.end()
        if not succeeded:
            raise Failed(str(value))
        return value

    def _begun(self, run: Run, now_us: int, job: Any, owns: Callable[[Child | None], bool]) -> Child:
        """A child that has the run. One that had died idle is passed over: that is not this run's fault."""
        while True:
            fresh = False
            try:
                child = self._idle.pop()
            except IndexError:
                fresh, child = True, Child(self._settings)
            wanted = owns(child)
            try:
                child.begin(run, now_us, None if job is None else job.held)
                if job is not None and job.cancelled:
                    child.ask(job.held)
                return child
            except OSError:
                owns(None)
                child.end()
                if fresh or not wanted:
                    raise ChildDied("the handler's process ended before it began") from None

    def close(self) -> None:
        """The idle children have ended."""
        while self._idle:
            self._idle.pop().end()


def invoke(function: Callable[[Run], Any], run: Run) -> Any:
    """What the handler returns; a coroutine is run to its end in a loop of its own."""
    value = function(run)
    return asyncio.run(wait_for(value)) if inspect.isawaitable(value) else value


def _serve(pipe: Connection, settings: Settings) -> None:
    from consumers.mortal import die_with_server

    die_with_server()
    os.setpgid(0, 0)  # so that what a handler starts can be killed with it
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    now_us, most, files = 0, peak_bytes() + GROWTH_MB * 1_000_000, open_files() + GROWTH_FILES
    builtin.install(settings, lambda: now_us)
    with contextlib.suppress(EOFError, OSError):  # the consumer is gone
        while True:
            while (message := pipe.recv())[0] == CANCEL:
                continue  # it came after the end
            run, now_us, held = message
            run.hold = inside = Inside(pipe, held, settings.database_url)
            how: bool | str = True
            try:
                value = invoke(load(settings.handlers)[run.handler], run)
                if isinstance(value, Ending):
                    raise value
                text = as_json(value) or "null"
            except Ending as ending:
                how, said = told(ending)
                text = json.dumps(said)
            except BaseException as error:
                how, text = False, json.dumps(described(error)[:ERROR_CHARS])
            inside.close()
            # a thread that is left behind could do its harm in the next run
            last = threading.active_count() > 1 or peak_bytes() > most or open_files() > files
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()
            pipe.send_bytes(f"[{json.dumps(how)},{json.dumps(last)},{text}]".encode())
