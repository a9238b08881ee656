"""The one clock: the database's."""

import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta

log = logging.getLogger("clockjack.ledger")


class Unavailable(Exception):
    """The database cannot be reached or refuses work at the moment; nothing was changed."""


class LoginRefused(Unavailable):
    """The database can be reached, and lets nobody in with this user, password and name: somebody must mend that."""


class Clock:
    """The database's time, carried forward on the monotonic clock: at most behind the database, never ahead.

    A reading is taken after its reply arrived, so it can only be old. The newest second's best reading counts.
    """

    JUMP_S = 0.5

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._epoch_us: int | None = None
        self._taken = 0.0
        self.jumps = 0

    def observe(self, reading: datetime) -> datetime:
        """`reading` (UTC_TIMESTAMP(6), just received) is taken into account; returns it."""
        taken = self._monotonic()
        epoch_us = to_us(reading) - int(taken * 1e6)
        if self._epoch_us is None or epoch_us > self._epoch_us or taken - self._taken > 1.0:
            if self._epoch_us is not None and abs(epoch_us - self._epoch_us) > self.JUMP_S * 1e6:
                self.jumps += 1
                log.warning("the database's clock jumped", extra={"action": "clock_jump"})
            self._epoch_us, self._taken = epoch_us, taken
        return reading

    @property
    def known(self) -> bool:
        """False until the first reading."""
        return self._epoch_us is not None

    def now(self) -> datetime:
        """UTC, naive, as the columns hold it."""
        return from_us(self.now_us())

    def now_us(self) -> int:
        """Microseconds since 1970 in UTC."""
        if self._epoch_us is None:
            raise Unavailable("the database's time is not known yet")
        return self._epoch_us + int(self._monotonic() * 1e6)


EPOCH = datetime(1970, 1, 1)


def to_us(moment: datetime) -> int:
    """Microseconds since 1970 of a naive UTC datetime, exact."""
    delta = moment - EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def from_us(us: int) -> datetime:
    """The naive UTC datetime of microseconds since 1970, exact."""
    return EPOCH + timedelta(microseconds=us)
