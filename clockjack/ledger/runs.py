"""The life of a run after its claim: start, heartbeat, hand back. Who holds the current attempt decides.

Each start transaction writes a fresh `run_token`, so (id, attempt, token) names one start for ever; a heartbeat, a hand
back or an outcome that does not match all three changes nothing. Rows are locked by primary key in ascending order.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy.engine import Connection

from clockjack.ledger import overlap
from clockjack.ledger.database import changed, rows
from clockjack.ledger.exact import update_locked

FIRST_LEASE_S = 6
LEASE_S = 20
PUT_OFF = {"later": 30.0, "overlaps": overlap.WAIT_S, "again": 0.1}  # paused, waits for another, without the lock: s
SKIPPED = ("paused", "too_late", "overlap")


@dataclass(frozen=True, slots=True)
class Popped:
    """What a Redis message says: this run, due then, to be started as that attempt; and when it was pushed."""

    run_id: int
    due_at: datetime
    attempt: int
    pushed_us: int = field(default=0, compare=False)
    live_task_id: int | None = field(default=None, compare=False)  # its task, if runs of that must not overlap


@dataclass(slots=True)
class Started:
    """What a start transaction found: runs to execute, messages that came early, and how many were refused."""

    execute: list[dict[str, Any]] = field(default_factory=list)
    early: list[Popped] = field(default_factory=list)
    not_run: list[tuple[dict[str, Any], str]] = field(default_factory=list)
    refused: int = 0
    now: datetime | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """A run that this process started: the fence of everything that it may still write about it."""

    run_id: int
    due_at: datetime
    attempt: int
    token: bytes


START = """
UPDATE runs SET state = 'running', attempt = attempt + 1, run_token = :token, worker = :worker,
  started_at = UTC_TIMESTAMP(6), first_started_at = COALESCE(first_started_at, UTC_TIMESTAMP(6)),
  wake_at = UTC_TIMESTAMP(6) + INTERVAL 6 SECOND
WHERE id IN :ids AND due_at BETWEEN :low AND :high AND (id, due_at, attempt) IN :keys
  AND state = 'ready' AND due_at <= UTC_TIMESTAMP(6)
"""
VERDICT = """
SELECT r.id, r.due_at, r.task_id, r.live_task_id, r.queue, r.attempt, r.failures, r.origin, r.schedule_version,
  r.task_version, r.first_started_at, r.started_at, t.id AS task, t.namespace, t.state AS task_state, t.version,
  t.schedule_version AS task_schedule_version, t.handler, t.name, t.payload, t.timeout_s, t.max_failures,
  t.backoff_s, t.backoff_max_s, t.overlap, t.max_lateness_s, t.pause_after_failures, UTC_TIMESTAMP(6) AS now
FROM runs r LEFT JOIN tasks t ON t.id = r.task_id
WHERE r.id IN :ids AND r.due_at BETWEEN :low AND :high AND r.run_token = :token AND r.state = 'running'
"""
OURS = "id IN :ids AND due_at BETWEEN :low AND :high AND (id, attempt, run_token) IN :fence"
FENCE = f"{OURS} AND state = 'running'"
MINE = f"SELECT id, attempt FROM runs WHERE {FENCE} ORDER BY id, due_at FOR UPDATE SKIP LOCKED"
HEARTBEAT = f"UPDATE runs SET wake_at = UTC_TIMESTAMP(6) + INTERVAL {LEASE_S} SECOND WHERE {FENCE}"


def start(connection: Connection, popped: Sequence[Popped], token: bytes, worker: str) -> Started:
    """The popped runs that are still ready, due and of this attempt are RUNNING under `token`, with a lease of 6 s.

    The task's row as it is now gives the verdict: runs of a cancelled, paused or edited task are ended or put off
    in the same transaction and never reach a handler.
    """
    keys = sorted({(p.run_id, p.due_at, p.attempt - 1) for p in popped})
    at = span((k[0], k[1]) for k in keys)
    locked = overlap.lock(connection, popped)
    matched = changed(connection, START, token=token, worker=worker, keys=keys, **at)
    return _verdict(connection, popped, token, at, missing=len(keys) - matched, locked=locked)


def mine(connection: Connection, popped: Sequence[Popped], token: bytes) -> Started:
    """What a start whose COMMIT was lost did: the rows that carry its token are ours."""
    return _verdict(connection, popped, token, span((p.run_id, p.due_at) for p in popped), missing=len(popped))


def _verdict(
    connection: Connection,
    popped: Sequence[Popped],
    token: bytes,
    at: dict[str, Any],
    missing: int,
    locked: frozenset[int] | None = None,
) -> Started:
    """`locked`: the tasks whose locks are held, for those whose runs must not overlap; None: that was judged before."""
    done = Started()
    found = rows(connection, VERDICT, token=token, **at)
    verdicts = {run["id"]: judge(run) for run in found}
    if locked is not None:
        asks = [run for run in found if verdicts[run["id"]] == "run" and run["overlap"] != "allow"]
        verdicts |= overlap.settle(connection, asks, locked) if asks else {}
    for run in found:
        done.now, verdict = run["now"], verdicts[run["id"]]
        if verdict == "run":
            done.execute.append(run | {"token": token})
        else:
            _do_not_run(connection, run, token, verdict)
            done.not_run.append((run, verdict))
    edited = [run for run in done.execute if run["version"] != run["task_version"]]
    for run in edited:  # since it was claimed: the run tells which version it runs
        update_locked(connection, [(run["id"], run["due_at"])], "task_version = %s", run["version"])
    if missing:
        have = {(run["id"], run["attempt"]) for run in found}
        rest = [p for p in popped if (p.run_id, p.attempt) not in have]
        done.early = _early(connection, rest)
        done.refused = len(rest) - len(done.early)
    return done


def judge(run: dict[str, Any]) -> str:
    """`run`, or why not: `deleted`, `cancelled`, `invalid`, `paused`, `edited`, `too_late`, or one of PUT_OFF."""
    if run["task"] is None:
        return "deleted"
    if run["task_state"] in ("cancelled", "invalid"):
        return str(run["task_state"])
    if run["origin"] != "schedule":
        return "run"
    fresh = run["first_started_at"] == run["started_at"]
    if run["task_state"] == "paused":
        return "paused" if fresh else "later"
    if fresh and run["schedule_version"] != run["task_schedule_version"]:
        return "edited"
    if fresh and run["max_lateness_s"] is not None:
        late_s = (run["started_at"] - run["due_at"]).total_seconds()
        return "too_late" if late_s > run["max_lateness_s"] else "run"
    return "run"


def _do_not_run(connection: Connection, run: dict[str, Any], token: bytes, verdict: str) -> None:
    """The run, which this transaction has started, is put off or over; what never began keeps no start."""
    fresh = run["first_started_at"] == run["started_at"]
    sets = "first_started_at = NULL, started_at = NULL, " if fresh else ""
    if verdict in PUT_OFF:
        sets += "state = 'ready', live_task_id = :live, wake_at = UTC_TIMESTAMP(6) + INTERVAL :wait_us MICROSECOND"
    else:
        sets += "state = :state, reason = :reason, live_task_id = NULL, wake_at = NULL, finished_at = UTC_TIMESTAMP(6)"
    changed(
        connection,
        f"UPDATE runs SET {sets} WHERE id = :id AND due_at = :due AND run_token = :token AND state = 'running'",
        id=run["id"],
        due=run["due_at"],
        token=token,
        live=None if run["overlap"] in (None, "allow") else run["task_id"],
        wait_us=int(PUT_OFF.get(verdict, 0) * 1e6),
        state="skipped" if verdict in SKIPPED else "cancelled",
        reason=verdict,
    )


def _early(connection: Connection, rest: Sequence[Popped]) -> list[Popped]:
    if not rest:
        return []
    ready = rows(
        connection,
        "SELECT id, attempt FROM runs WHERE id IN :ids AND due_at BETWEEN :low AND :high"
        " AND state = 'ready' AND due_at > UTC_TIMESTAMP(6)",
        **span((p.run_id, p.due_at) for p in rest),
    )
    waiting = {(row["id"], row["attempt"] + 1) for row in ready}
    return [p for p in rest if (p.run_id, p.attempt) in waiting]


def heartbeat(connection: Connection, held: Sequence[Held]) -> set[tuple[int, int]]:
    """The leases of `held` reach 20 s from now; returns the (run_id, attempt) that are still ours."""
    if changed(connection, HEARTBEAT, **fence(held)) == len(held):
        return {(h.run_id, h.attempt) for h in held}
    return still(connection, held, "running")


def hand_back(connection: Connection, held: Sequence[Held]) -> set[tuple[int, int]]:
    """Runs whose handler has not begun are READY again, to be looked at now; no failure is counted.

    Returns the (run_id, attempt) whose row somebody has locked at this instant: they are to be given again.
    """
    mine = {(row["id"], row["attempt"]) for row in rows(connection, MINE, **fence(held))}
    ours = [h for h in held if (h.run_id, h.attempt) in mine]
    if ours:
        update_locked(
            connection,
            [(h.run_id, h.due_at) for h in ours],
            "state = 'ready', wake_at = UTC_TIMESTAMP(6), run_token = NULL,"
            " first_started_at = IF(first_started_at = started_at, NULL, first_started_at)",
        )
    rest = [h for h in held if (h.run_id, h.attempt) not in mine]
    return still(connection, rest, "running") if rest else set()


def still(connection: Connection, held: Sequence[Held], state: str) -> set[tuple[int, int]]:
    """The (run_id, attempt) of `held` that are in `state` and carry their token."""
    sql = f"SELECT id, attempt FROM runs WHERE {OURS} AND state = :state"
    return {(row["id"], row["attempt"]) for row in rows(connection, sql, state=state, **fence(held))}


def fence(held: Sequence[Held]) -> dict[str, Any]:
    """The parameters of OURS and FENCE."""
    return span((h.run_id, h.due_at) for h in held) | {
        "fence": sorted((h.run_id, h.attempt, h.token) for h in held),
    }


def span(keys: Iterable[tuple[int, datetime]]) -> dict[str, Any]:
    """`ids` for the primary key and the range of due times that names the partitions."""
    pairs = list(keys)
    return {
        "ids": sorted({k[0] for k in pairs}),
        "low": min(k[1] for k in pairs),
        "high": max(k[1] for k in pairs),
    }
