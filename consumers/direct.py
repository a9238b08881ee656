"""Runs of the queue that no message brings: while Redis is away, or when nobody pushes what is due."""

import logging
import time

from clockjack.ledger import direct
from clockjack.ledger.database import Database
from clockjack.ledger.direct import PATIENCE_S, POLL_S
from clockjack.ledger.runs import Popped
from clockjack.moments import FIRST
from clockjack.reach import Reach
from consumers.execution import Pool

log = logging.getLogger("clockjack.consumer")

AT_ONCE_S = 0.1


class Direct:
    """When MySQL is asked next, and where the walk through what is old stands."""

    def __init__(self, database: Database, reach: Reach, queue: str) -> None:
        self._database, self._reach, self._queue = database, reach, queue
        self._next_s = time.monotonic() + PATIENCE_S
        self._was_away = False
        self._since = FIRST
        self._tried: list[int] = []

    def found(self, pool: Pool, most: int, *, stopping: bool, idle: bool) -> list[Popped]:
        """Runs to start, as many as the pool has room for: each second without Redis; else each 3 s while `idle`.

        Idle is who has nothing in Redis. What the last poll found is left out once: a bad one must not stop the rest.
        """
        away = self._reach.away
        if away and not self._was_away:
            self._next_s = 0.0
        self._was_away = away
        if stopping or not (away or idle) or self._reach.suspended or time.monotonic() < self._next_s:
            return []
        if not (room := pool.room(most)[0]):
            return []
        self._next_s = time.monotonic() + (POLL_S if away else PATIENCE_S)
        try:
            popped, self._since = self._database.transaction(
                lambda c: direct.find(c, self._queue, room, self._since, self._tried, away=away)
            )
        except Exception as error:
            log.warning("MySQL could not be asked: %s", type(error).__name__, extra={"action": "direct"})
            return []
        if len(popped) == room:
            self._next_s = time.monotonic() + AT_ONCE_S
        self._tried = [p.run_id for p in popped]
        return popped
