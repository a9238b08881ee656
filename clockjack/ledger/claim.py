"""Claim: due tasks become runs, and every task moves on, in one short transaction.

Any number of dispatchers claim at once: locks are taken with SKIP LOCKED only, so a claimer never waits while it holds.
There is no Redis, no HTTP and no payload inside. A batch that its own rows spoil is claimed again task by task; a task
that spoils its transaction alone is parked as `invalid` with the reason, and the loop goes on.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from clockjack.ledger.database import DUPLICATE, Clock, Database, UnknownCommit, changed, chunks, code, is_lost, rows
from clockjack.ledger.decide import Step, decide

log = logging.getLogger("clockjack.ledger")

LOOKAHEAD = timedelta(seconds=5)
LOOK_AGAIN = timedelta(seconds=4)
BATCH = 500
SATURATED_S = 1.0

_COLUMNS = (
    "id, queue, state, run_at, cron, every_s, timezone, start_at, end_at, max_runs, runs_claimed, next_run_at,"
    " schedule_version, version, created_at, UTC_TIMESTAMP(6) AS now,"
    " OCTET_LENGTH(payload) AS payload_bytes, JSON_VALID(payload) AS payload_valid"
)
FRESH = (
    f"SELECT {_COLUMNS} FROM tasks FORCE INDEX (due)"
    " WHERE next_run_at >= UTC_TIMESTAMP(6) - INTERVAL 10 SECOND"
    " AND next_run_at <= UTC_TIMESTAMP(6) + INTERVAL 5 SECOND"
    " ORDER BY next_run_at LIMIT :n FOR UPDATE SKIP LOCKED"
)
OVERDUE = (
    f"SELECT {_COLUMNS} FROM tasks FORCE INDEX (due)"
    " WHERE next_run_at < UTC_TIMESTAMP(6) - INTERVAL 10 SECOND AND queue NOT IN :busy"
    " ORDER BY next_run_at LIMIT :n FOR UPDATE SKIP LOCKED"
)
ONE = f"SELECT {_COLUMNS} FROM tasks WHERE id = :i AND next_run_at = :t FOR UPDATE SKIP LOCKED"


@dataclass(frozen=True, slots=True)
class Ready:
    """A READY run that Redis should hold; its next attempt is `attempt`. The stage is timed from `claimable_at`."""

    run_id: int
    due_at: datetime
    attempt: int
    queue: str
    claimable_at: datetime | None = None
    noticed: bool = True


@dataclass(frozen=True, slots=True)
class Claimed:
    """What one claim did: runs to stage, tasks parked, and whether more may be waiting."""

    ready: list[Ready]
    invalid: int
    tasks: int
    full: bool


def claim(database: Database, ages: Mapping[str, float], limit: int = BATCH) -> Claimed:
    """Up to `limit` due tasks are claimed: on-time ones first, overdue ones with what is left of the batch.

    `ages` holds the oldest waiting age (s) of each queue: overdue work of a queue that does not keep up waits in MySQL.
    """
    seen: list[tuple[int, datetime]] = []

    def body(connection: Connection) -> Claimed:
        seen.clear()
        found = rows(connection, FRESH, n=limit)
        if len(found) < limit:
            busy = [queue for queue, age in ages.items() if age > SATURATED_S] or [""]
            found += rows(connection, OVERDUE, n=limit - len(found), busy=busy)
        seen.extend((row["id"], row["next_run_at"]) for row in found)
        return _apply(connection, database.clock, found, ages, full=len(found) >= limit)

    try:
        return database.transaction(body)
    except UnknownCommit:
        return Claimed([], 0, 0, full=True)  # the next poll sees what became true; wake_at covers the push
    except Exception as error:
        if is_lost(error) or not seen or not isinstance(error, DBAPIError | ArithmeticError | ValueError):
            raise
        log.warning("batch claimed task by task", extra={"action": "claim_alone", "code": code(error)})
    alone = [_claim_alone(database, task_id, stored, ages) for task_id, stored in seen]
    return Claimed(
        [ready for one in alone for ready in one.ready],
        sum(one.invalid for one in alone),
        sum(one.tasks for one in alone),
        full=len(seen) >= limit,
    )


def _claim_alone(database: Database, task_id: int, stored: datetime, ages: Mapping[str, float]) -> Claimed:
    def body(connection: Connection) -> Claimed:
        return _apply(connection, database.clock, rows(connection, ONE, i=task_id, t=stored), ages, full=False)

    def adopt(connection: Connection) -> Claimed:
        return _adopt(connection, database.clock, rows(connection, ONE, i=task_id, t=stored), ages)

    def park(connection: Connection) -> Claimed:
        reason = f"claiming it fails: {getattr(failure, 'orig', failure)}"[:1000]
        found = rows(connection, ONE, i=task_id, t=stored)
        return _apply(connection, database.clock, [], ages, parked=[Step(t, None, invalid=reason) for t in found])

    failure: BaseException
    for attempt in (body, adopt, park):
        try:
            return database.transaction(attempt)
        except UnknownCommit:
            break
        except Exception as error:
            if is_lost(error):
                raise
            failure = error
            if attempt is body and code(error) != DUPLICATE:
                try:
                    return database.transaction(park)
                except UnknownCommit:
                    break
    return Claimed([], 0, 0, full=False)


def _apply(
    connection: Connection,
    clock: Clock,
    found: Sequence[Mapping[str, Any]],
    ages: Mapping[str, float],
    *,
    full: bool = False,
    parked: Sequence[Step] = (),
) -> Claimed:
    """The locked tasks' runs are inserted and the tasks moved on."""
    if not found and not parked:
        return Claimed([], 0, 0, full)
    steps = list(parked)
    if found:
        now = clock.observe(found[0]["now"])
        steps += [decide(task, now) for task in found]
        ready = _insert(connection, steps, now, ages)
    else:
        ready = []
    _move_on(connection, steps)
    _see(connection, steps)
    return Claimed(ready, sum(s.invalid is not None for s in steps), len(steps), full)


def _insert(connection: Connection, steps: list[Step], now: datetime, ages: Mapping[str, float]) -> list[Ready]:
    new = [row for step in sorted(steps, key=lambda s: int(s.task["id"])) for row in _rows_of(step, now, ages)]
    if not new:
        return []
    result = connection.exec_driver_sql(
        "INSERT INTO runs"
        " (task_id, due_at, schedule_version, queue, state, wake_at, finished_at, reason, skipped_until) VALUES "
        + ", ".join(["(%s, %s, %s, %s, %s, %s, %s, %s, %s)"] * len(new)),
        tuple(value for _, row in new for value in row),
    )
    first = int(result.lastrowid)  # one INSERT's ids are contiguous: server.check asserts what that needs
    return [_ready(step, first + i) for i, (step, row) in enumerate(new) if row[4] == "ready"]


def _rows_of(step: Step, now: datetime, ages: Mapping[str, float]) -> list[tuple[Step, tuple[Any, ...]]]:
    task = step.task
    made: list[tuple[Step, tuple[Any, ...]]] = []
    head = (task["id"], task["next_run_at"], task["schedule_version"], task["queue"])
    if step.state == "ready":
        wake_at = max(task["next_run_at"], now) + LOOK_AGAIN + timedelta(seconds=2 * ages.get(task["queue"], 0.0))
        made.append((step, (*head, "ready", wake_at, None, None, None)))
    elif step.state == "skipped":
        made.append((step, (*head, "skipped", None, now, "paused", None)))
    if step.missed:
        first, until = step.missed
        made.append((step, (head[0], first, head[2], head[3], "skipped", None, now, "misfire", until)))
    return made


def _ready(step: Step, run_id: int) -> Ready:
    due_at = step.task["next_run_at"]
    noticed = step.task["created_at"] <= due_at - LOOKAHEAD
    claimable_at = due_at - LOOKAHEAD if noticed else step.task["created_at"]
    return Ready(run_id, due_at, 1, step.task["queue"], claimable_at, noticed)


def _move_on(connection: Connection, steps: list[Step]) -> None:
    by_next: dict[tuple[datetime | None, int], list[int]] = {}
    for step in steps:
        if step.invalid is None:
            by_next.setdefault((step.goes_to, int(step.state == "ready")), []).append(step.task["id"])
    single: dict[int, list[tuple[int, datetime | None]]] = {0: [], 1: []}
    for (goes_to, claimed), ids in sorted(by_next.items(), key=lambda item: item[1][0]):
        if len(ids) == 1:
            single[claimed].append((ids[0], goes_to))
        else:
            changed(
                connection,
                "UPDATE tasks SET next_run_at = :next, runs_claimed = runs_claimed + :claimed WHERE id IN :ids",
                next=goes_to,
                claimed=claimed,
                ids=sorted(ids),
            )
    for claimed, pairs in single.items():
        for part in chunks(sorted(pairs), 200):  # a CASE is searched line by line: longer ones cost more a row
            connection.exec_driver_sql(
                f"UPDATE tasks SET runs_claimed = runs_claimed + {claimed}, next_run_at = CASE id"
                + " WHEN %s THEN CAST(%s AS DATETIME(6))" * len(part)
                + f" END WHERE id IN ({', '.join(['%s'] * len(part))})",
                (*(v for pair in part for v in pair), *(pair[0] for pair in part)),
            )
    for step in steps:
        if step.invalid is not None:
            changed(
                connection,
                "UPDATE tasks SET state = 'invalid', error = :error, next_run_at = NULL, version = version + 1,"
                " updated_at = UTC_TIMESTAMP(6) WHERE id = :id",
                error=step.invalid,
                id=step.task["id"],
            )


def _see(connection: Connection, steps: list[Step]) -> None:
    """Tasks that came by plain SQL (version 0) are in the audit trail from the first time they are seen."""
    new = sorted(step.task["id"] for step in steps if step.task["version"] == 0)
    events: list[tuple[Any, ...]] = []
    for step in steps:
        task_id, version = step.task["id"], step.task["version"]
        if version == 0:
            events.append((task_id, "sql", "registered", 1, step.task["schedule_version"], None))
        if step.invalid:
            events.append((task_id, "dispatcher", "invalid", version + 1, step.task["schedule_version"], step.invalid))
    if new:
        changed(connection, "UPDATE tasks SET version = 1 WHERE id IN :ids AND version = 0", ids=new)
    if events:
        connection.exec_driver_sql(
            "INSERT INTO task_events (task_id, actor, action, version, schedule_version, detail) VALUES "
            + ", ".join(["(%s, %s, %s, %s, %s, %s)"] * len(events)),
            tuple(value for one in events for value in one),
        )


def _adopt(
    connection: Connection, clock: Clock, found: Sequence[Mapping[str, Any]], ages: Mapping[str, float]
) -> Claimed:
    """A task whose occurrence already has a row moves on; a row that never started follows the task's new schedule.

    READY adopts the task's schedule_version; SKIPPED or CANCELLED as `paused` or `edited` is READY again with the next
    attempt; anything else stays as it is.
    """
    if not found:
        return Claimed([], 0, 0, full=False)
    task = found[0]
    now = clock.observe(task["now"])
    step = decide(task, now)
    moments = [task["next_run_at"], *(step.missed[:1] if step.missed else ())]
    there = rows(
        connection,
        "SELECT id, due_at, state, attempt, reason, first_started_at FROM runs"
        " WHERE task_id = :t AND due_at IN :moments FOR UPDATE",
        t=task["id"],
        moments=moments,
    )
    taken = {row["due_at"]: row for row in there}
    if step.missed and step.missed[0] in taken:
        step.missed = None
    ready: list[Ready] = []
    run = taken.get(task["next_run_at"])
    if run is not None and step.state is not None:
        state, step.state = step.state, None
        ready = _revive(connection, step, run, now, ages) if state == "ready" else []
    ready += _insert(connection, [step], now, ages)
    _move_on(connection, [step])
    _see(connection, [step])
    return Claimed(ready, int(step.invalid is not None), 1, full=False)


def _revive(
    connection: Connection, step: Step, run: Mapping[str, Any], now: datetime, ages: Mapping[str, float]
) -> list[Ready]:
    key = {"id": run["id"], "due": run["due_at"], "version": step.task["schedule_version"]}
    if run["first_started_at"] is not None:
        return []
    if run["state"] == "ready":
        changed(connection, "UPDATE runs SET schedule_version = :version WHERE id = :id AND due_at = :due", **key)
        return []
    if run["state"] not in ("skipped", "cancelled") or run["reason"] not in ("paused", "edited"):
        return []
    wake_at = max(run["due_at"], now) + LOOK_AGAIN + timedelta(seconds=2 * ages.get(step.task["queue"], 0.0))
    changed(
        connection,
        "UPDATE runs SET state = 'ready', attempt = attempt + 1, reason = NULL, finished_at = NULL, wake_at = :wake,"
        " schedule_version = :version, queue = :queue, skipped_until = NULL WHERE id = :id AND due_at = :due",
        **key,
        wake=wake_at,
        queue=step.task["queue"],
    )
    return [Ready(run["id"], run["due_at"], run["attempt"] + 2, step.task["queue"])]
