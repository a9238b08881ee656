"""Started runs that may not begin yet are READY again, each to be looked at at a time of its own."""

from collections.abc import Sequence

from sqlalchemy.engine import Connection

from clockjack.ledger import exact
from clockjack.ledger.runs import Held, lock, still

AS_NEVER_BEGUN = "run_token = NULL, first_started_at = IF(first_started_at = started_at, NULL, first_started_at)"
WAITS = "reason = IF(cancel_asked_at IS NULL, 'limit', 'run_cancelled')"


def put_off(connection: Connection, waits: Sequence[tuple[Held, float]]) -> set[tuple[int, int]]:
    """Runs whose limit is full are READY again, as if they had never begun, and looked at in so many seconds.

    Returns the (run_id, attempt) whose row somebody has locked at this instant: they are to be given again.
    """
    held = [one for one, _ in waits]
    ours = {(h.run_id, h.attempt) for h in lock(connection, held)}
    mine = [(h, wait_s) for h, wait_s in waits if (h.run_id, h.attempt) in ours]
    if mine:
        cases = "".join(f" WHEN {int(h.run_id)} THEN {int(wait_s * 1e6)}" for h, wait_s in mine)
        again = exact.READY_AGAIN.format(wake=f"UTC_TIMESTAMP(6) + INTERVAL CASE id{cases} END MICROSECOND")
        keys = [(h.run_id, h.due_at) for h, _ in mine]
        exact.update_locked(connection, keys, f"{again}, {WAITS}, {AS_NEVER_BEGUN}")
    rest = [h for h in held if (h.run_id, h.attempt) not in ours]
    return still(connection, rest, "running") if rest else set()
