"""A database whose moment the test sets, and what the tests of policies do with it step by step.

Defaults of columns and events follow the moment too. Move it forwards, as time does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from clockjack.ledger import tasks
from clockjack.ledger.clock import Clock
from clockjack.ledger.database import Database
from dispatcher.loops import Dispatcher
from tests.integration.life import select
from tests.integration.moved import Moved


class Later(Database):
    """A database at the moment `at` (naive UTC), which `to` and `on` change."""

    def __init__(self, url: str, at: datetime, size: int = 4) -> None:
        super().__init__(url, size=size)
        self.moment = Moved(self, at)
        self.to(at)

    @property
    def at(self) -> datetime:
        """The moment."""
        return self.moment.now

    def to(self, at: datetime) -> datetime:
        """It is `at` for every transaction from now on."""
        self.moment.now, self.clock = at, Clock()
        assert self.now() == at
        return at

    def on(self, seconds: float) -> datetime:
        """It is so many seconds later."""
        return self.to(self.at + timedelta(seconds=seconds))


@contextmanager
def moved(url: str, at: datetime) -> Iterator[Later]:
    """A moved database, closed in the end."""
    database = Later(url, at)
    try:
        yield database
    finally:
        database.close()


def story(database: Database, task_id: int) -> list[tuple[str, datetime, datetime | None]]:
    """The task's runs by due time: what became of each (its reason, if it has one), due_at, skipped_until."""
    found = select(database, "SELECT * FROM runs WHERE task_id = :i ORDER BY due_at", i=task_id)
    return [(r["reason"] or r["state"], r["due_at"], r["skipped_until"]) for r in found]


def trail(database: Database, task_id: int) -> list[tuple[str, str, int]]:
    """The task's events: actor, action, version."""
    found = select(database, "SELECT actor, action, version FROM task_events WHERE task_id = :i ORDER BY id", i=task_id)
    return [(r["actor"], r["action"], r["version"]) for r in found]


def new(database: Database, **fields: Any) -> int:
    """A task registered as by HTTP, now; returns its id."""
    values = {"handler": "mock", "queue": "default", "payload": "null", "timeout_s": 60, "max_failures": 1}
    values |= {"backoff_s": 0, "backoff_max_s": 0} | fields
    made = database.transaction(lambda c: tasks.register(c, "default", values, actor="test"))
    return int(made.task["id"])


def settle(dispatcher: Dispatcher, most: int = 40) -> int:
    """The dispatcher claims until nothing is due; returns how many claims that took."""
    due = "SELECT COUNT(*) AS n FROM tasks WHERE next_run_at <= UTC_TIMESTAMP(6) + INTERVAL 5 SECOND"
    for claims in range(most):
        if not select(dispatcher.database, due)[0]["n"]:
            return claims
        dispatcher.claim_step()
    raise AssertionError("the claim does not settle")
