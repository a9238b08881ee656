"""What the demo registers and when; and what must therefore run, computed from the schedules alone."""

import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from clockjack.ledger.database import to_us
from clockjack.schedules import Schedule, next_after

ONE_TIME, SLEEPERS, BURST, RECURRING = 600, 64, 2000, 20
DOORS = ("http", "sql", "python")  # evenly; a process each makes the command line slow, so it gets a few of every kind
BY_CLI = {"recurring": 1, "sleeper": 1, "burst": 4, "one-time": 6}
SLEEPER_MS = 1000
LATE_NOTICE_S = (0.4, 2.5)  # so shortly before they are due is one in five of the one-time tasks registered

LEAD_S = 12  # for registering; then the window in which one-time and recurring tasks are due
WINDOW_S = 20
SLEEPERS_AT_S, BURST_AT_S = 4, 11  # within the window
CRONS = ("*/2 * * * * *", "*/3 * * * * *", "*/4 * * * * *", "*/5 * * * * *", "*/10 * * * * *")
INTERVALS_S = (2, 3, 4, 5)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One task to register. `notice_s`: at the earliest so long before it is due; None: as early as possible."""

    kind: str
    door: str
    schedule: Schedule
    payload: dict[str, Any]
    notice_s: float | None = None

    @property
    def first_at(self) -> datetime:
        """When it is due first."""
        first = self.schedule.run_at or self.schedule.start_at
        assert first is not None
        return first

    @property
    def fails(self) -> int:
        """How often the handler is told to fail."""
        return int(self.payload.get("fail", 0))

    def columns(self) -> dict[str, Any]:
        """The columns of `tasks` to set; every other one has its default."""
        s = self.schedule
        given = {
            "handler": "mock",
            "payload": json.dumps(self.payload),
            "run_at": s.run_at,
            "cron": s.cron,
            "every_s": s.every_s,
            "start_at": s.start_at,
            "end_at": s.end_at,
            "backoff_s": 1 if self.fails else None,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Plan:
    """All tasks in the order of their due times, and the instants of the story (naive UTC, the database's clock)."""

    tasks: list[Wanted]
    begins: datetime
    sleepers: datetime
    burst: datetime
    ends: datetime


def plan(now: datetime) -> Plan:
    """What to register, seen from `now`; the same but for the times in every demo."""
    begins = now.replace(microsecond=0) + timedelta(seconds=LEAD_S + 1)
    sleepers = begins + timedelta(seconds=SLEEPERS_AT_S)
    burst = begins + timedelta(seconds=BURST_AT_S)
    ends = begins + timedelta(seconds=WINDOW_S)
    dice = random.Random(7)
    kinds: dict[str, list[tuple[Schedule, dict[str, Any], float | None]]] = {
        "recurring": [(_recurring(i, begins, ends), {}, None) for i in range(RECURRING)],
        "one-time": [],
        "sleeper": [(Schedule(run_at=sleepers), {"sleep_ms": SLEEPER_MS}, None)] * SLEEPERS,
        "burst": [(Schedule(run_at=burst), {}, None)] * BURST,
    }
    for i in range(ONE_TIME):
        due = begins + timedelta(seconds=WINDOW_S) * i / ONE_TIME
        payload = {"sleep_ms": dice.randint(20, 300)} | ({"fail": 1} if i % 10 == 3 else {})
        kinds["one-time"].append((Schedule(run_at=due), payload, dice.uniform(*LATE_NOTICE_S) if i % 5 == 1 else None))
    tasks = []
    for kind, wanted in kinds.items():
        by_cli = _by_cli(kind, wanted)
        doors = itertools.cycle(DOORS)
        tasks += [Wanted(kind, "cli" if i in by_cli else next(doors), *one) for i, one in enumerate(wanted)]
    tasks.sort(key=lambda task: task.first_at)
    return Plan(tasks, begins, sleepers, burst, ends)


def _recurring(number: int, begins: datetime, ends: datetime) -> Schedule:
    half = number // 2
    if number % 2:
        return Schedule(every_s=INTERVALS_S[half % len(INTERVALS_S)], start_at=begins, end_at=ends)
    return Schedule(cron=CRONS[half % len(CRONS)], start_at=begins, end_at=ends)


def _by_cli(kind: str, wanted: list[tuple[Schedule, dict[str, Any], float | None]]) -> set[int]:
    """Positions of the last ones: commands take longest, so they register what is due last."""
    able = [i for i, (_, _, notice_s) in enumerate(wanted) if notice_s is None]
    return set(able[-BY_CLI[kind] :])


def occurrences(schedule: Schedule) -> Iterator[datetime]:
    """Every moment at which a bounded schedule is due."""
    first = schedule.run_at or schedule.start_at
    assert first is not None
    moment = next_after(schedule, first - timedelta(microseconds=1))
    while moment is not None:
        yield moment
        moment = next_after(schedule, moment)


def run_keys(task_id: int, schedule: Schedule) -> list[str]:
    """The keys under which the handlers must be entered."""
    return [f"{task_id}-{to_us(moment)}" for moment in occurrences(schedule)]
