"""What ran, counted from the lines that the handlers wrote, against what was registered. No table is asked."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from deploy.demo.effects import Effects as Lines
from deploy.demo.effects import Entry

SETTLE_S = 1.0


class Effects(Lines):
    """The lines of an effects file, waited for."""

    @property
    def all(self) -> list[Entry]:
        """Every entry that was read so far."""
        return self.entries

    def read(self) -> "Effects":
        """Every whole line that is in the file now is known."""
        self.more()
        return self

    def wait(self, keys: Collection[str], timeout_s: float, every_s: float = 0.1) -> bool:
        """Whether all `keys` were entered before the time was over."""
        deadline = time.monotonic() + timeout_s
        while not self.read().by_key.keys() >= set(keys):
            if time.monotonic() > deadline:
                return False
            time.sleep(every_s)
        return True


@dataclass(frozen=True)
class Count:
    """How expected and actual executions compare; `late_s` is the lateness of the latest first start."""

    expected: int
    ran: int
    missing: int
    twice: int
    unknown: int
    early: int
    late_s: float

    @property
    def once_each(self) -> bool:
        """Each expected run was entered exactly once, none before its time, and nothing else was."""
        return not (self.missing or self.twice or self.unknown or self.early) and self.ran == self.expected

    def __str__(self) -> str:
        odd = f", {self.unknown} not registered" if self.unknown else ""
        return (
            f"{self.ran}/{self.expected} ran, missing {self.missing}, twice {self.twice}, early {self.early}{odd},"
            f" latest due + {self.late_s:.2f} s"
        )


def count(effects: Effects, expected: Mapping[str, int], entries: Mapping[str, int] | None = None) -> Count:
    """`expected` is due_us by run key; `entries` how often a run is to be entered, where that is not once."""
    by_key = effects.read().by_key
    ran = {key: found for key, found in by_key.items() if key in expected}
    late = [min(e.now_us for e in found) - expected[key] for key, found in ran.items()]
    return Count(
        expected=len(expected),
        ran=len(ran),
        missing=len(expected) - len(ran),
        twice=sum(len(found) > (entries or {}).get(key, 1) for key, found in ran.items()),
        unknown=len(by_key) - len(ran),
        early=sum(us < 0 for us in late),
        late_s=max(late, default=0) / 1e6,
    )


def settled(live: Callable[[], int], timeout_s: float) -> bool:
    """Whether no run was left to do before the time was over; what should not happen had a second more to happen."""
    deadline = time.monotonic() + timeout_s
    while live():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    time.sleep(SETTLE_S)
    return True
