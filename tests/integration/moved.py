"""A ledger whose sessions live at the moment that a test sets."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import event

from clockjack.ledger.database import Database
from tests.integration.life import owner


class Moved:
    """From now on the sessions of this database live at the moment `now` (naive UTC), which does not pass by itself."""

    def __init__(self, database: Database, now: datetime) -> None:
        self.now = now
        for one in {database, owner(database)}:
            event.listen(one._engine, "checkout", self._set)

    def _set(self, dbapi: Any, record: Any, proxy: Any) -> None:
        with dbapi.cursor() as cursor:
            cursor.execute(f"SET SESSION timestamp = {self.now.replace(tzinfo=UTC).timestamp():.6f}")
        dbapi.rollback()
