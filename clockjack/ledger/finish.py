"""Finish: the outcome of an attempt is written by its holder, or by nobody.

A finish may share its transaction with a start, whose locks it then holds; so it takes its rows with SKIP LOCKED and
never waits. A row that somebody else has locked at this instant (a copy of a message being started, a heartbeat) stays
for the next step. Without this, a zombie's outcome and the start of the next attempt can wait for each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from clockjack.ledger.database import rows
from clockjack.ledger.exact import READY_AGAIN, update_locked
from clockjack.ledger.runs import Held, lock, still

ERROR_CHARS = 4_000
Key = tuple[int, int]


@dataclass(slots=True)
class Outcome:
    """How an attempt ended. `kind`: succeeded | failed | timeout | snoozed | discarded | cancelled.

    `retry_in_s`: the run is READY again then; None: it is over.
    """

    held: Held
    kind: str
    result: str | None = None
    error: str | None = None
    retry_in_s: float | None = None
    written: bool = False  # by the handler's own transaction

    @property
    def key(self) -> Key:
        """(run_id, attempt)."""
        return self.held.run_id, self.held.attempt

    @property
    def waits(self) -> bool:
        """It has not begun, because its limit is full."""
        return self.kind == "handed_back" and self.retry_in_s is not None


@dataclass(slots=True)
class Finished:
    """Of the outcomes given: those refused by the fence, those whose row is locked, to be given again, and those whose
    run has succeeded before, whatever the outcome says.
    """

    refused: set[Key] = field(default_factory=set)
    later: set[Key] = field(default_factory=set)
    succeeded: set[Key] = field(default_factory=set)


SUCCEEDED = (
    "state = 'succeeded', finished_at = UTC_TIMESTAMP(6), wake_at = NULL, live_task_id = NULL, error = NULL,"
    " reason = NULL"
)


def finish(connection: Connection, outcomes: Sequence[Outcome]) -> Finished:
    """The outcomes of attempts that are still current are written.

    May be called again with the same outcomes (a COMMIT may have been lost): what is there already is not refused.
    """
    held = [outcome.held for outcome in outcomes]
    done, ours, mine = Finished(), outcomes, lock(connection, held)
    if len(mine) < len(held):
        keys = {(h.run_id, h.attempt) for h in mine}
        ours = [outcome for outcome in outcomes if outcome.key in keys]
        rest = [h for h in held if (h.run_id, h.attempt) not in keys]
        done.later = still(connection, rest, "running")
        done.succeeded = still(connection, rest, "succeeded")
        there = done.succeeded | _recorded(connection, rest)
        done.refused = {(h.run_id, h.attempt) for h in rest} - done.later - there
    plain = [outcome.held for outcome in ours if outcome.kind == "succeeded" and outcome.result is None]
    if plain:
        update_locked(connection, [(h.run_id, h.due_at) for h in plain], SUCCEEDED)
    for outcome in ours:
        if outcome.kind != "succeeded":
            _end(connection, outcome)
        elif outcome.result is not None:
            key = (outcome.held.run_id, outcome.held.due_at)
            update_locked(connection, [key], f"{SUCCEEDED}, result = %s", outcome.result)
    return done


FAILURES = ("failed", "timeout")  # what counts against the budget
OVER = {"discarded": "cancelled", "cancelled": "cancelled"}  # the run's state, where it is not FAILED


def _end(connection: Connection, outcome: Outcome) -> None:
    held, error = outcome.held, outcome.error and _storable(outcome.error)
    sets, values = "", list[Any]()
    if outcome.kind != "snoozed":
        sets, values = "error = %s, ", [error]
    if outcome.kind in FAILURES:
        sets += "failures = failures + 1, "
    if outcome.retry_in_s is None:
        sets += "state = IF(cancel_asked_at IS NULL, %s, 'cancelled'), wake_at = NULL, live_task_id = NULL,"
        sets += " reason = IF(cancel_asked_at IS NULL, %s, 'run_cancelled'), finished_at = UTC_TIMESTAMP(6)"
        values += [OVER.get(outcome.kind, "failed"), outcome.kind]
    else:
        sets += READY_AGAIN.format(wake="UTC_TIMESTAMP(6) + INTERVAL %s MICROSECOND")
        values.append(int(outcome.retry_in_s * 1e6))
    update_locked(connection, [(held.run_id, held.due_at)], sets, *values)
    connection.execute(
        sa.text(
            "INSERT INTO attempts (run_id, due_at, attempt, run_token, worker, started_at, outcome, error)"
            " SELECT id, due_at, attempt, run_token, worker, started_at, :outcome, :error"
            " FROM runs WHERE id = :id AND due_at = :due"
        ),
        {"id": held.run_id, "due": held.due_at, "outcome": outcome.kind, "error": error},
    )


def _storable(text: str) -> str:
    return text[:ERROR_CHARS].encode("utf-8", "replace").decode()  # a file name may hold half of a surrogate pair


def _recorded(connection: Connection, held: Sequence[Held]) -> set[Key]:
    found = rows(
        connection,
        "SELECT run_id, attempt FROM attempts WHERE run_id IN :ids AND (run_id, attempt, run_token) IN :fence"
        " AND outcome <> 'lost'",
        ids=sorted({h.run_id for h in held}),
        fence=sorted((h.run_id, h.attempt, h.token) for h in held),
    )
    return {(row["run_id"], row["attempt"]) for row in found}
