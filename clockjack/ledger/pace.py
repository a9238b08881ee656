"""How fast a queue is given overdue work: catching up must not delay what is on time.

Each dispatcher gives each queue so many overdue runs a second: few at first, twice as many each time while nobody waits
in that queue, and a quarter when somebody waits. So what is on time waits behind about a second's work at the most.
"""

from collections.abc import Mapping
from dataclasses import dataclass

FIRST_PER_S, MOST_PER_S = 100, 20_000
CALM_S = 0.25


@dataclass(slots=True)
class _Queue:
    per_s: int = FIRST_PER_S
    left: int = FIRST_PER_S
    since_s: float = 0.0


class Pace:
    """The allowance of each queue. `now_s` is monotonic."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}

    def exhausted(self, ages: Mapping[str, float], now_s: float) -> list[str]:
        """The queues that get nothing at the moment. Allowances of a second that is over are renewed."""
        for name, queue in list(self._queues.items()):
            if now_s - queue.since_s < 1.0:
                continue
            waits_s = ages.get(name, 0.0)
            if waits_s > CALM_S:
                queue.per_s, queue.left, queue.since_s = max(1, queue.per_s // 4), 0, now_s
            elif queue.left:  # it did not need what it was given
                del self._queues[name]
            else:
                per_s = min(MOST_PER_S, 2 * queue.per_s)
                self._queues[name] = _Queue(per_s, per_s, now_s)
        return sorted(name for name, queue in self._queues.items() if not queue.left)

    def take(self, name: str, now_s: float) -> bool:
        """Whether the queue may have one more overdue run now."""
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = _Queue(since_s=now_s)
        if not queue.left:
            return False
        queue.left -= 1
        return True
