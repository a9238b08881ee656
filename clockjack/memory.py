"""Tasks and their runs in memory, under a clock that is moved by hand: the works of clockjack/testing.py.

What is written to a task is what the ledger would write; what is decided is decided by the same functions.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from clockjack import documents, simulation
from clockjack.answers import Task, TaskRun
from clockjack.attempting import Attempted, attempt, run_key
from clockjack.ledger import control
from clockjack.ledger.tasks import COLUMNS, DEFAULTS, SCHEDULE, first_run
from clockjack.moments import LAST
from clockjack.schedules import ScheduleError
from clockjack.simulation import End, Fate, Outage, Stage, come, step
from clockjack.trying import ClientError


class Memory:
    """All tasks, each on a stage of its own, and what was attempted. `draw` draws the jitter of back-offs."""

    def __init__(self, now: datetime, namespace: str, draw: Callable[[float, float], float]) -> None:
        self.attempts: list[Attempted] = []
        self._now, self._namespace, self._draw = now, namespace, draw
        self._engine: Any = None
        self._stages: dict[int, Stage] = {}
        self._fates: dict[int, tuple[Stage, Fate]] = {}
        self._ids: dict[int, int] = {}
        self._outages: list[Outage] = []
        self._failed: dict[int, int] = {}

    def _handler(self, name: str) -> tuple[Callable[..., Any] | None, timedelta]:
        """The callable of this name, and how long it takes."""
        raise NotImplementedError

    def _next(self) -> tuple[datetime, Stage] | None:
        waiting = [stage for stage in self._stages.values() if stage.events]
        if not waiting:
            return None
        first = min(waiting, key=lambda stage: (stage.events[0][:3], stage.task["id"]))
        return first.events[0][0], first

    def _step(self, at: datetime, stage: Stage) -> None:
        self._now = max(self._now, at)
        step(stage)

    def _execute(self, stage: Stage, fate: Fate, now: datetime) -> End:
        task = stage.task
        function, takes = self._handler(task["handler"])
        done, end = attempt(
            task,
            fate,
            now,
            run_id=self._id(stage, fate),
            function=function,
            takes=takes,
            draw=self._draw,
            engine=self._engine,
        )
        self.attempts.append(done)
        if end.state != "ready":
            in_a_row = self._failed[task["id"]] = self._failed.get(task["id"], 0) + 1 if end.state == "failed" else 0
            if task["pause_after_failures"] and in_a_row >= task["pause_after_failures"]:
                self._write(
                    stage, control.to_pause(task) | {"error": f"paused by itself: {in_a_row} failures in a row"}
                )
        return end

    def _add(self, values: dict[str, Any]) -> Stage:
        task_id = len(self._stages) + 1
        row: dict[str, Any] = dict.fromkeys(COLUMNS.split(", ")) | DEFAULTS | values
        row |= {"id": task_id, "namespace": self._namespace, "state": "active", "version": 1}
        row |= {"schedule_version": 1, "runs_claimed": 0, "misfires_claimed": 0, "created_at": self._now}
        row["updated_at"], row["next_run_at"] = self._now, first_run(row, self._now)
        if row["next_run_at"] is None:
            raise ScheduleError("end_at", "never fires: no occurrence is left")
        stage = self._stages[task_id] = Stage(row, LAST, self._outages, self._execute)
        come(stage, self._now)
        return stage

    def _change(self, stage: Stage, values: dict[str, Any]) -> None:
        """As tasks.edit does it."""
        row = stage.task
        new = {name: value for name, value in values.items() if value != row[name]}
        over = row["state"] in ("cancelled", "invalid")
        if over or any(name in new for name in SCHEDULE):
            new |= {"next_run_at": first_run(row | values, self._now), "missed_since": None, "runs_claimed": 0}
            new["schedule_version"] = row["schedule_version"] + 1
        if over:
            new |= {"state": "active", "error": None}
        self._write(stage, new)

    def _write(self, stage: Stage, new: dict[str, Any]) -> None:
        if not new:
            return
        if "missed_since" in new:
            simulation.close_pause(stage, new.get("next_run_at") or self._now)
        if new.get("state") == "active" or "schedule_version" in new:
            self._failed.pop(stage.task["id"], None)
        stage.task |= new | {"version": stage.task["version"] + 1, "updated_at": self._now}
        if "next_run_at" in new:
            come(stage, self._now)

    def _stage(self, task_id: int) -> Stage:
        if task_id not in self._stages:
            raise ClientError(404, {"code": "not-found", "detail": "there is no such task"})
        return self._stages[task_id]

    def _id(self, stage: Stage, fate: Fate) -> int:
        if id(fate) not in self._ids:
            self._ids[id(fate)] = len(self._ids) + 1
            self._fates[len(self._ids)] = stage, fate
        return self._ids[id(fate)]

    def _run(self, stage: Stage, fate: Fate) -> TaskRun:
        row = {
            "id": self._id(stage, fate), "task_id": stage.task["id"], "due_at": fate.due_at, "state": fate.state,
            "attempt": fate.attempt, "failures": fate.failures, "origin": fate.origin, "queue": stage.task["queue"],
            "worker": None, "schedule_version": fate.schedule_version, "task_version": stage.task["version"],
            "claimed_at": fate.claimed_at, "first_started_at": fate.starts_at, "started_at": fate.starts_at,
            "finished_at": fate.ends_at, "skipped_until": fate.until, "result": fate.result, "error": fate.error,
            "reason": fate.reason, "progress": fate.progress, "cancel_asked_at": None,
        }  # fmt: skip
        return cast(TaskRun, documents.run(row) | {"run_key": run_key(stage.task, fate)})


def as_task(stage: Stage) -> Task:
    """The task as the API answers it."""
    return cast(Task, documents.task(stage.task))


def utc(moment: datetime) -> datetime:
    """An aware datetime as naive UTC."""
    if moment.tzinfo is None:
        raise ValueError("a datetime without a zone; use datetime(…, tzinfo=…)")
    return moment.astimezone(UTC).replace(tzinfo=None)
