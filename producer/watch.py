"""Looks at the database every few seconds: is it fit, what time is it, since when does the oldest due thing wait."""

import logging
import threading
import time

from clockjack import telemetry
from clockjack.ledger import reports, server
from clockjack.ledger.database import Database, LoginRefused, Unavailable, UnknownCommit

log = logging.getLogger("producer")


class Watch:
    """Keeps the gauges of this process; `unfit` is what the server must be given before work goes on, or None."""

    EVERY_S = 5.0
    AWAY_S = 1.0

    def __init__(self, database: Database, *, unsafe_server: bool) -> None:
        self._database = database
        self._unsafe_server = unsafe_server
        self._checked = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="watch", daemon=True)
        self._away_until_s = float("-inf")
        self.unfit: str | None = None

    def lost(self) -> None:
        """For a second nobody waits for the database: a frozen one would hold every thread for its time-outs."""
        self._away_until_s = time.monotonic() + self.AWAY_S

    @property
    def away(self) -> bool:
        """True when the database was found away just now."""
        return time.monotonic() < self._away_until_s

    def require(self) -> None:
        """The server is fit, or away and asked later; Unfit and LoginRefused say what is wrong with it."""
        try:
            self.check()
        except LoginRefused:
            raise
        except (Unavailable, UnknownCommit):
            log.warning("the database is away; requests are answered with 503", extra={"action": "database_away"})

    def start(self) -> None:
        """The thread runs."""
        self._thread.start()

    def stop(self) -> None:
        """The thread has ended, or was given up after a second."""
        self._stopping.set()
        self._thread.join(1.0)

    def check(self) -> None:
        """The server was found fit, once; raises Unfit or Unavailable."""
        for warning in server.require(self._database, unsafe_server=self._unsafe_server):
            log.warning(warning, extra={"action": "server_setting"})
        self._checked, self.unfit = True, None

    def step(self) -> None:
        """The gauges and the clock are as of now."""
        if not self._checked:
            self.check()
        self._database.now()
        health = self._database.transaction(reports.health)
        telemetry.OLDEST_DUE.set(health["oldest_due_age_s"])
        telemetry.CLOCK_JUMPS.set(self._database.clock.jumps)
        telemetry.ticked("producer")

    def _loop(self) -> None:
        while not self._stopping.is_set():
            try:
                self.step()
            except server.Unfit as error:
                if self.unfit is None:
                    log.error("the database is unfit", extra={"action": "server_unfit", "reason": str(error)})
                self.unfit = str(error)
            except Exception as error:
                telemetry.ERRORS.labels("watch", type(error).__name__).inc()
            self._stopping.wait(self.EVERY_S)
