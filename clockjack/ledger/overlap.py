"""Overlap: what becomes of a run that is to begin while another of its task has begun and not ended.

Judged at the start, under the lock of the task's row, and only for tasks that ask for it. The live runs of such a task
carry its id in `live_task_id`, so no history is read and tasks that allow overlap pay nothing. Which tasks ask is known
from the message, so that their rows are locked before those of the runs; where a message does not say it yet (the task
was edited), the run goes round once more.

- `skip`: the run is SKIPPED. `queue_one`: the earliest one waits for the end of the other, any more are SKIPPED.
- `replace`: the other is CANCELLED and the run begins; the other's consumer finds its lease gone and stops the handler.

A run by hand always begins, and counts as one that has begun. Runs of a backfill wait for one another; those that wait
leave the occurrences that come due meanwhile as they are.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import Connection

from clockjack.ledger.database import rows
from clockjack.ledger.exact import lock_soon, update_locked

if TYPE_CHECKING:
    from clockjack.ledger.runs import Popped

WAIT_S = 5.0  # how long a waiting run waits at most after the other's end, if nobody wakes it
LIVE = (
    "SELECT id, due_at, live_task_id, origin, state, first_started_at FROM runs FORCE INDEX (live)"
    " WHERE live_task_id IN :ids"
)
REPLACED = (
    "state = 'cancelled', reason = 'replaced', wake_at = NULL, live_task_id = NULL, finished_at = UTC_TIMESTAMP(6)"
)


def lock(connection: Connection, popped: "Sequence[Popped]") -> frozenset[int]:
    """The rows of the tasks whose runs must not overlap are locked, in ascending order; returns the ids of the locked.

    A claim holds such a row for milliseconds, which is waited for; whoever holds one longer stalls nobody's batch.
    """
    wanted = sorted({p.live_task_id for p in popped if p.live_task_id is not None})
    if not wanted:
        return frozenset()
    sql = "SELECT id FROM tasks FORCE INDEX (PRIMARY) WHERE id IN :ids ORDER BY id FOR UPDATE SKIP LOCKED"
    return frozenset(row["id"] for row in lock_soon(connection, sql, wanted))


def judge(policy: str, origin: str, begun: bool, waits: bool) -> str:
    """What a run of a task with this policy does: `run`, `overlap` (it is skipped), `overlaps` (it waits), `replace`.

    `begun`: another run of the task has begun and not ended; `waits`: one that was due earlier waits for that. Pure.
    """
    if origin == "manual" or policy == "allow" or not begun:
        return "run"
    if origin == "backfill":
        return "overlaps"
    if policy == "queue_one":
        return "overlap" if waits else "overlaps"
    return {"skip": "overlap", "replace": "replace"}[policy]


def settle(
    connection: Connection, asks: Sequence[dict[str, Any]], locked: frozenset[int], over: Collection[int] = ()
) -> dict[int, str]:
    """The verdict of each of these runs, which this transaction has started; runs that are replaced are over.

    `over`: runs that this transaction has started and that will not begin.
    """
    verdicts = {run["id"]: "again" for run in asks}
    sure = [run for run in asks if run["task_id"] in locked and run["live_task_id"] is not None]
    if not sure:
        return verdicts
    live: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows(connection, LIVE, ids=sorted({run["task_id"] for run in sure})):
        live.setdefault(row["live_task_id"], []).append(row)
    asking = {run["id"] for run in asks}
    verdicts |= {run["id"]: "run" for run in sure if not run["fresh"]}  # these have begun
    for run in sorted(sure, key=lambda r: (r["due_at"], r["id"])):
        if verdicts[run["id"]] == "run":
            continue
        others = [other for other in live[run["task_id"]] if other["id"] != run["id"] and other["id"] not in over]
        begun = [other for other in others if _begun(other, verdicts, asking)]
        waits = any(_waits(other, verdicts, asking) and other["due_at"] < run["due_at"] for other in others)
        verdict = judge(run["overlap"], run["origin"], bool(begun), waits)
        if verdict == "replace":
            verdict = "run" if _replace(connection, begun, verdicts) else "again"
        verdicts[run["id"]] = verdict
    return verdicts


def _begun(other: Mapping[str, Any], verdicts: Mapping[int, str], asking: set[int]) -> bool:
    if other["id"] in asking:
        return verdicts[other["id"]] == "run"
    return other["first_started_at"] is not None


def _waits(other: Mapping[str, Any], verdicts: Mapping[int, str], asking: set[int]) -> bool:
    if other["origin"] != "schedule":  # those have a rule of their own and take nobody's place
        return False
    if other["id"] in asking:
        return verdicts[other["id"]] == "overlaps"
    return other["state"] == "ready" and other["first_started_at"] is None


def _replace(connection: Connection, begun: Sequence[Mapping[str, Any]], verdicts: dict[int, str]) -> bool:
    """These runs are CANCELLED as `replaced`; false when somebody has one of them locked."""
    here = [other for other in begun if other["id"] in verdicts]
    there = [(other["id"], other["due_at"]) for other in begun if other["id"] not in verdicts]
    if there:
        sql = (
            "SELECT id FROM runs FORCE INDEX (PRIMARY) WHERE id IN :ids AND (id, due_at) IN :keys"
            " AND state IN ('ready', 'running') ORDER BY id FOR UPDATE SKIP LOCKED"
        )
        if len(rows(connection, sql, ids=[key[0] for key in there], keys=there)) < len(there):
            return False
        update_locked(connection, there, REPLACED)
    for other in here:
        verdicts[other["id"]] = "replaced"
    return True
