"""The one clock: the database's."""

import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta

log = logging.getLogger("clockjack.ledger")


class Unavailable(Exception):
    """The database cannot be reached or refuses work at the moment; nothing was changed."""


class Clock:
    """The database's time, carried forward on the monotonic clock: at most behind the database, never ahead.

    A reading is taken after its reply arrived, so it can only be old. The newest second's best reading counts.
    """

    JUMP_S = 0.5

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._epoch: datetime | None = None
        self._taken = 0.0
        self.jumps = 0

    def observe(self, reading: datetime) -> datetime:
        """`reading` (UTC_TIMESTAMP(6), just received) is taken into account; returns it."""
        taken = self._monotonic()
        epoch = reading - timedelta(seconds=taken)
        if self._epoch is None or epoch > self._epoch or taken - self._taken > 1.0:
            if self._epoch is not None and abs((epoch - self._epoch).total_seconds()) > self.JUMP_S:
                self.jumps += 1
                log.warning("the database's clock jumped", extra={"action": "clock_jump"})
            self._epoch, self._taken = epoch, taken
        return reading

    @property
    def known(self) -> bool:
        """False until the first reading."""
        return self._epoch is not None

    def now(self) -> datetime:
        """UTC, naive, as the columns hold it."""
        if self._epoch is None:
            raise Unavailable("the database's time is not known yet")
        return self._epoch + timedelta(seconds=self._monotonic())

    def now_us(self) -> int:
        """Microseconds since 1970 in UTC."""
        return to_us(self.now())


EPOCH = datetime(1970, 1, 1)


def to_us(moment: datetime) -> int:
    """Microseconds since 1970 of a naive UTC datetime, exact."""
    delta = moment - EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def from_us(us: int) -> datetime:
    """The naive UTC datetime of microseconds since 1970, exact."""
    return EPOCH + timedelta(microseconds=us)
