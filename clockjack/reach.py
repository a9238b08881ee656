"""Whether Redis can be reached. While it cannot, nobody waits for it: calls fail at once, and MySQL serves instead."""

import logging
import time
from typing import Any, cast

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

log = logging.getLogger("clockjack.redis")

AWAY_S = 2.0
PROBE_S = 1.0
TIMEOUT_S = 1.0


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


class Client(Redis):
    """Calls fail at once while Redis is away."""

    reach: Reach | None = None

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """The answer."""
        self._check()
        return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, *args: Any, **options: Any) -> Any:
        """Commands that are sent together."""
        self._check()
        return super().pipeline(*args, **options)

    def _check(self) -> None:
        if self.reach is not None and self.reach.away:
            raise RedisConnectionError("Redis is away")


def connect(url: str, *, timeout_s: float = TIMEOUT_S) -> Client:
    """A client whose calls end within `timeout_s` and are never sent twice behind our back."""
    client = Client.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=min(timeout_s, TIMEOUT_S),
        retry=Retry(NoBackoff(), 0),
        protocol=2,
    )
    return cast(Client, client)
