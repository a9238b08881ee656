"""The decision for one due task, without any database: which rows its occurrences get, and where the task goes.

An occurrence that is claimed more than 10 s after it was due was missed (a misfire). What `misfire` says about those:

- `once`: the first of them runs, the others are skipped. `skip`: all are. `all`: each runs, one a claim, up to
  `max_misfires` of them; the others are skipped.
- One that is later than `max_lateness_s` is skipped under each of them.

Missed occurrences are one range in one row, never iterated one by one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from clockjack import webhooks
from clockjack.documents import strict_json
from clockjack.ledger.tasks import schedule_of
from clockjack.schedules import Schedule, ScheduleError, first, is_occurrence, next_after, validate

ON_TIME = timedelta(seconds=10)
TICK = timedelta(microseconds=1)
PAYLOAD_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Skip:
    """The row for occurrences that do not run: from `due_at` up to before `until` (None: not known yet)."""

    due_at: datetime
    reason: str
    until: datetime | None = None


@dataclass(slots=True)
class Step:
    """The decision for one due task: whether `next_run_at` runs, what is skipped, and where the task goes.

    `missed_since` is what the task keeps of a pause; `closes` says where the range of the pause that is over ends.
    """

    task: Mapping[str, Any]
    goes_to: datetime | None
    ready: bool = False
    skip: Skip | None = None
    invalid: str | None = None
    counted: bool = False
    misfired: bool = False
    missed_since: datetime | None = None
    closes: datetime | None = None

    @property
    def counts(self) -> bool:
        """Whether this is one of the task's max_runs."""
        return self.counted or self.ready


def payload_fault(text: str | None, handler: str = "") -> str | None:
    """What is wrong with a payload that came by plain SQL (None: it is longer than it may be); None when it is fine."""
    if text is None:
        return f"payload: it has more than {PAYLOAD_BYTES} bytes"
    try:
        payload = strict_json(text)
    except Exception as error:
        return f"payload: {error}"
    fault = webhooks.fault(payload) if handler == webhooks.HANDLER else None
    return fault and f"payload: {fault}"


def decide(task: Mapping[str, Any], now: datetime) -> Step:
    """What is to be done with a due task; pure."""
    stored = task["next_run_at"]
    try:
        once = task["run_at"] is not None or task["run_at_local"] is not None  # its row alone says whether it ran
        used_up = not once and task["max_runs"] is not None and task["runs_claimed"] >= task["max_runs"]
        over = used_up or task["state"] in ("cancelled", "invalid")
        step = Step(task, None) if over else _of_schedule(task, now)
    except Exception as error:
        text = str(error) if isinstance(error, ScheduleError) else f"{type(error).__name__}: {error}"
        field = f"{error.field}: " if isinstance(error, ScheduleError) else ""
        return Step(task, None, invalid=(field + text)[:1000])
    missed_since = task["missed_since"]
    if missed_since is None:
        return step
    if task["state"] == "paused":
        step.missed_since, step.skip = missed_since, None  # its row is there, and still open
    elif missed_since != stored:
        step.closes = stored if step.ready or step.skip else step.goes_to or now
    elif step.skip and step.skip.due_at == stored:  # nothing of it may be caught up: its row covers all of that
        step.closes, step.skip = step.skip.until, None
    return step


def ran_before(step: Step) -> None:
    """The step of an occurrence that has its row, and was counted then: so max_runs is not reached by it once more."""
    step.ready = False
    if step.goes_to is None and step.task["max_runs"] is not None:
        step.goes_to = next_after(schedule_of(step.task), step.task["next_run_at"])


def _of_schedule(task: Mapping[str, Any], now: datetime) -> Step:
    stored, schedule = task["next_run_at"], schedule_of(task)
    validate(schedule)
    fires = is_occurrence(schedule, stored)
    if not fires:  # a new or changed row: the stored time only says from when on to look, and not if it runs once
        return Step(task, first(schedule) if schedule.once else next_after(schedule, stored))
    if task["state"] == "paused":
        return Step(task, None, skip=Skip(stored, "paused"), missed_since=stored)
    late = now - ON_TIME
    if task["max_lateness_s"] is not None:
        oldest = now - timedelta(seconds=task["max_lateness_s"])
        if stored < oldest:
            return _pass_over(task, schedule, "too_late", oldest, now)
    if stored >= late:
        return Step(task, _following(task, schedule), ready=True)
    if task["misfire"] == "skip":
        return _pass_over(task, schedule, "misfire", late, now)
    following = _following(task, schedule)
    if task["misfire"] == "all" and task["misfires_claimed"] + 1 < task["max_misfires"]:
        return Step(task, following, ready=True, misfired=True)
    if following is None or following >= late:
        return Step(task, following, ready=True)
    rest = next_after(schedule, late - TICK)
    return Step(task, rest, ready=True, skip=Skip(following, "misfire", rest or now))


def _pass_over(task: Mapping[str, Any], schedule: Schedule, reason: str, edge: datetime, now: datetime) -> Step:
    """Everything that was due before `edge` is skipped."""
    goes_to = next_after(schedule, edge - TICK)
    return Step(task, goes_to, skip=Skip(task["next_run_at"], reason, goes_to or now))


def _following(task: Mapping[str, Any], schedule: Schedule) -> datetime | None:
    if task["max_runs"] is not None and task["runs_claimed"] + 1 >= task["max_runs"]:
        return None
    return next_after(schedule, task["next_run_at"])
