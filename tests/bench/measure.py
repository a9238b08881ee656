"""What is measured: how late runs started, by the lines that handlers wrote, and what processes cost, by /proc."""

import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

TICKS = os.sysconf("SC_CLK_TCK")


class Lateness(NamedTuple):
    """Milliseconds from due to the handler's entry."""

    p50: float
    p99: float
    p999: float
    max: float


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that `share` of the ordered values do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def lateness(late_us: Iterable[float]) -> Lateness:
    """The figures of these latenesses (µs)."""
    ms = sorted(us / 1000 for us in late_us)
    return Lateness(*(round(percentile(ms, share), 2) for share in (0.5, 0.99, 0.999, 1.0)))


class Lines:
    """How many whole lines a growing file has; cheap to ask, so that asking does not disturb what is measured."""

    def __init__(self, path: Path) -> None:
        self.path, self.number, self._read = path, 0, 0

    def more(self) -> int:
        """The number by now."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self._read)
                data = file.read()
        except FileNotFoundError:
            return 0
        self._read += len(data)
        self.number += data.count(b"\n")
        return self.number

    def reach(self, number: int, timeout_s: float) -> bool:
        """Whether there were so many before the time was over."""
        deadline = time.monotonic() + timeout_s
        while self.more() < number:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.25)
        return True


def cpu_s(pid: int) -> float:
    """The processor time that the process has used, its threads' included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_mb(pid: int) -> float:
    """The memory of the process that is in RAM."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


class Meter:
    """The processor time of named processes from its making on."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self.pids = dict(pids)
        self._begun_s = time.monotonic()
        self._before = {name: cpu_s(pid) for name, pid in self.pids.items()}

    def spent_s(self) -> dict[str, float]:
        """Seconds of one core, by name."""
        return {name: cpu_s(pid) - self._before[name] for name, pid in self.pids.items()}

    def percent(self) -> dict[str, float]:
        """Percent of one core, by name."""
        spent_s = time.monotonic() - self._begun_s
        return {name: round(100 * s / spent_s, 2) for name, s in self.spent_s().items()}

    def us_per_run(self, runs: int) -> dict[str, float]:
        """Microseconds of one core for each of so many runs, by name."""
        return {name: round(s / runs * 1e6, 1) for name, s in self.spent_s().items()}
