"""Queues as the API and the command line show and switch them: the ledger's counts with the consumers of Redis."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints

from clockjack.documents import compact, plain
from clockjack.ledger import acceptance
from clockjack.ledger import queues as ledger
from clockjack.ledger.acceptance import Answer, Change, Ticket
from clockjack.ledger.database import Connection, Database
from clockjack.queues import Queues, RedisError
from clockjack.registration import Words

Consumers = dict[str, int] | None  # how many serve each queue; None: Redis cannot be asked
CHANGES = {"pause": ledger.pause, "resume": ledger.resume}


class Named(BaseModel):
    """A queue's name: plain SQL may have given it one that the API would not."""

    model_config = ConfigDict(strict=True)
    queue: Annotated[Words, StringConstraints(max_length=64)]


def consumers(queues: Queues) -> Consumers:
    """How many consumers serve each queue at the moment."""
    try:
        names = [one["queue"] for one in queues.consumers().values()]
    except RedisError:
        return None
    return {name: names.count(name) for name in names}


def listed(database: Database, queues: Queues) -> dict[str, Any]:
    """All queues that are paused, hold something or are served, and whether there is more than was counted."""
    served = consumers(queues)
    found, truncated = acceptance.read(database, ledger.list_queues)
    names = sorted({*found, *(served or ())})
    return {"items": [_document(name, found, served) for name in names], "truncated": truncated}


def switch(
    database: Database, queues: Queues, action: str, queue: str, *, actor: str, ticket: Ticket | None = None
) -> Answer:
    """The queue is paused or resumed, as `action` says; the answer has how it stands."""
    served = consumers(queues)

    def work(connection: Connection) -> Change:
        CHANGES[action](connection, queue, actor=actor)
        found, _ = ledger.list_queues(connection)
        return Change(200, compact(_document(queue, found, served)))

    return acceptance.once(database, work, ticket)


def _document(name: str, found: dict[str, dict[str, Any]], served: Consumers) -> dict[str, Any]:
    row = plain(found.get(name, ledger.NOTHING))
    return {"queue": name, **row, "consumers": None if served is None else served.get(name, 0)}
