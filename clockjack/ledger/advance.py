"""Locked due tasks move on: their runs are inserted, their next occurrence is stored, and the trail is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.engine import Connection

from clockjack.ledger.clock import Clock
from clockjack.ledger.database import changed, chunks, rows
from clockjack.ledger.decide import PAYLOAD_BYTES, Step, decide, payload_fault
from clockjack.ledger.tasks import close_pause, done_by_sql, serial

LOOKAHEAD = timedelta(seconds=5)
LOOK_AGAIN = timedelta(seconds=4)


@dataclass(frozen=True, slots=True)
class Ready:
    """A READY run that Redis should hold; its next attempt is `attempt`. The stage is timed from `claimable_at`.

    `live_task_id` is its task's id if the task's runs must not overlap: they are started under the task's lock.
    """

    run_id: int
    due_at: datetime
    attempt: int
    queue: str
    live_task_id: int | None = None
    claimable_at: datetime | None = None
    noticed: bool = True


@dataclass(frozen=True, slots=True)
class Claimed:
    """What one claim did: runs to stage, tasks parked, and whether more may be waiting."""

    ready: list[Ready]
    invalid: int
    tasks: int
    full: bool
    skipped: tuple[str, ...] = ()  # the reasons of the rows for what does not run


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
    see(connection, steps)
    move_on(connection, steps)
    full = full or any(step.misfired for step in steps)  # the next one that it missed waits already
    skipped = tuple(step.skip.reason for step in steps if step.skip)
    return Claimed(ready, sum(s.invalid is not None for s in steps), len(steps), full, skipped)


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
        "INSERT INTO runs (task_id, due_at, schedule_version, task_version, queue, claimed_at, state, live_task_id,"
        " wake_at, finished_at, reason, skipped_until) VALUES "
        + ", ".join(["(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"] * len(new)),
        tuple(value for _, row in new for value in row),
    )
    first = int(result.lastrowid)  # one INSERT's ids are contiguous: server.check asserts what that needs
    return [_ready(step, first + i) for i, (step, row) in enumerate(new) if row[6] == "ready"]


def _rows_of(step: Step, now: datetime, ages: Mapping[str, float]) -> list[tuple[Step, tuple[Any, ...]]]:
    task, skip = step.task, step.skip
    made: list[tuple[Step, tuple[Any, ...]]] = []
    tail = (task["schedule_version"], task["version"] + len(done_by_sql(task)), task["queue"], now)
    if step.ready:
        due_at = task["next_run_at"]
        wake_at = max(due_at, now) + LOOK_AGAIN + timedelta(seconds=2 * ages.get(task["queue"], 0.0))
        made.append((step, (task["id"], due_at, *tail, "ready", serial(task), wake_at, None, None, None)))
    if skip:
        made.append((step, (task["id"], skip.due_at, *tail, "skipped", None, None, now, skip.reason, skip.until)))
    return made


def _ready(step: Step, run_id: int) -> Ready:
    due_at = step.task["next_run_at"]
    noticed = step.task["created_at"] <= due_at - LOOKAHEAD
    claimable_at = due_at - LOOKAHEAD if noticed else step.task["created_at"]
    return Ready(run_id, due_at, 1, step.task["queue"], serial(step.task), claimable_at, noticed)


def move_on(connection: Connection, steps: list[Step]) -> None:
    by_next: dict[tuple[Any, ...], list[int]] = {}
    for step in steps:
        if step.invalid is None:
            key = (step.goes_to, int(step.counts), step.misfired, step.missed_since)
            by_next.setdefault(key, []).append(step.task["id"])
    single: dict[int, list[tuple[int, datetime | None]]] = {0: [], 1: []}
    for (goes_to, claimed, misfired, missed_since), ids in sorted(by_next.items(), key=lambda item: item[1][0]):
        if len(ids) == 1 and not misfired and missed_since is None:
            single[claimed].append((ids[0], goes_to))
        else:
            changed(
                connection,
                "UPDATE tasks SET next_run_at = :next, runs_claimed = runs_claimed + :claimed, misfires_claimed ="
                " IF(:misfired, misfires_claimed + 1, 0), missed_since = :since WHERE id IN :ids",
                next=goes_to,
                claimed=claimed,
                misfired=misfired,
                since=missed_since,
                ids=sorted(ids),
            )
    for claimed, pairs in single.items():
        for part in chunks(sorted(pairs), 200):  # a CASE is searched line by line: longer ones cost more a row
            connection.exec_driver_sql(
                f"UPDATE tasks SET runs_claimed = runs_claimed + {claimed}, misfires_claimed = 0, missed_since = NULL,"
                " next_run_at = CASE id"
                + " WHEN %s THEN CAST(%s AS DATETIME(6))" * len(part)
                + f" END WHERE id IN ({', '.join(['%s'] * len(part))})",
                (*(v for pair in part for v in pair), *(pair[0] for pair in part)),
            )
    for step in steps:
        if step.invalid is not None:
            changed(
                connection,
                "UPDATE tasks SET state = 'invalid', error = :error, next_run_at = NULL, version = version + 1,"
                " updated_at = UTC_TIMESTAMP(6), seen_state = 'invalid' WHERE id = :id",
                error=step.invalid,
                id=step.task["id"],
            )
        elif step.closes is not None:
            close_pause(connection, step.task["id"], step.task["missed_since"], step.closes)


def see(connection: Connection, steps: list[Step]) -> None:
    """What was done by plain SQL is in the audit trail from the first time that it is seen."""
    events: list[tuple[Any, ...]] = []
    noticed: dict[int, list[int]] = {}
    for step in steps:
        task, version = step.task, step.task["version"]
        actions = done_by_sql(task)
        for action in actions:
            version += 1
            events.append((task["id"], "sql", action, version, task["schedule_version"], None))
        if actions:
            noticed.setdefault(len(actions), []).append(task["id"])
        if step.invalid:
            events.append((task["id"], "dispatcher", "invalid", version + 1, task["schedule_version"], step.invalid))
    for n, ids in noticed.items():
        changed(
            connection,
            "UPDATE tasks SET version = version + :n, seen_state = state, seen_schedule_version = schedule_version"
            " WHERE id IN :ids",
            n=n,
            ids=sorted(ids),
        )
    if events:
        connection.exec_driver_sql(
            "INSERT INTO task_events (task_id, actor, action, version, schedule_version, detail) VALUES "
            + ", ".join(["(%s, %s, %s, %s, %s, %s)"] * len(events)),
            tuple(value for one in events for value in one),
        )
