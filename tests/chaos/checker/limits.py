"""Which lateness a fault excuses, and which runs it may have touched.

Excused is what is due while MySQL is away, or no dispatcher or no consumer works: until 10 s after that. A fault of one
dispatcher, one consumer, one edge or of Redis excuses nothing. A fault says otherwise by `exempt`.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tests.chaos.checker.files import Fault, Files

LOOKAHEAD_S = 5  # so early a dispatcher claims
LOST_S = 30  # so long after its start an attempt that is lost was tried again: lease 20 s, look 1 s, push 4 s
PROCESSES = {"dispatcher": 3, "consumer": 3}
MENDED = ("kill_threads",)  # what happens to sessions only, and is to be borne


class Window(NamedTuple):
    """A span of time, both ends included."""

    from_us: int
    until_us: int


class Limits(NamedTuple):
    """The windows of one run: what is excused, what touches consumers, and the promise in µs."""

    late_us: int
    excused: list[Window]
    touching: list[Window]

    def deadline(self, base_us: int) -> int:
        """The latest moment at which what is due at `base_us` may start."""
        limit = base_us + self.late_us
        for window in self.excused:
            if window.from_us <= limit and window.until_us + self.late_us > limit:
                limit = window.until_us + self.late_us
        return limit

    def begins(self, base_us: int) -> int:
        """From when on the promise counts: from due, or from the end of what excuses it."""
        return self.deadline(base_us) - self.late_us

    def strained(self, low_us: int, high_us: int) -> bool:
        """Whether an excused window, or the time right after it, reaches into this span."""
        return any(w.from_us <= high_us and w.until_us + self.late_us >= low_us for w in self.excused)

    def touched(self, low_us: int, high_us: int) -> bool:
        """Whether something that may end a consumer's lease happened in this span."""
        return any(w.from_us <= high_us and w.until_us >= low_us for w in self.touching)


def limits(files: Files) -> Limits:
    """The limits that the fault log gives."""
    late_us = int((files.run.get("limits") or {}).get("late_ms", 10_000)) * 1000
    processes = PROCESSES | (files.run.get("processes") or {})
    harmful = [fault for fault in files.faults if not harmless(fault)]
    excused = [window(f) for f in harmful if f.exempt or (f.exempt is None and stops_mysql(f))]
    for stage in ("dispatcher", "consumer"):
        excused += all_away([f for f in harmful if f.exempt is None], stage, int(processes[stage]))
    touching = [window(f) for f in harmful if touches(f)]
    return Limits(late_us, joined(excused), joined(touching))


def stops_mysql(fault: Fault) -> bool:
    """Whether nobody can write to MySQL while it lasts."""
    return is_server(fault, "mysql") and fault.name not in MENDED


def touches(fault: Fault) -> bool:
    """Whether a consumer may lose what it has in hand: its own death or edges, a handler's crash, MySQL away."""
    own = "consumer" in fault.target or "handler" in fault.target
    return own or is_server(fault, "mysql") or bool(fault.exempt)


def window(fault: Fault) -> Window:
    """The time of the fault."""
    return Window(fault.from_us, fault.until_us)


def harmless(fault: Fault) -> bool:
    """A process whose wall clock jumps is to be on time all the same."""
    return "clock" in fault.name and not is_server(fault, "mysql")


def is_server(fault: Fault, server: str) -> bool:
    """Whether the fault is the server's own, not that of an edge to it."""
    return server in fault.target and not is_edge(fault)


def is_edge(fault: Fault) -> bool:
    """Whether the target is an edge (`edge consumer.2>mysql`)."""
    return ">" in fault.target


def all_away(faults: Sequence[Fault], stage: str, count: int) -> list[Window]:
    """The spans in which all `count` processes of the stage were faulty at once, by themselves or cut from MySQL."""
    spans: dict[int, list[Window]] = {number: [] for number in range(1, count + 1)}
    for fault in faults:
        source, _, server = fault.target.removeprefix("edge ").partition(">")
        if server and "mysql" not in server:
            continue
        numbers = [int(n) for n in re.findall(rf"\b{stage}\.(\d+)", source)]
        if not numbers and re.search(rf"\b{stage}", source):
            numbers = list(spans)
        for number in numbers:
            spans.setdefault(number, []).append(window(fault))
    common = joined(spans.pop(1))
    for others in spans.values():
        common = [
            Window(max(a.from_us, b.from_us), min(a.until_us, b.until_us)) for a in common for b in joined(others)
        ]
        common = [span for span in common if span.from_us <= span.until_us]
    return common


def joined(windows: Iterable[Window]) -> list[Window]:
    """The same time as windows that do not touch one another, in order."""
    found: list[Window] = []
    for one in sorted(windows):
        if found and one.from_us <= found[-1].until_us:
            found[-1] = Window(found[-1].from_us, max(found[-1].until_us, one.until_us))
        else:
            found.append(one)
    return found
