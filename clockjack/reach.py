"""Whether Redis can be reached. While it cannot, nobody waits for it: calls fail at once, and MySQL serves instead."""

import logging
import time

log = logging.getLogger("clockjack.redis")

AWAY_S = 2.0
PROBE_S = 0.5


class Reach:
    """What the probes of one process found. Without probes, as in a producer, Redis is never taken to be away."""

    def __init__(self) -> None:
        self.suspended = False  # by `rq suspend`, as it was said last
        self._answered_s = time.monotonic()
        self._missed = self._told = False

    @property
    def away(self) -> bool:
        """The last probe failed, and there was no answer for 2 s."""
        return self._missed and time.monotonic() - self._answered_s > AWAY_S

    def answered(self, *, suspended: bool) -> None:
        """Redis answered a probe."""
        self.suspended, self._answered_s, self._missed = suspended, time.monotonic(), False
        if self._told:
            self._told = False
            log.warning("Redis answers again", extra={"action": "redis_back"})

    def missed(self, why: str) -> None:
        """A probe failed."""
        self._missed = True
        if self.away and not self._told:
            self._told = True
            log.warning("Redis cannot be reached (%s): working without it", why, extra={"action": "redis_away"})
