"""Runs that were started and have not begun are READY again: at once, or later if they wait for a limit."""

import logging
from collections.abc import Sequence

from clockjack.ledger import runs
from clockjack.ledger.database import Connection, Database, UnknownCommit, chunks
from clockjack.ledger.finish import Outcome
from clockjack.ledger.putting_off import put_off
from consumers.execution import Job

log = logging.getLogger("clockjack.consumer")
Ended = list[tuple[Job, Outcome]]


def hand_back(database: Database, ended: Ended) -> tuple[Ended, Ended]:
    """(Those that are handed back, those that cannot be now and are to be given again)."""
    back: Ended = []
    later: Ended = []
    for part in chunks(ended):
        outcomes = sorted((outcome for _, outcome in part), key=lambda outcome: outcome.key)
        try:
            locked = database.transaction(lambda c, o=outcomes: _write(c, o))  # type: ignore[misc]
        except UnknownCommit:
            locked = set()  # either they are back, or their first lease of 6 s ends
        except Exception as error:
            log.warning("not handed back yet: %s", type(error).__name__, extra={"action": "hand_back"})
            later += part
            continue
        back += [one for one in part if one[1].key not in locked]
        later += [one for one in part if one[1].key in locked]
    return back, later


def _write(connection: Connection, outcomes: Sequence[Outcome]) -> set[tuple[int, int]]:
    again = [outcome.held for outcome in outcomes if outcome.retry_in_s is None]
    waits = [(outcome.held, outcome.retry_in_s) for outcome in outcomes if outcome.retry_in_s is not None]
    locked = runs.hand_back(connection, again) if again else set()
    return locked | put_off(connection, waits) if waits else locked
