"""Look again: every live run says in `wake_at` when somebody must look at it. One index, one loop, every repair.

READY: what should be in Redis is pushed again. RUNNING: looked at when the lease ends; when it is over, the attempt is
lost. A lease itself is in no index, so that neither a start nor a heartbeat moves an entry. The rows are locked
with SKIP LOCKED and moved on in one transaction; only after its COMMIT comes Redis.
"""

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.engine import Connection

from clockjack.ledger import aftermath
from clockjack.ledger.advance import LOOK_AGAIN, Ready
from clockjack.ledger.database import Database, Unavailable, UnknownCommit, code, is_lost, rows
from clockjack.ledger.exact import update_locked
from clockjack.ledger.overlap import WAIT_S

log = logging.getLogger("clockjack.ledger")

BATCH = 500
LOST = "the consumer was lost: its lease ran out"
DUE = (
    "SELECT id, due_at, task_id, live_task_id, queue, state, attempt, failures, run_token, worker, started_at,"
    " lease_until, cancel_asked_at,"
    " UTC_TIMESTAMP(6) AS now FROM runs FORCE INDEX (wake)"
    " WHERE wake_at <= UTC_TIMESTAMP(6) ORDER BY wake_at LIMIT :n FOR UPDATE SKIP LOCKED"
)
DUE_RUNNING = DUE.replace(" ORDER BY", " AND state = 'running' ORDER BY")


def backoff_s(
    failures: int, base_s: float, limit_s: float, draw: Callable[[float, float], float] = random.uniform
) -> float:
    """Seconds until the next attempt: exponential in the number of failures, with full jitter, at most `limit_s`."""
    return draw(0, min(limit_s, base_s * 2.0 ** min(failures - 1, 30)))


def look_again(
    database: Database, ages: Mapping[str, float], limit: int = BATCH, *, pushes: bool = True
) -> tuple[list[Ready], int, bool]:
    """Runs whose wake_at has come moved on: (those to push, attempts found lost, whether more are waiting).

    A caller that cannot push (`pushes` false) leaves those that are READY to others.
    """

    seen: list[Mapping[str, Any]] = []
    ended: list[tuple[Mapping[str, Any], bool]] = []

    def body(connection: Connection) -> tuple[list[Ready], int, bool]:
        found = rows(connection, DUE if pushes else DUE_RUNNING, n=limit)
        seen[:] = found
        if not found:
            return [], 0, False
        now = database.clock.observe(found[0]["now"])
        ready = [run for run in found if run["state"] == "ready"]
        running = [run for run in found if run["state"] == "running"]
        held = [run for run in running if run["lease_until"] is not None and run["lease_until"] > now]
        lost = [run for run in running if run not in held]
        if held:
            _update(connection, held, "wake_at = lease_until")
        for queue in sorted({run["queue"] for run in ready}):
            _wake(connection, [r for r in ready if r["queue"] == queue], now, ages.get(queue, 0.0))
        again, ended[:] = _lose(connection, lost, now, LOOK_AGAIN if pushes else timedelta()) if lost else ([], [])
        push = [Ready(r["id"], r["due_at"], r["attempt"] + 1, r["queue"], r["live_task_id"]) for r in (*ready, *again)]
        return push, len(lost), len(found) >= limit

    try:
        looked = database.transaction(body)
    except UnknownCommit:
        return [], 0, True  # whatever became true, the rows say it: they are looked at again
    except Exception as error:
        if is_lost(error) or isinstance(error, Unavailable) or not seen:
            raise
        if limit > 1:
            log.warning("looked at one by one", extra={"action": "look_alone", "code": code(error)})
            alone = [look_again(database, ages, 1, pushes=pushes) for _ in list(seen)]
            return [run for one in alone for run in one[0]], sum(one[1] for one in alone), False
        database.transaction(lambda c: _put_off(c, seen[0]))
        log.error("a run cannot be looked at", extra={"action": "poison", "run_id": seen[0]["id"], "code": code(error)})
        return [], 0, True
    if ended:
        try:
            aftermath.settle(database, ended)
        except Exception as error:  # the next failure is counted with this one; a run that waits looks for itself
            log.warning("after the end of a run: %s", type(error).__name__, extra={"action": "aftermath"})
    return looked


def _put_off(connection: Connection, run: Mapping[str, Any]) -> None:
    """The run is looked at in a minute, if it is still what it was."""
    same = {"id": run["id"], "due": run["due_at"], "state": run["state"], "attempt": run["attempt"]}
    where = "id = :id AND due_at = :due AND state = :state AND attempt = :attempt"
    if rows(connection, f"SELECT id FROM runs WHERE {where} FOR UPDATE SKIP LOCKED", **same):
        _update(connection, [run], "wake_at = UTC_TIMESTAMP(6) + INTERVAL 60 SECOND")


def _wake(connection: Connection, ready: Sequence[Mapping[str, Any]], now: datetime, age_s: float) -> None:
    # without a lease of old, wake_at is not the end of a back-off or of a wait any more: it may be started before
    sets = "wake_at = %s, lease_until = NULL"
    _update(connection, ready, sets, now + LOOK_AGAIN + timedelta(seconds=2 * age_s))


def _lose(
    connection: Connection, lost: Sequence[Mapping[str, Any]], now: datetime, look: timedelta
) -> tuple[list[Any], list[Any]]:
    """Lost attempts are counted and recorded.

    Returns the runs that are to be pushed at once (their first loss), and what `aftermath.settle` needs of those that
    have failed.
    """
    policies = {
        row["id"]: row
        for row in rows(
            connection,
            "SELECT id, max_failures, backoff_s, backoff_max_s, overlap, pause_after_failures FROM tasks"
            " WHERE id IN :ids",
            ids=sorted({run["task_id"] for run in lost}),
        )
    }
    at_once, over, asked = [], [], []
    for run in lost:
        failures, policy = run["failures"] + 1, policies.get(run["task_id"])
        if run["cancel_asked_at"] is not None:
            asked.append(run)
        elif policy is None or failures >= policy["max_failures"]:
            over.append(run)
        elif failures == 1:
            at_once.append(run)
        else:
            wait_s = backoff_s(failures, policy["backoff_s"], policy["backoff_max_s"])
            _update(connection, [run], _AGAIN, now + timedelta(seconds=wait_s), LOST)
    if at_once:
        _update(connection, at_once, _AGAIN, now + look, LOST)
    sets = "state = %s, reason = %s, failures = failures + 1, wake_at = NULL, live_task_id = NULL"
    for ended, state, reason in ((over, "failed", "lost"), (asked, "cancelled", "run_cancelled")):
        if ended:
            _update(connection, ended, f"{sets}, finished_at = %s, error = %s", state, reason, now, LOST)
    ordered = sorted(lost, key=lambda r: (r["id"], r["due_at"]))
    connection.exec_driver_sql(
        "INSERT INTO attempts (run_id, due_at, attempt, run_token, worker, started_at, outcome, error) VALUES "
        + ", ".join(["(%s, %s, %s, %s, %s, %s, 'lost', %s)"] * len(ordered)),
        tuple(
            value
            for r in ordered
            for value in (r["id"], r["due_at"], r["attempt"], r["run_token"], r["worker"], r["started_at"], LOST)
        ),
    )
    policies = {task_id: policy | {"task_id": task_id} for task_id, policy in policies.items()}
    return at_once, [(policies[run["task_id"]], run in over) for run in (*over, *asked) if run["task_id"] in policies]


_AGAIN = "state = 'ready', failures = failures + 1, wake_at = %s, error = %s"


def _update(connection: Connection, runs: Sequence[Mapping[str, Any]], sets: str, *values: Any) -> None:
    update_locked(connection, [(run["id"], run["due_at"]) for run in runs], sets, *values)


def wake_all(database: Database, queues: Sequence[str] | None = None) -> int:
    """READY runs that wait for a far look are brought to now, 500 a transaction; for after Redis lost its data.

    Runs that wait for their back-off or were snoozed, and those that wait for another run's end or for their turn in a
    backfill, keep their time.
    """

    def body(connection: Connection) -> int:
        found = rows(
            connection,
            "SELECT id, due_at FROM runs FORCE INDEX (wake) WHERE wake_at > UTC_TIMESTAMP(6) AND state = 'ready'"
            " AND failures = 0 AND lease_until IS NULL AND origin <> 'backfill'"
            f" AND (live_task_id IS NULL OR attempt = 0 OR wake_at > UTC_TIMESTAMP(6) + INTERVAL {WAIT_S:.0f} SECOND)"
            + (" AND queue IN :queues" if queues else "")
            + " ORDER BY wake_at LIMIT 500"
            " FOR UPDATE SKIP LOCKED",
            **({"queues": list(queues)} if queues else {}),
        )
        if found:
            _update(connection, found, "wake_at = UTC_TIMESTAMP(6)")
        return len(found)

    total = 0
    while True:
        done = database.transaction(body)
        total += done
        if done < BATCH:
            return total
