"""The endpoints that this process called lately, each read again after a second: off is off within that time."""

import logging
import threading
import time

from clockjack import endpoints, telemetry
from clockjack.ledger import acceptance
from clockjack.ledger import endpoints as ledger
from clockjack.ledger.database import Database, Unavailable, UnknownCommit
from clockjack.settings import Settings

log = logging.getLogger("clockjack.consumer")

TRUSTED_S, STALE_S, MOST = 1.0, 60.0, 1_000


class Receivers:
    """Looks endpoints up by their names, on a connection of its own; handlers never wait for those of the engine."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._seal = settings, endpoints.seal_of(settings)
        self._database: Database | None = None
        self._known: dict[tuple[str, str], tuple[endpoints.Opened | None, float]] = {}
        self._reading: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def find(self, namespace: str, name: str) -> endpoints.Opened | None:
        """The endpoint as it was at most a second ago, or when it was read last while it is read again or MySQL is
        away. StateConflict: no key opens it.
        """
        key = (namespace, name)
        with self._lock:
            found, read_s = self._known.get(key, (None, float("-inf")))
            age_s = time.monotonic() - read_s
            if age_s < TRUSTED_S or (age_s < STALE_S and key in self._reading):
                return found
            self._reading.add(key)
        try:  # without the lock: who calls what is known does not wait for MySQL
            begun_s = time.monotonic()
            row = acceptance.read(self._ledger(), lambda c: ledger.get(c, namespace, name))
            found = None if row is None else endpoints.opened(row, self._seal)
        except (Unavailable, UnknownCommit):
            if age_s < STALE_S:
                return found
            raise
        finally:
            with self._lock:
                self._reading.discard(key)
        with self._lock:
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[key] = found, begun_s
        return found

    def gone(self, namespace: str, endpoint: endpoints.Opened) -> None:
        """The endpoint is disabled, because its receiver says that it is gone; somebody is told."""
        try:
            ours = self._ledger().transaction(
                lambda c: ledger.disable(c, endpoint.id, endpoint.version, "its receiver answered 410 Gone")
            )
        except UnknownCommit:
            ours = True
        with self._lock:
            self._known.pop((namespace, endpoint.name), None)
        if ours:
            telemetry.ENDPOINTS_DISABLED.inc()
            fields = {"action": "endpoint_disabled", "namespace": namespace, "endpoint": endpoint.name}
            log.error("an endpoint is gone, and disabled now", extra=fields)

    def _ledger(self) -> Database:
        with self._lock:
            if self._database is None:
                self._database = Database(self._settings.database_url, size=1)
            return self._database
