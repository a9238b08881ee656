"""The life of a run after its claim: start, heartbeat, hand back. Who holds the current attempt decides.

Each start transaction writes a fresh `run_token`, so (id, attempt, token) names one start for ever; a heartbeat, a hand
back or an outcome that does not match all three changes nothing. Rows are locked by primary key in ascending order.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.engine import Connection

from clockjack.ledger import exact, overlap
from clockjack.ledger.database import changed

FIRST_LEASE_S = 6
LEASE_S = 20
PUT_OFF = {"later": 30.0, "overlaps": overlap.WAIT_S, "again": 0.1}  # paused, waits for another, without the lock: s
BACKFILL_WAIT_S = 60.0  # of a backfill hundreds may wait for one another: the end of each wakes the next
SKIPPED = ("paused", "too_late", "overlap")


@dataclass(slots=True)
class Popped:
    """What a Redis message says: this run, due then, to be started as that attempt; and when it was pushed."""

    run_id: int
    due_at: datetime
    attempt: int
    pushed_us: int = field(default=0, compare=False)
    live_task_id: int | None = field(default=None, compare=False)  # its task, if runs of that must not overlap
    found: bool = field(default=False, compare=False)  # in MySQL, without a message


@dataclass(slots=True)
class Started:
    """What a start transaction found: runs to execute, messages that came early, and how many were refused."""

    execute: list[dict[str, Any]] = field(default_factory=list)
    early: list[Popped] = field(default_factory=list)
    not_run: list[tuple[dict[str, Any], str]] = field(default_factory=list)
    refused: int = 0
    now: datetime | None = None


@dataclass(slots=True)
class Held:
    """A run that this process started: the fence of everything that it may still write about it."""

    run_id: int
    due_at: datetime
    attempt: int
    token: bytes


START = (
    "UPDATE runs FORCE INDEX (PRIMARY) SET state = 'running', attempt = attempt + 1, run_token = {token}, worker = %s,"
    " started_at = UTC_TIMESTAMP(6), first_started_at = COALESCE(first_started_at, UTC_TIMESTAMP(6)),"
    " lease_until = UTC_TIMESTAMP(6) + INTERVAL 6 SECOND, "
    " wake_at = LEAST(wake_at, UTC_TIMESTAMP(6) + INTERVAL 6 SECOND)"
    " WHERE {points} AND {attempt} AND state = 'ready' AND due_at <= UTC_TIMESTAMP(6)"
)
# What nothing speaks against, and no policy asks about. Each column that the driver reads costs more than the row, so
# all but the payload come as one, written as the inside of a JSON array.
PLAIN = (
    "SELECT CONCAT_WS(',', r.id, r.task_id, r.attempt, r.failures, r.first_started_at = r.started_at,"
    " TIMESTAMPDIFF(MICROSECOND, r.due_at, r.started_at), t.timeout_s, t.max_failures, t.backoff_s, t.backoff_max_s,"
    " JSON_QUOTE(t.namespace), JSON_QUOTE(t.handler), COALESCE(JSON_QUOTE(t.name), 'null')) AS head, t.payload"
    " FROM runs r JOIN tasks t ON t.id = r.task_id"
    " WHERE {among} AND r.run_token = {token} AND r.state = 'running' AND r.live_task_id IS NULL"
    " AND r.origin = 'schedule'"
    " AND t.state = 'active' AND t.schedule_version = r.schedule_version AND t.version = r.task_version"
    " AND t.overlap = 'allow' AND t.max_lateness_s IS NULL AND t.pause_after_failures IS NULL AND t.limit_key IS NULL"
)
VERDICT = """
SELECT r.id, r.due_at, r.task_id, r.live_task_id, r.queue, r.attempt, r.failures, r.origin, r.schedule_version,
  r.task_version, r.first_started_at = r.started_at AS fresh,
  TIMESTAMPDIFF(MICROSECOND, r.due_at, r.started_at) AS late_us, t.id AS task, t.namespace, t.state AS task_state,
  t.version, t.schedule_version AS task_schedule_version, t.handler, t.name, t.payload, t.timeout_s, t.max_failures,
  t.backoff_s, t.backoff_max_s, t.overlap, t.max_lateness_s, t.pause_after_failures,
  t.limit_key, t.max_concurrent, t.per_second
FROM runs r LEFT JOIN tasks t ON t.id = r.task_id
WHERE {among} AND r.run_token = {token} AND r.state = 'running'
"""
MINE = (
    "SELECT id, attempt FROM runs FORCE INDEX (PRIMARY) WHERE {fence} AND state = 'running' ORDER BY id, due_at"
    " FOR UPDATE SKIP LOCKED"
)
HOW_MANY = "SELECT COUNT(*) FROM runs FORCE INDEX (PRIMARY) WHERE {fence} AND state = 'running' FOR UPDATE SKIP LOCKED"
HEARTBEAT = (
    f"UPDATE runs FORCE INDEX (PRIMARY) SET lease_until = UTC_TIMESTAMP(6) + INTERVAL {LEASE_S} SECOND"
    " WHERE {fence} AND state = 'running'"
)


def start(connection: Connection, popped: Sequence[Popped], token: bytes, worker: str) -> Started:
    """The popped runs that are still ready, due and of this attempt are RUNNING under `token`, with a lease of 6 s.

    The task's row as it is now gives the verdict: runs of a cancelled, paused or edited task are ended or put off
    in the same transaction and never reach a handler.
    """
    keys = sorted({(p.run_id, p.due_at) for p in popped})
    attempts = sorted({(p.run_id, p.attempt - 1) for p in popped})
    locked = overlap.lock(connection, popped)
    sql = START.format(token=exact.token(token), points=exact.points(keys), attempt=_attempt_is(attempts))
    matched = connection.exec_driver_sql(sql, (worker,)).rowcount
    return _verdict(connection, popped, keys, token, matched, locked=locked)


def mine(connection: Connection, popped: Sequence[Popped], token: bytes) -> Started:
    """What a start whose COMMIT was lost did: the rows that carry its token are ours."""
    keys = sorted({(p.run_id, p.due_at) for p in popped})
    return _verdict(connection, popped, keys, token, matched=None)


def _attempt_is(attempts: Sequence[tuple[int, int]]) -> str:
    """Each run has this attempt; nearly always they all have the same."""
    numbers = {attempt for _, attempt in attempts}
    if len(numbers) == 1:
        return f"attempt = {int(numbers.pop())}"
    return f"(id, attempt) IN ({','.join(f'({int(i)},{int(a)})' for i, a in attempts)})"


def _verdict(
    connection: Connection,
    popped: Sequence[Popped],
    keys: Sequence[exact.Key],
    token: bytes,
    matched: int | None,
    locked: frozenset[int] | None = None,
) -> Started:
    """`locked`: the tasks whose locks are held, for those whose runs must not overlap; None: that was judged before."""
    done, due_at = Started(), dict(keys)
    literals = {"among": exact.among(keys, "r."), "token": exact.token(token)}
    # two messages that name one run with two due times: only its row knows which is true, and PLAIN does not read it
    sure = len(due_at) == len(keys)
    plain = connection.exec_driver_sql(PLAIN.format(**literals)).fetchall() if sure else []
    done.execute = _plain(plain, due_at, token)
    if matched is None or len(done.execute) < matched:
        _judge_others(connection, done, literals, token, locked)
    started = done.execute or [run for run, _ in done.not_run]
    if started:
        done.now = started[-1]["due_at"] + timedelta(microseconds=started[-1]["late_us"])
    if matched is None or matched < len(popped):
        have = {(run["id"], run["attempt"]) for run in (*done.execute, *(run for run, _ in done.not_run))}
        rest = [p for p in popped if (p.run_id, p.attempt) not in have]
        done.early = _early(connection, rest)
        done.refused = len(rest) - len(done.early)
    return done


def _plain(found: Sequence[Any], due_at: dict[int, datetime], token: bytes) -> list[dict[str, Any]]:
    try:
        heads = json.loads(f"[[{'],['.join([head for head, _ in found])}]]") if found else []
    except ValueError:  # a name that the server quotes otherwise than JSON wants: each by its columns
        return []
    return [
        {
            "id": run_id, "due_at": due_at[run_id], "token": token, "task_id": task_id, "attempt": attempt,
            "failures": failures, "fresh": fresh, "late_us": late_us, "origin": "schedule", "timeout_s": timeout_s,
            "max_failures": max_failures, "backoff_s": backoff_s, "backoff_max_s": backoff_max_s,
            "namespace": namespace, "handler": handler, "name": name, "payload": payload, "overlap": "allow",
            "pause_after_failures": None,
        }
        for (run_id, task_id, attempt, failures, fresh, late_us, timeout_s, max_failures, backoff_s, backoff_max_s,
             namespace, handler, name), (_, payload) in zip(heads, found, strict=True)
    ]  # fmt: skip


def _judge_others(
    connection: Connection, done: Started, literals: dict[str, str], token: bytes, locked: frozenset[int] | None
) -> None:
    """The started runs that are not plain are judged one by one."""
    plain = {run["id"] for run in done.execute}
    found = [
        dict(row) | {"token": token}
        for row in connection.exec_driver_sql(VERDICT.format(**literals)).mappings()
        if row["id"] not in plain
    ]
    verdicts = {run["id"]: judge(run) for run in found}
    if locked is not None:
        asks = [run for run in found if verdicts[run["id"]] == "run" and run["overlap"] != "allow"]
        over = {i for i, verdict in verdicts.items() if verdict not in ("run", "later")}
        verdicts |= overlap.settle(connection, asks, locked, over) if asks else {}
    for run in found:
        verdict = verdicts[run["id"]]
        if verdict != "run":
            _do_not_run(connection, run, token, verdict)
            done.not_run.append((run, verdict))
            continue
        done.execute.append(run)
        if run["version"] != run["task_version"]:  # edited since it was claimed: the run tells which version it runs
            exact.update_locked(connection, [(run["id"], run["due_at"])], "task_version = %s", run["version"])


def judge(run: dict[str, Any]) -> str:
    """`run`, or why not: `deleted`, `cancelled`, `invalid`, `paused`, `edited`, `too_late`, or one of PUT_OFF."""
    if run["task"] is None:
        return "deleted"
    if run["task_state"] in ("cancelled", "invalid"):
        return str(run["task_state"])
    if run["origin"] != "schedule":
        return "run"
    fresh = run["fresh"]
    if run["task_state"] == "paused":
        return "paused" if fresh else "later"
    if fresh and run["schedule_version"] != run["task_schedule_version"]:
        return "edited"
    if fresh and run["max_lateness_s"] is not None:
        return "too_late" if run["late_us"] > run["max_lateness_s"] * 1_000_000 else "run"
    return "run"


def _do_not_run(connection: Connection, run: dict[str, Any], token: bytes, verdict: str) -> None:
    """The run, which this transaction has started, is put off or over; what never began keeps no start."""
    sets = "first_started_at = NULL, started_at = NULL, " if run["fresh"] else ""
    wait_s = BACKFILL_WAIT_S if (verdict, run["origin"]) == ("overlaps", "backfill") else PUT_OFF.get(verdict, 0.0)
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
        wait_us=int(wait_s * 1e6),
        state="skipped" if verdict in SKIPPED else "cancelled",
        reason=verdict,
    )


def _early(connection: Connection, rest: Sequence[Popped]) -> list[Popped]:
    if not rest:
        return []
    among = exact.among([(p.run_id, p.due_at) for p in rest])
    sql = f"SELECT id, due_at, attempt FROM runs WHERE {among} AND state = 'ready' AND due_at > UTC_TIMESTAMP(6)"
    ready = connection.exec_driver_sql(sql)
    waiting = {(run_id, due_at, attempt + 1) for run_id, due_at, attempt in ready}
    return [p for p in rest if (p.run_id, p.due_at, p.attempt) in waiting]


def heartbeat(
    connection: Connection, held: Sequence[Held], progress: Mapping[int, str] | None = None
) -> set[tuple[int, int]]:
    """The leases of `held` reach 20 s from now, `progress` (by run_id) is written; returns the keys still ours."""
    whens = "".join(f" WHEN {int(run_id)} THEN %s" for run_id in progress or ())
    sql, values = HEARTBEAT.format(fence=fence(held)), tuple((progress or {}).values())
    if whens:
        sql = sql.replace(" WHERE", f", progress = CASE id{whens} ELSE progress END WHERE", 1)
    if connection.exec_driver_sql(sql, values or None).rowcount == len(held):
        return {(h.run_id, h.attempt) for h in held}
    return still(connection, held, "running")


def hand_back(connection: Connection, held: Sequence[Held]) -> set[tuple[int, int]]:
    """Runs whose handler has not begun are READY again, to be looked at now; no failure is counted.

    Returns the (run_id, attempt) whose row somebody has locked at this instant: they are to be given again.
    """
    ours = lock(connection, held)
    if ours:
        exact.update_locked(
            connection,
            [(h.run_id, h.due_at) for h in ours],
            f"{exact.READY_AGAIN.format(wake='UTC_TIMESTAMP(6)')}, run_token = NULL,"
            " first_started_at = IF(first_started_at = started_at, NULL, first_started_at)",
        )
    mine = {(h.run_id, h.attempt) for h in ours}
    rest = [h for h in held if (h.run_id, h.attempt) not in mine]
    return still(connection, rest, "running") if rest else set()


def lock(connection: Connection, held: Sequence[Held]) -> Sequence[Held]:
    """The rows of `held` that are still ours are locked, but for those that somebody has locked; returns whose are."""
    fenced = fence(held)
    if connection.exec_driver_sql(HOW_MANY.format(fence=fenced)).scalar() == len(held):  # nearly always
        return held
    mine = {(row[0], row[1]) for row in connection.exec_driver_sql(MINE.format(fence=fenced))}
    return [h for h in held if (h.run_id, h.attempt) in mine]


def still(connection: Connection, held: Sequence[Held], state: str) -> set[tuple[int, int]]:
    """The (run_id, attempt) of `held` that are in `state` and carry their token."""
    sql = f"SELECT id, attempt FROM runs WHERE {fence(held)} AND state = %s"
    return {(row[0], row[1]) for row in connection.exec_driver_sql(sql, (state,))}


def fence(held: Sequence[Held]) -> str:
    """The condition that finds those of these runs that still carry our tokens. A token is of one start, so of one
    attempt of a run.
    """
    by_token: dict[bytes, list[exact.Key]] = {}
    for h in held:
        by_token.setdefault(h.token, []).append((h.run_id, h.due_at))
    parts = [f"{exact.among(keys)} AND run_token = {exact.token(token)}" for token, keys in by_token.items()]
    return parts[0] if len(parts) == 1 else f"({' OR '.join(parts)})"
