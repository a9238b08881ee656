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
        self._lock = threading.Lock()

    def find(self, namespace: str, name: str) -> endpoints.Opened | None:
        """The endpoint as it was at most a second ago, longer while MySQL is away. StateConflict: no key opens it."""
        with self._lock:
            found, read_s = self._known.get((namespace, name), (None, float("-inf")))
            age_s = time.monotonic() - read_s
            if age_s < TRUSTED_S:
                return found
            try:
                row = acceptance.read(self._ledger(), lambda c: ledger.get(c, namespace, name))
            except (Unavailable, UnknownCommit):
                if age_s < STALE_S:
                    return found
                raise
            found = None if row is None else endpoints.opened(row, self._seal)
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[namespace, name] = found, time.monotonic()
            return found

    def gone(self, namespace: str, endpoint: endpoints.Opened) -> None:
        """The endpoint is disabled, because its receiver says that it is gone; somebody is told."""
        with self._lock:
            try:
                ours = self._ledger().transaction(
                    lambda c: ledger.disable(c, endpoint.id, endpoint.version, "its receiver answered 410 Gone")
                )
            except UnknownCommit:
                ours = True
            self._known.pop((namespace, endpoint.name), None)
        if ours:
            telemetry.ENDPOINTS_DISABLED.inc()
            fields = {"action": "endpoint_disabled", "namespace": namespace, "endpoint": endpoint.name}
            log.error("an endpoint is gone, and disabled now", extra=fields)

    def _ledger(self) -> Database:
        if self._database is None:
            self._database = Database(self._settings.database_url, size=1)
        return self._database
