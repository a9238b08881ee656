"""How registrations are timed, Clockjack's and the Python peers' alike. Standard library only, as the peers import it.

A program that is timed reads lines `concurrency seconds` and answers each with a line of JSON: how many tasks it
registered in which time, how many before that, to warm up, and how long each call took. Moments are spread over an
hour that begins in an hour, for all alike.
"""

import json
import sys
import threading
import time
from collections.abc import Callable

AHEAD_US, SPREAD_US = 3_600_000_000, 3_600_000_000
STEP_US = 7_919_000  # the next one is due so much later, by the hour: no second is crowded
Caller = Callable[[int], None]


class Dues:
    """Moments, one after the other, for any thread."""

    def __init__(self) -> None:
        self._next, self._base_us = 0, time.time_ns() // 1000 + AHEAD_US

    def more(self, number: int) -> list[tuple[int, int]]:
        """So many, each with a number of its own."""
        first = self._next
        self._next += number
        return [(n, self._base_us + n * STEP_US % SPREAD_US) for n in range(first, first + number)]


def told(tasks: int, seconds: float, calls_us: list[int], warm: int) -> None:
    """The line was written."""
    print(json.dumps({"tasks": tasks, "seconds": seconds, "us": calls_us, "warm": warm}), flush=True)


def asked() -> "list[tuple[int, float]]":
    """What the next line asks for; nothing at the end."""
    line = sys.stdin.readline().split()
    return [(int(line[0]), float(line[1]))] if line else []


def serve(connect: Callable[[], Caller], size: int, *, warm: bool = True) -> None:
    """Each line is answered: so many threads, each with a caller of its own, which registers `size` tasks a call."""
    callers: list[Caller] = []
    while line := asked():
        concurrency, seconds = line[0]
        callers += [connect() for _ in range(concurrency - len(callers))]
        chosen = callers[:concurrency]
        for call in chosen if warm else ():
            call(size)
        us: list[int] = []
        start = threading.Barrier(concurrency + 1)

        def work(call: Caller, us: list[int] = us, start: threading.Barrier = start, seconds: float = seconds) -> None:
            start.wait()
            own, until = [], time.perf_counter() + seconds
            while time.perf_counter() < until:
                begun = time.perf_counter_ns()
                call(size)
                own.append((time.perf_counter_ns() - begun) // 1000)
            us += own

        threads = [threading.Thread(target=work, args=(call,)) for call in chosen]
        for thread in threads:
            thread.start()
        start.wait()
        begun = time.perf_counter()
        for thread in threads:
            thread.join()
        told(len(us) * size, time.perf_counter() - begun, us, size * concurrency if warm else 0)
