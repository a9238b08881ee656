"""A real dispatcher or consumer that dies or freezes itself at one exact point, or tells how long its claims took.

`python -m tests.prove.failpoints dispatcher|consumer POINT [LIVES]`: with LIVES the process has as many lives after one
another, each ended by its own SIGKILL; without, one. The points hang on SQLAlchemy's events and on functions that are
wrapped in this process only; the product has no switch for them. What happens is told first: `failpoint POINT NUMBER`.
"""

import ctypes
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

import clockjack.ledger.claim
import clockjack.ledger.runs
import clockjack.ledger.wake

FEWEST = 3  # popped together, so that a batch is hit and not a single run
_once = threading.Lock()
_life = [0]


def act(point: str, number: int, what: signal.Signals) -> None:
    """The first call tells about it and sends `what` to this process; later calls do nothing."""
    if _once.acquire(blocking=False):
        os.write(1, f"failpoint {point} {number}\n".encode())
        os.kill(os.getpid(), what)
        time.sleep(0.05)  # the signal takes all threads, this one at its next return from the kernel


def _after_statement(point: str, pattern: str) -> None:
    """Freeze right after the server answered a statement that matched rows."""

    @event.listens_for(Engine, "after_cursor_execute")
    def executed(c: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool) -> None:
        if cursor.rowcount > 0 and re.search(pattern, statement):
            act(point, cursor.rowcount, signal.SIGSTOP)


def _before_commit(point: str, pattern: str) -> None:
    """Freeze between a statement that matched a few rows and the COMMIT of its transaction."""
    matched: dict[int, int] = {}

    @event.listens_for(Engine, "after_cursor_execute")
    def executed(c: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool) -> None:
        if cursor.rowcount >= FEWEST and re.search(pattern, statement):
            matched[threading.get_ident()] = cursor.rowcount

    @event.listens_for(Engine, "commit")  # called before COMMIT is sent
    def commit(connection: Connection) -> None:
        if number := matched.pop(threading.get_ident(), 0):
            act(point, number, signal.SIGSTOP)


def _kill_after_claim(point: str) -> None:
    """Die when the claim is committed and nothing of it is staged.

    It repairs nothing in its short life: else a run could be lost by one death and its repair by the next.
    """
    claim = clockjack.ledger.claim.claim
    clockjack.ledger.wake.look_again = lambda *_, **__: ([], 0, False)  # type: ignore[assignment]

    def and_die(*args: Any, **kwargs: Any) -> Any:
        done = claim(*args, **kwargs)
        if done.ready:
            act(point, len(done.ready), signal.SIGKILL)
        return done

    clockjack.ledger.claim.claim = and_die


def _before_start(point: str) -> None:
    """Die when a few runs are popped from Redis and nothing was said to the database."""
    start = clockjack.ledger.runs.start

    def die_first(connection: Any, popped: Any, *rest: Any) -> Any:
        if len(popped) >= FEWEST:
            act(point, len(popped), signal.SIGKILL)
        return start(connection, popped, *rest)

    clockjack.ledger.runs.start = die_first


def _before_statement(point: str, pattern: str) -> None:
    """Freeze in an open transaction, right before this statement is sent."""

    @event.listens_for(Engine, "before_cursor_execute")
    def executing(c: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool) -> None:
        if re.search(pattern, statement):
            act(point, 1, signal.SIGSTOP)


def _term_inside_event(point: str) -> None:
    """After SIGUSR1, SIGTERM comes while the main thread is inside an Event, whose lock is not reentrant."""
    armed: list[bool] = []
    signal.signal(signal.SIGUSR1, lambda *_: armed.append(True))

    def clear(self: Any) -> None:
        with self._cond:
            self._flag = False
            if armed and threading.current_thread() is threading.main_thread():
                act(point, 1, signal.SIGTERM)

    threading.Event.clear = clear  # type: ignore[method-assign]


def _time_claims(point: str) -> None:
    """Tell of every claim that claimed something: how many tasks, and how many µs the whole transaction took."""
    claim = clockjack.ledger.claim.claim

    def timed(*args: Any, **kwargs: Any) -> Any:
        begun = time.perf_counter()
        done = claim(*args, **kwargs)
        if done.tasks:
            os.write(1, f"claim {done.tasks} {(time.perf_counter() - begun) * 1e6:.0f}\n".encode())
        return done

    clockjack.ledger.claim.claim = timed


def _die_everywhere(point: str) -> None:
    """Die at every place of start, work and finish in turn: one a life."""
    from tests.prove import deaths

    deaths.install(lambda: _life[0], act)


POINTS: dict[str, Callable[[str], None]] = {
    "kill-after-claim": _kill_after_claim,
    "kill-before-start": _before_start,
    "stop-after-select": lambda point: _after_statement(
        point, r"(?s)FROM tasks FORCE INDEX \(PRIMARY\).* FOR UPDATE SKIP LOCKED"
    ),
    "stop-after-insert": lambda point: _after_statement(point, r"^INSERT INTO runs"),
    "stop-before-commit": lambda point: _before_commit(
        point, r"^\s*UPDATE runs FORCE INDEX \(PRIMARY\) SET state = 'running'"
    ),
    # a handler has succeeded and nothing of its outcome is written
    "stop-before-finish": lambda point: _before_statement(
        point, r"(?s)^SELECT id, attempt FROM runs .*run_token.* FOR UPDATE|SET state = 'succeeded'"
    ),
    # a handler's rows and its run's success wait for their COMMIT
    "stop-before-success": lambda point: _after_statement(point, r"^UPDATE `\w+`\.runs .*SET state = 'succeeded'"),
    "term-inside-event": _term_inside_event,
    "time-claims": _time_claims,
    "die-everywhere": _die_everywhere,
}


def main(kind: str, point: str, lives: int = 0) -> int:
    """Run the real process with the failpoint set; the exit code."""
    if kind == "dispatcher":
        from dispatcher.__main__ import main as run
    else:
        from consumers.__main__ import main as run
    POINTS[point](point)
    for _life[0] in range(lives):
        if child := os.fork():  # nothing but this thread exists here
            os.waitpid(child, 0)
        else:
            if sys.platform == "linux":
                ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
            return run()
    return 0 if lives else run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])))
