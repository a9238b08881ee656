"""Locked due tasks move on: their runs are inserted, their next occurrence is stored, and the trail is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.engine import Connection

from clockjack.ledger.clock import Clock
from clockjack.ledger.database import changed, chunks
from clockjack.ledger.decide import PAYLOAD_BYTES, Step, decide, payload_fault
from clockjack.ledger.exact import moment
from clockjack.ledger.tasks import close_pause, done_by_sql, serial

LOOKAHEAD = timedelta(seconds=5)
LOOK_AGAIN = timedelta(seconds=4)
# one version more for each of tasks.done_by_sql; assignments are made from left to right
SEEN_NOW = (
    "version = version + IF(version = 0, 1, (seen_schedule_version <> schedule_version) + (seen_state <> state)),"
    " seen_state = state, seen_schedule_version = schedule_version"
)


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


def apply(
    connection: Connection,
    clock: Clock,
    found: Sequence[Mapping[str, Any]],
    ages: Mapping[str, float],
    *,
    full: bool = False,
    parked: Sequence[Step] = (),
    staged: bool = True,
) -> Claimed:
    """The locked tasks' runs are inserted and the tasks moved on. `staged`: the caller will push the runs to Redis."""
    if not found and not parked:
        return Claimed([], 0, 0, full)
    steps = list(parked)
    if found:
        now = clock.observe(found[0]["now"])
        faults = payload_faults(connection, found)
        for task in found:
            fault = faults.get(task["id"])
            steps.append(Step(task, None, invalid=fault) if fault else decide(task, now))
        ready = insert(connection, steps, now, ages, staged=staged)
    else:
        ready = []
    see(connection, steps)
    move_on(connection, steps)
    full = full or any(step.misfired for step in steps)  # the next one that it missed waits already
    return Claimed(ready, sum(s.invalid is not None for s in steps), len(steps), full)


def payload_faults(connection: Connection, found: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """What is wrong with the payloads of tasks that came by plain SQL and are seen for the first time.

    Judged here and not by JSON_VALID, which on MySQL raises an error for deep nesting instead of answering.
    """
    new = [task["id"] for task in found if task["version"] == 0 and task["state"] in ("active", "paused")]
    if not new:
        return {}
    among = ",".join(str(int(i)) for i in sorted(new))
    sql = (
        f"SELECT id, handler, IF(OCTET_LENGTH(payload) <= {PAYLOAD_BYTES}, payload, NULL) FROM tasks"
        f" WHERE id IN ({among})"
    )
    judged = {task_id: payload_fault(payload, handler) for task_id, handler, payload in connection.exec_driver_sql(sql)}
    return {task_id: fault[:1000] for task_id, fault in judged.items() if fault}


def insert(
    connection: Connection, steps: list[Step], now: datetime, ages: Mapping[str, float], *, staged: bool = True
) -> list[Ready]:
    """The rows of the runs that are ready, and of what is skipped, are there; returns the ready ones."""
    made = sorted((step for step in steps if step.ready), key=lambda step: int(step.task["id"]))
    ready: list[Ready] = []
    if made:
        result = connection.exec_driver_sql(
            "INSERT INTO runs (task_id, due_at, schedule_version, task_version, queue, claimed_at, state,"
            " live_task_id, wake_at) VALUES " + ",".join(_ready_row(step.task, now, ages, staged) for step in made),
            tuple(step.task["queue"] for step in made),
        )
        first = int(result.lastrowid)  # one INSERT's ids are contiguous: server.check asserts what that needs
        ready = [_ready(step, first + i) for i, step in enumerate(made)]
    skipped = [(step.task, step.skip) for step in steps if step.skip]
    if skipped:
        connection.exec_driver_sql(
            "INSERT INTO runs (task_id, due_at, schedule_version, task_version, queue, claimed_at, state, finished_at,"
            " reason, skipped_until) VALUES " + ",".join(["(%s,%s,%s,%s,%s,%s,'skipped',%s,%s,%s)"] * len(skipped)),
            tuple(
                value
                for task, skip in skipped
                for value in (
                    *(task["id"], skip.due_at, task["schedule_version"], _version(task), task["queue"]),
                    *(now, now, skip.reason, skip.until),
                )
            ),
        )
    return ready


def first_look(due_at: datetime, now: datetime, age_s: float | None, staged: bool) -> datetime:
    """The wake_at of a claimed run: when its message should have had its effect; without a message, when it is due."""
    wake_at = max(due_at, now)
    if not staged:
        return wake_at
    return wake_at + LOOK_AGAIN + timedelta(seconds=2 * age_s) if age_s else wake_at + LOOK_AGAIN


def _ready_row(task: Mapping[str, Any], now: datetime, ages: Mapping[str, float], staged: bool) -> str:
    """Its numbers and times are written out: bound one by one they would cost more than the row."""
    wake_at = first_look(task["next_run_at"], now, ages.get(task["queue"]), staged)
    return (
        f"({int(task['id'])},{moment(task['next_run_at'])},{int(task['schedule_version'])},{_version(task)},%s,"
        f"{moment(now)},'ready',{serial(task) or 'NULL'},{moment(wake_at)})"
    )


def _version(task: Mapping[str, Any]) -> int:
    return int(task["version"]) + len(done_by_sql(task))


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
            connection.exec_driver_sql(
                f"UPDATE tasks FORCE INDEX (PRIMARY) SET {SEEN_NOW}, next_run_at = {moment(goes_to)},"
                f" missed_since = {moment(missed_since)},"
                f" runs_claimed = runs_claimed + {claimed},"
                f" misfires_claimed = {'misfires_claimed + 1' if misfired else 0}"
                f" WHERE id IN ({','.join(str(int(i)) for i in sorted(ids))})"
            )
    for claimed, pairs in single.items():
        for part in chunks(sorted(pairs), 200):  # a CASE is searched line by line: longer ones cost more a row
            cases = "".join(f" WHEN {int(i)} THEN CAST({moment(goes_to)} AS DATETIME(6))" for i, goes_to in part)
            connection.exec_driver_sql(
                f"UPDATE tasks FORCE INDEX (PRIMARY) SET {SEEN_NOW}, runs_claimed = runs_claimed + {claimed},"
                " misfires_claimed = 0, missed_since = NULL,"
                f" next_run_at = CASE id{cases} END WHERE id IN ({','.join(str(int(i)) for i, _ in part)})"
            )
    for step in steps:
        if step.invalid is not None:
            changed(
                connection,
                f"UPDATE tasks SET {SEEN_NOW}, state = 'invalid', error = :error, next_run_at = NULL,"
                " version = version + 1, updated_at = UTC_TIMESTAMP(6), seen_state = 'invalid' WHERE id = :id",
                error=step.invalid,
                id=step.task["id"],
            )
        elif step.closes is not None:
            close_pause(connection, step.task["id"], step.task["missed_since"], step.closes)


def see(connection: Connection, steps: list[Step]) -> None:
    """What was done by plain SQL is in the audit trail from the first time that it is seen (`move_on` notes that)."""
    events: list[tuple[Any, ...]] = []
    for step in steps:
        task, version = step.task, step.task["version"]
        for action in done_by_sql(task):
            version += 1
            events.append((task["id"], "sql", action, version, task["schedule_version"], None))
        if step.invalid:
            events.append((task["id"], "dispatcher", "invalid", version + 1, task["schedule_version"], step.invalid))
    if events:
        connection.exec_driver_sql(
            "INSERT INTO task_events (task_id, actor, action, version, schedule_version, detail) VALUES "
            + ", ".join(["(%s, %s, %s, %s, %s, %s)"] * len(events)),
            tuple(value for one in events for value in one),
        )
