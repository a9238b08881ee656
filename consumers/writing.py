"""What a step writes, in one transaction: the starts first, then the outcomes. Whatever fails in it fails alone."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from clockjack.ledger import direct, runs
from clockjack.ledger.database import Connection, Database, Unavailable, UnknownCommit, is_lost
from clockjack.ledger.finish import Finished, Outcome, finish
from clockjack.ledger.runs import Popped, Started

log = logging.getLogger("clockjack.consumer")
T = TypeVar("T")


def write(
    database: Database, popped: Sequence[Popped], outcomes: Sequence[Outcome], token: bytes, worker: str
) -> tuple[Started, Finished]:
    """The popped runs are started under `token`, and the outcomes are written.

    An outcome that the database refuses is written as a failure instead, without its neighbours. Raises Unavailable
    when nothing is known to be written, and what the start alone raises.
    """

    def body(connection: Connection) -> tuple[Started, Finished]:
        free = direct.free(connection, popped)
        started = runs.start(connection, free, token, worker) if free else Started()
        return started, finish(connection, outcomes) if outcomes else Finished()

    def settle(connection: Connection) -> tuple[Started, Finished]:
        started = runs.mine(connection, popped, token) if popped else Started()
        return started, finish(connection, outcomes) if outcomes else Finished()

    if not popped and not outcomes:
        return Started(), Finished()
    try:
        return _settled(database, body, settle)
    except Exception as error:
        if is_lost(error) or isinstance(error, Unavailable) or not outcomes:
            raise
        log.warning("outcomes written one by one: %s", type(error).__name__, extra={"action": "finish_alone"})
    started = write(database, popped, [], token, worker)[0] if popped else Started()
    finished = Finished()
    for outcome in outcomes:
        try:
            alone = _finish_alone(database, outcome)
        except Unavailable:
            alone = Finished(later={outcome.key})
        finished.refused |= alone.refused
        finished.later |= alone.later
        finished.succeeded |= alone.succeeded
    return started, finished


def _settled(database: Database, body: Callable[[Connection], T], settle: Callable[[Connection], T]) -> T:
    """The value of `body`, or of `settle` for a COMMIT without an answer: it asks the ledger what became true."""
    while True:
        try:
            return database.transaction(body)
        except UnknownCommit:
            log.warning("COMMIT without an answer: asking the ledger", extra={"action": "unknown_commit"})
            body = settle


def _finish_alone(database: Database, outcome: Outcome) -> Finished:
    unstored = "the outcome could not be stored"
    for attempt in (outcome, replace(outcome, kind="failed", result=None, error=unstored, retry_in_s=None)):

        def body(connection: Connection, attempt: Outcome = attempt) -> Finished:
            return finish(connection, [attempt])

        try:
            return _settled(database, body, body)
        except Unavailable:
            raise
        except Exception as error:
            log.error("outcome refused by the database: %s", type(error).__name__, extra={"action": "poison"})
    return Finished(refused={outcome.key})
