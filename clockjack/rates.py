"""How fast an API key may ask, counted for all producers by one script in Redis, one round trip a request.

A bucket that leaks (GCRA): `burst` requests at once, and `per_second` on average. Whoever cannot be counted is let in:
a limit guards the servers from a client, and Redis being away must not cost a registration.
"""

import math
import time
from dataclasses import dataclass
from importlib.resources import files

from clockjack import telemetry
from clockjack.queues import RedisError, connect

WAIT_S, AGAIN_S = 0.1, 1.0


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests a second on average, and so many at once."""

    per_second: float
    burst: int

    @property
    def each_us(self) -> int:
        """After so long one more is free."""
        return math.ceil(1_000_000 / self.per_second)


@dataclass(frozen=True, slots=True)
class Judged:
    """Whether a request may be answered, and what is left of the limit after it."""

    allowed: bool
    left: int
    next_us: int
    whole_us: int

    def headers(self, rate: Rate) -> dict[str, str]:
        """RateLimit and RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers-10), Retry-After where it is refused."""
        window_s, whole_s = math.ceil(rate.burst / rate.per_second), math.ceil(self.whole_us / 1e6)
        found = {
            "RateLimit-Policy": f'"key";q={rate.burst};w={window_s}',
            "RateLimit": f'"key";r={self.left};t={whole_s}',
        }
        return found if self.allowed else found | {"Retry-After": str(max(1, math.ceil(self.next_us / 1e6)))}


class Rates:
    """Asks Redis, and for a second nobody where it did not answer within 0.1 s."""

    def __init__(self, url: str) -> None:
        self._redis = connect(url, timeout_s=WAIT_S)
        lua = files("clockjack") / "lua"
        self._judge = self._redis.register_script((lua / "typed.lua").read_text() + (lua / "rate.lua").read_text())
        self._away_until_s = float("-inf")

    def judge(self, key_prefix: str, rate: Rate, now_us: int) -> Judged | None:
        """What becomes of one more request of this key; None: it is not known, so it is let in."""
        if time.monotonic() < self._away_until_s:
            return None
        try:
            allowed, *rest = self._judge(args=[key_prefix, now_us, rate.each_us, rate.burst])
        except RedisError as error:
            self._away_until_s = time.monotonic() + AGAIN_S
            telemetry.ERRORS.labels("rate", type(error).__name__).inc()
            return None
        return Judged(bool(allowed), *rest)
