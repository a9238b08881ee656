"""What the producer tells Redis and hears from it, on a thread of its own: nobody waits for Redis to get an answer.

A lost nudge costs at most one poll of a dispatcher, so nothing is kept for later while Redis is away.
"""

import logging
import threading
import time
from collections import deque

from clockjack.queues import Queues, RedisError
from clockjack.registration import REDIS_AWAY, unserved

log = logging.getLogger("producer")


class Notices:
    """Wakes dispatchers and knows which queues and handlers are served, as of the last seconds."""

    EVERY_S = 2.0
    FRESH_S = 0.2
    AWAY_S = 0.5
    LOG_EVERY_S = 10.0

    def __init__(self, queues: Queues) -> None:
        self._queues = queues
        self._served: dict[str, set[str]] = {}
        self._looked_s = float("-inf")
        self._well = True
        self._logged_s = float("-inf")
        self._asking = threading.Lock()
        self._wanted: deque[str] = deque(maxlen=100)
        self._woken = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="notices", daemon=True)

    def start(self) -> None:
        """The thread runs."""
        self._thread.start()

    def stop(self) -> None:
        """The thread has sent what it was asked to, or was given up after a second."""
        self._stopping = True
        self._woken.set()
        self._thread.join(1.0)

    def nudge(self, what: str = "claim") -> None:
        """A dispatcher will look at once; returns immediately."""
        self._wanted.append(what)
        self._woken.set()

    def warnings(self, queue: str, handler: str) -> list[str]:
        """What somebody who registers a task for this queue and handler should know."""
        found = unserved(self._served, queue, handler)
        # a consumer may just have come; while Redis is away only the thread finds out whether it is back
        if found and self._well and self._look(self.FRESH_S):
            found = unserved(self._served, queue, handler)
        return found if self._well else [REDIS_AWAY]

    def step(self) -> None:
        """Dispatchers are nudged as asked, and what is served is known anew."""
        wanted = {self._wanted.popleft() for _ in range(len(self._wanted))}
        try:
            for what in wanted:
                self._queues.nudge(what)
        except RedisError as error:
            self._failed(error)
            return
        self._look(self.EVERY_S if self._well else 0.0)

    def _loop(self) -> None:
        while not self._stopping:
            self._woken.clear()
            try:
                self.step()
            except Exception as error:
                self._failed(error)
            if not self._well:
                time.sleep(self.AWAY_S)  # nudges meanwhile are for nobody
            elif not self._wanted:
                self._woken.wait(self.EVERY_S)

    def _look(self, older_s: float) -> bool:
        """True when what is served was read now, because the last look was older than this."""
        if not self._asking.acquire(blocking=False):  # one waits for Redis, the others go on with what is known
            return False
        try:
            if time.monotonic() - self._looked_s < older_s:
                return False
            self._served = self._queues.served()
        except RedisError as error:
            self._failed(error)
            return False
        finally:
            self._asking.release()
        self._looked_s = time.monotonic()
        self._well = True
        return True

    def _failed(self, error: Exception) -> None:
        now = time.monotonic()
        self._well = False
        if now - self._logged_s > self.LOG_EVERY_S:
            self._logged_s = now
            log.warning("Redis cannot be used", extra={"action": "redis_away", "kind": type(error).__name__})
