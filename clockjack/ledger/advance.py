"""Locked due tasks move on: their runs are inserted, their next occurrence is stored, and the trail is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.engine import Connection

from clockjack.ledger.clock import Clock
from clockjack.ledger.database import changed, chunks, rows
from clockjack.ledger.decide import PAYLOAD_BYTES, Step, decide, payload_fault

LOOKAHEAD = timedelta(seconds=5)
LOOK_AGAIN = timedelta(seconds=4)


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


def apply(
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
        faults = payload_faults(connection, found)
        for task in found:
            fault = faults.get(task["id"])
            steps.append(Step(task, None, invalid=fault) if fault else decide(task, now))
        ready = insert(connection, steps, now, ages)
    else:
        ready = []
    move_on(connection, steps)
    see(connection, steps)
    return Claimed(ready, sum(s.invalid is not None for s in steps), len(steps), full)


def payload_faults(connection: Connection, found: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """What is wrong with the payloads of tasks that came by plain SQL and are seen for the first time.

    Judged here and not by JSON_VALID, which on MySQL raises an error for deep nesting instead of answering.
    """
    new = [task["id"] for task in found if task["version"] == 0 and task["state"] in ("active", "paused")]
    if not new:
        return {}
    sql = (
        f"SELECT id, IF(OCTET_LENGTH(payload) <= {PAYLOAD_BYTES}, payload, NULL) AS payload FROM tasks WHERE id IN :ids"
    )
    judged = {row["id"]: payload_fault(row["payload"]) for row in rows(connection, sql, ids=sorted(new))}
    return {task_id: fault[:1000] for task_id, fault in judged.items() if fault}


def insert(connection: Connection, steps: list[Step], now: datetime, ages: Mapping[str, float]) -> list[Ready]:
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


def move_on(connection: Connection, steps: list[Step]) -> None:
    by_next: dict[tuple[datetime | None, int], list[int]] = {}
    for step in steps:
        if step.invalid is None:
            by_next.setdefault((step.goes_to, int(step.counts)), []).append(step.task["id"])
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


def see(connection: Connection, steps: list[Step]) -> None:
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
