"""What would become of a schedule's occurrences, by the decisions that production makes. Pure.

One task is stepped from moment to moment: `decide` at each claim (5 s ahead of what is due, at once for what is
overdue), `runs.judge` and `overlap.judge` at each start. While an outage lasts nothing is claimed and nothing starts;
what has begun goes on to its end. Nothing is due after the simulated time. Every run is taken to have a free consumer,
to last equally long and to succeed, unless somebody executes it (clockjack/testing.py). Of what happens at one moment,
runs end first, then claims are made, then runs start in the order of their due times.
"""

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from clockjack.ledger import overlap, runs
from clockjack.ledger.advance import LOOKAHEAD
from clockjack.ledger.decide import decide
from clockjack.ledger.tasks import first_run
from clockjack.schedules import ScheduleError

MAX_ROWS = 10_000
Outage = tuple[datetime, datetime]  # from the first moment to before the second


class TooMany(ValueError):
    """The simulation has more rows than were asked for at most."""


@dataclass(slots=True, eq=False)
class Fate:
    """What becomes of the occurrence `due_at`, or of those from it to before `until`.

    `state` is that of the row: ready, running, and in the end succeeded, failed, skipped or cancelled, with the
    `reason`. `other` is the run that was in the way, or that replaced this one.
    """

    due_at: datetime
    claimed_at: datetime
    state: str = "ready"
    reason: str | None = None
    until: datetime | None = None
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    other: "Fate | None" = None
    schedule_version: int = 1
    origin: str = "schedule"
    end: "End | None" = None
    attempt: int = 0
    failures: int = 0
    result: str | None = None
    error: str | None = None
    progress: str | None = None

    @property
    def waited(self) -> bool:
        """Whether it began when another had ended."""
        return self.starts_at is not None and self.reason is None and self.other is not None


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt ends: after `lasts`, in this state; one that is `ready` again is tried again in `again`."""

    lasts: timedelta
    state: str = "succeeded"
    reason: str | None = None
    again: timedelta = timedelta(0)


@dataclass(slots=True, eq=False)
class Stage:
    """One task, what has become of its occurrences, and what comes next: `open`, then `step` after `step`.

    `execute` says how an attempt that begins now will end; nothing is due after `end`.
    """

    task: dict[str, Any]
    end: datetime
    outages: list[Outage]
    execute: Callable[["Stage", Fate, datetime], End]
    events: list[tuple[datetime, int, datetime, int, Fate | None]] = field(default_factory=list)
    fates: list[Fate] = field(default_factory=list)
    begun: list[Fate] = field(default_factory=list)
    waiting: list[Fate] = field(default_factory=list)
    made: int = 0  # events, so that no two of the heap are equal


ENDS, CLAIM, STARTS = range(3)


def simulate(
    task: Mapping[str, Any],
    begin: datetime,
    end: datetime,
    *,
    outages: Sequence[Outage] = (),
    lasts: timedelta = timedelta(0),
    most: int = MAX_ROWS,
) -> list[Fate]:
    """The fates of what is due after `begin`, up to `end`, in the order of their due times; TooMany if there are more.

    `task` has the columns that a claim reads; it is active, and looked at from `begin` on, whatever it has stored.
    """
    fresh = {
        "state": "active",
        "missed_since": None,
        "misfires_claimed": 0,
        "next_run_at": first_run(dict(task), begin),
    }
    fresh |= {"schedule_version": task.get("schedule_version", 1)}
    stage = Stage(dict(task) | fresh, end, together(outages), lambda *_: End(lasts))
    if stage.task["next_run_at"] and stage.task["next_run_at"] < begin:  # a one-time task from before
        return []
    come(stage, begin)
    while stage.events:
        step(stage)
        if len(stage.fates) > most:
            raise TooMany(f"more than {most:,} rows: ask for a shorter time")
    return sorted(stage.fates, key=lambda fate: fate.due_at)


def together(outages: Sequence[Outage]) -> list[Outage]:
    """The outages in order, those that touch made one."""
    found: list[Outage] = []
    for begin, end in sorted(outages):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((begin, end))
    return found


def step(stage: Stage) -> None:
    """The next thing has happened."""
    at, kind, due_at, _, fate = heapq.heappop(stage.events)
    if kind != ENDS and (up := _up(stage, at)) != at:  # an outage that was not known when this was planned
        _add(stage, up, kind, due_at, fate)
    elif fate is None:
        if stage.task["next_run_at"] == due_at:  # else the task was changed since
            _claim(stage, at)
    elif kind == STARTS:
        if fate.state == "ready":
            _start(stage, fate, at)
    elif fate.state == "running":
        _end(stage, fate, at)


def come(stage: Stage, now: datetime) -> None:
    """The next claim is on the way, if there is one."""
    due = stage.task["next_run_at"]
    if due is not None and due <= stage.end:
        _add(stage, _up(stage, max(due - LOOKAHEAD, now)), CLAIM, due, None)


def close_pause(stage: Stage, until: datetime) -> None:
    """The row that stands for what a pause missed ends before `until`."""
    for fate in stage.fates:
        if fate.reason == "paused" and fate.state == "skipped" and fate.until is None:
            fate.until = until


def by_hand(stage: Stage, now: datetime) -> Fate:
    """One more run of the task is due now."""
    fate = Fate(now, now, schedule_version=stage.task["schedule_version"], origin="manual")
    stage.fates.append(fate)
    _add(stage, _up(stage, now), STARTS, now, fate)
    return fate


def _up(stage: Stage, at: datetime) -> datetime:
    """The first moment from `at` on that is in no outage."""
    return next((end for begin, end in stage.outages if begin <= at < end), at)


def _add(stage: Stage, at: datetime, kind: int, due_at: datetime, fate: Fate | None) -> None:
    stage.made += 1
    heapq.heappush(stage.events, (at, kind, due_at, stage.made, fate))


def _claim(stage: Stage, now: datetime) -> None:
    """As advance.apply does it."""
    task = stage.task
    step = decide(task, now)
    if step.invalid is not None:
        raise ScheduleError("schedule", step.invalid)
    if step.closes is not None:
        close_pause(stage, step.closes)
    if step.ready:
        fate = _revived(stage)
        if fate is None:
            fate = Fate(task["next_run_at"], now, schedule_version=task["schedule_version"])
            stage.fates.append(fate)
        _add(stage, _up(stage, max(fate.due_at, now)), STARTS, fate.due_at, fate)
    if step.skip:
        stage.fates.append(Fate(step.skip.due_at, now, "skipped", step.skip.reason, step.skip.until))
    task["next_run_at"], task["missed_since"] = step.goes_to, step.missed_since
    task["runs_claimed"] += int(step.counts)
    task["misfires_claimed"] = task["misfires_claimed"] + 1 if step.misfired else 0
    come(stage, now)


def _revived(stage: Stage) -> Fate | None:
    """The occurrence that a pause has missed and that is caught up with, ready again."""
    if stage.task["missed_since"] is None:
        return None
    found = next((f for f in stage.fates if f.due_at == stage.task["next_run_at"] and f.reason == "paused"), None)
    if found:
        found.state, found.reason, found.until = "ready", None, None
    return found


def _start(stage: Stage, fate: Fate, now: datetime) -> None:
    """As runs.start does it."""
    task, fresh = stage.task, fate.starts_at is None
    verdict = runs.judge(
        {
            "task": task["id"], "task_state": task["state"], "origin": fate.origin, "fresh": fresh,
            "schedule_version": fate.schedule_version, "task_schedule_version": task["schedule_version"],
            "max_lateness_s": task["max_lateness_s"], "late_us": (now - fate.due_at) // timedelta(microseconds=1),
        }
    )  # fmt: skip
    if fate in stage.waiting:
        stage.waiting.remove(fate)
    if verdict == "run" and task["overlap"] != "allow" and fresh:
        waits = any(other.due_at < fate.due_at for other in stage.waiting)
        verdict = overlap.judge(task["overlap"], fate.origin, bool(stage.begun), waits)
    if verdict in ("overlap", "overlaps", "replace"):
        other = stage.begun[-1]
        if verdict == "replace":
            stage.begun.clear()
            other.state, other.reason, other.ends_at, other.other = "cancelled", "replaced", now, fate
            other.starts_at = other.starts_at if other.starts_at != now else None  # their starts are one transaction
        else:
            fate.other = other
    if verdict == "overlaps":
        stage.waiting.append(fate)
    elif verdict == "later":
        _add(stage, _up(stage, now + timedelta(seconds=runs.PUT_OFF[verdict])), STARTS, fate.due_at, fate)
    elif verdict in ("run", "replace"):
        fate.state, fate.starts_at = "running", fate.starts_at or now
        if task["overlap"] != "allow" and fate not in stage.begun:
            stage.begun.append(fate)
        fate.end = stage.execute(stage, fate, now)
        _add(stage, now + fate.end.lasts, ENDS, fate.due_at, fate)
    else:
        fate.state, fate.reason = "skipped" if verdict in runs.SKIPPED else "cancelled", verdict
        if fate in stage.begun:
            _leave(stage, fate, now)


def _end(stage: Stage, fate: Fate, now: datetime) -> None:
    """As finish does it; one that is tried again has begun and not ended."""
    assert fate.end is not None
    fate.state, fate.reason = fate.end.state, fate.end.reason
    if fate.state == "ready":
        _add(stage, _up(stage, now + fate.end.again), STARTS, fate.due_at, fate)
        return
    fate.ends_at = now
    if fate in stage.begun:
        _leave(stage, fate, now)


def _leave(stage: Stage, fate: Fate, now: datetime) -> None:
    """As aftermath.settle does it: who waited has its turn."""
    stage.begun.remove(fate)
    for other in stage.waiting:
        _add(stage, _up(stage, now), STARTS, other.due_at, other)
