"""One request is one change, also when two requests carry one key or the connection dies during COMMIT.

The Idempotency-Key's row is written in the change's own transaction: either both are there or neither is. It is written
first and answered last, so that a second request meets the row's lock at once, and need not wait to be told so.
"""

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy.engine import Connection

from clockjack.ledger import arrival, batch, control, forecast, keys, reports, tasks
from clockjack.ledger.arrival import Arrival
from clockjack.ledger.database import DUPLICATE, Database, Unavailable, UnknownCommit, code

T = TypeVar("T")
ROUNDS = 4
LOCKED = {1205, 3572}  # what NOWAIT raises: MariaDB, MySQL


class KeyReused(Exception):
    """The Idempotency-Key stands for another request."""


class InFlight(Exception):
    """A request with this Idempotency-Key is at work: ask again in a moment."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """An Idempotency-Key of a namespace and the hash of the request that it came with."""

    namespace: str
    key: str
    request_hash: bytes


@dataclass(frozen=True, slots=True)
class Change:
    """What a transaction did: the answer to it, and how to see later whether it became true (None: do it again)."""

    status: int
    answer: str
    seen: Callable[[Connection], bool] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a request; `replayed` when it was given before."""

    status: int
    answer: str
    replayed: bool = False


def once(database: Database, work: Callable[[Connection], Change], ticket: Ticket | None = None) -> Answer:
    """`work` was committed exactly once for this ticket, and its answer is returned.

    Without a ticket a lost COMMIT is looked up by `Change.seen`; `work` that cannot be seen must bear being repeated.
    Raises KeyReused, InFlight, Unavailable, and what `work` raises.
    """

    for round_ in range(1, ROUNDS + 1):
        last: list[Change] = []

        def body(connection: Connection, last: list[Change] = last) -> Answer:
            if ticket and (before := given(connection, ticket)):
                return before
            reserved = ticket and keys.reserve(connection, ticket.namespace, ticket.key, ticket.request_hash)
            change = work(connection)
            if reserved:
                keys.store_answer(connection, reserved, change.status, change.answer)
            last[:] = [change]
            return Answer(change.status, change.answer)

        try:
            return database.transaction(body)
        except UnknownCommit:
            if last and (seen := last[0].seen) and database.transaction(seen):
                return Answer(last[0].status, last[0].answer)
        except Exception as error:
            # somebody else's request with this key, or with this task_key, was faster: the next round finds it
            if code(error) != DUPLICATE or round_ == ROUNDS:
                raise
    raise Unavailable("the database went away during COMMIT too often")


def register(
    database: Database,
    namespace: str,
    values: dict[str, Any],
    *,
    actor: str,
    write: Callable[[dict[str, Any], list[str]], str],
    ticket: Ticket | None = None,
    meant: tasks.Meant = None,
) -> Answer:
    """The task is registered: 201 when it is new, 200 when its task_key was known.

    `write` words the answer, from the task's row and what is to be said of its second if that is crowded.
    VersionConflict if it is not `meant` for the version of the task that has its task_key.
    """

    def work(connection: Connection, there: Arrival) -> Change:
        made = batch.register_one(connection, namespace, values, actor=actor, now=there.now, meant=meant)
        crowd = there.crowd + 1 if made.created and there.crowd is not None else None
        text = write(made.task, forecast.crowding(connection, made.task, crowd))
        if not made.changed:
            return Change(200, text)  # done again it changes nothing, too
        if not made.created:
            mark = tasks.last_event(connection, made.task["id"])
            return Change(200, text, lambda c: tasks.has_event(c, mark))

        def seen(connection: Connection) -> bool:
            row = tasks.get(connection, namespace, made.task["id"])
            return row is not None and row["created_at"] == made.task["created_at"]

        return Change(201, text, seen)

    return arriving(database, work, ticket, batch.plain(values))


def arriving(
    database: Database,
    work: Callable[[Connection, Arrival], Change],
    ticket: Ticket | None,
    due: datetime | None = None,
) -> Answer:
    """`once` for a registration, of something due then: `work` is told what was there when it came."""
    return once(database, lambda connection: work(connection, arrival.look(connection, due)), ticket)


def run_now(
    database: Database,
    namespace: str,
    task_ids: Sequence[int],
    *,
    actor: str,
    write: Callable[[list[dict[str, Any]]], str],
    ticket: Ticket | None = None,
) -> Answer:
    """One more run of each task is due now, or none of any: KeyError for an unknown task, StateConflict."""

    def work(connection: Connection) -> Change:
        made = control.run_now(connection, namespace, task_ids, actor=actor)
        runs = [reports.get_run(connection, namespace, run["id"]) for run in made]

        def seen(connection: Connection) -> bool:
            there = reports.get_run(connection, namespace, made[0]["id"])
            return there is not None and all(there[n] == made[0][n] for n in ("task_id", "due_at"))

        return Change(202, write([run for run in runs if run]), seen)

    return once(database, work, ticket)


def change_one(
    database: Database,
    change: Callable[[Connection], dict[str, Any] | None],
    *,
    write: Callable[[dict[str, Any]], str],
    ticket: Ticket | None = None,
) -> Answer:
    """`change` was made to one task, and `write` words the answer; KeyError where it finds no task."""

    def work(connection: Connection) -> Change:
        row = change(connection)
        if row is None:
            raise KeyError("there is no such task")
        mark = tasks.last_event(connection, row["id"])
        return Change(200, write(row), lambda c: tasks.has_event(c, mark))

    return once(database, work, ticket)


def read(database: Database, body: Callable[[Connection], T]) -> T:
    """What `body` reads, read again when the connection dies at the end of the transaction."""
    try:
        return database.transaction(body)
    except UnknownCommit:
        return database.transaction(body)


def given(connection: Connection, ticket: Ticket) -> Answer | None:
    """The answer that was given to this ticket, or None.

    Raises KeyReused when it stands for another request, InFlight when the request that it came with is at work. Two
    that find nothing at the same instant meet at the INSERT: one waits for the other there, 2 s at most.
    """
    try:
        found = keys.find_answer(connection, ticket.namespace, ticket.key, nowait=True)
    except Exception as error:
        if code(error) not in LOCKED:
            raise
        found = keys.find_answer(connection, ticket.namespace, ticket.key)  # another copy may just be reading it
        if found is None:
            raise InFlight(ticket.key) from None
    if found is None:
        return None
    if not hmac.compare_digest(bytes(found["request_hash"]), ticket.request_hash):
        raise KeyReused(ticket.key)
    return Answer(found["status"], found["answer"], replayed=True)
