"""The decision for one due task, without any database: which row its occurrence gets, and where the task goes."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from clockjack.documents import strict_json
from clockjack.ledger.tasks import schedule_of
from clockjack.schedules import ScheduleError, first, is_occurrence, next_after, validate

ON_TIME = timedelta(seconds=10)
PAYLOAD_BYTES = 65_536


@dataclass(slots=True)
class Step:
    """The decision for one due task: `state` of the row for `next_run_at` (None: no row), and where the task goes."""

    task: Mapping[str, Any]
    goes_to: datetime | None
    state: str | None = None
    missed: tuple[datetime, datetime] | None = None
    invalid: str | None = None
    counted: bool = False

    @property
    def counts(self) -> bool:
        """Whether this is one of the task's max_runs."""
        return self.counted or self.state == "ready"


def payload_fault(text: str | None) -> str | None:
    """What is wrong with a payload that came by plain SQL (None: it is longer than it may be); None when it is fine."""
    if text is None:
        return f"payload: it has more than {PAYLOAD_BYTES} bytes"
    try:
        strict_json(text)
    except Exception as error:
        return f"payload: {error}"
    return None


def decide(task: Mapping[str, Any], now: datetime) -> Step:
    """What is to be done with a due task; pure. Missed occurrences are one range, never iterated one by one."""
    stored = task["next_run_at"]
    if task["state"] in ("cancelled", "invalid"):
        return Step(task, None)
    if task["max_runs"] is not None and task["runs_claimed"] >= task["max_runs"]:
        return Step(task, None)
    try:
        schedule = schedule_of(task)
        validate(schedule)
        fires = is_occurrence(schedule, stored)
        if task["state"] == "paused":
            return Step(task, None, "skipped" if fires else None)
        if not fires:  # a new or changed row: the stored time only says from when on to look, and not if it runs once
            return Step(task, first(schedule) if schedule.once else next_after(schedule, stored))
        goes_to, missed = next_after(schedule, stored), None
        if task["max_runs"] is not None and task["runs_claimed"] + 1 >= task["max_runs"]:
            goes_to = None
        if goes_to is not None and goes_to < now - ON_TIME:
            resume_at = next_after(schedule, now - ON_TIME)
            missed = (goes_to, resume_at or now)
            goes_to = resume_at
        return Step(task, goes_to, "ready", missed)
    except Exception as error:
        text = str(error) if isinstance(error, ScheduleError) else f"{type(error).__name__}: {error}"
        field = f"{error.field}: " if isinstance(error, ScheduleError) else ""
        return Step(task, None, invalid=(field + text)[:1000])
