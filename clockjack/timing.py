"""What a schedule holds, and when its rule fires before exclusions and jitter. Pure.

`clockjack.schedules` is what other modules use; its docstring says what each kind of schedule means.
"""

# ruff: noqa: DTZ001
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache, partial

from clockjack import cron, recurrence, rrule_text, wallclock, zones
from clockjack.exclusions import Exclude
from clockjack.wallclock import ANY_CHANGE, NEAR, TICK, FirstWall, Manner
from clockjack.zones import LAST

FIRST = datetime(2000, 1, 1)
MAX_EVERY_S = 31_536_000
KINDS = ("run_at", "run_at_local", "cron", "every_s", "rrule")
SECOND = timedelta(seconds=1)


class ScheduleError(ValueError):
    """The schedule cannot be used; `field` names what to correct and the message says how."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule as a task row holds it: exactly one of KINDS; datetimes are naive, and UTC but for run_at_local."""

    run_at: datetime | None = None
    cron: str | None = None
    every_s: int | None = None
    timezone: str = "UTC"
    start_at: datetime | None = None
    end_at: datetime | None = None
    anchor: datetime | None = None  # the moment of registration: without start_at, every_s and rrule count from it
    rrule: str | None = None  # RFC 5545, without DTSTART, which is start_at or the anchor by the zone's clocks
    run_at_local: datetime | None = None  # what the zone's clocks show
    exclude: Exclude = None  # dates and ranges of dates, or a JSON array of them
    jitter_s: int = 0
    seed: str = ""  # the task's identity, from which H and jitter take their slots
    dst_gap: str = "run_after"
    dst_fold: str = "first"

    @property
    def once(self) -> bool:
        """Whether it is for one time only."""
        return self.run_at is not None or self.run_at_local is not None


def planned(schedule: Schedule, after: datetime) -> datetime | None:
    """The first occurrence after `after` that the rule of the schedule gives from start_at to end_at."""
    after = max(after, FIRST - TICK)
    if schedule.start_at and schedule.start_at > after:
        after = schedule.start_at - TICK
    if after >= LAST:
        return None
    found = schedule.run_at
    if schedule.cron is not None:
        seed = schedule.seed if cron.wants_seed(schedule.cron) else ""
        found = _next_cron(schedule.cron, seed, schedule.timezone, after, schedule.dst_gap, schedule.dst_fold)
    elif schedule.every_s is not None:
        found = _next_interval(schedule, after)
    elif schedule.rrule is not None:
        found = _next_recurrence(schedule, after)
    elif schedule.run_at_local is not None:
        check_zone(schedule.timezone)
        found = _local_instant(schedule.run_at_local, schedule.timezone, schedule.dst_gap, schedule.dst_fold)
    return found if found and after < found <= (schedule.end_at or LAST) and found <= LAST else None


@lru_cache(maxsize=16_384)
def _next_cron(text: str, seed: str, timezone: str, after: datetime, gap: str, fold: str) -> datetime | None:
    """The first instant after `after` at which the expression fires in the zone; it may lie past LAST."""
    check_zone(timezone)
    rule = _parsed(text, seed)
    manner = Manner(rule.fixed, gap, fold, first_second=rule.seconds[0])
    return wallclock.next_instant(timezone, after, partial(cron.first_wall, rule), manner)


def _next_recurrence(schedule: Schedule, after: datetime) -> datetime | None:
    check_zone(schedule.timezone)
    rule, last, start = recurrence_rule(schedule)
    manner = Manner(rule.fixed, schedule.dst_gap, schedule.dst_fold)
    first_wall = partial(recurrence.first_wall, rule, last)
    found = wallclock.next_instant(schedule.timezone, max(after, start - TICK), first_wall, manner)
    return found if found and found <= (rule.until_utc or LAST) else None


@lru_cache(maxsize=4_096)
def _local_instant(wall: datetime, timezone: str, gap: str, fold: str) -> datetime | None:
    """The instant at which a one-time task at this time of the wall clock runs, if it does."""
    manner = Manner(fixed=True, gap=gap, fold=fold, largest=ANY_CHANGE)
    return wallclock.next_instant(timezone, wall - NEAR, partial(_only, wall), manner)


def _only(wall: datetime, asked: datetime) -> datetime | None:
    return wall if asked <= wall else None


def _next_interval(schedule: Schedule, after: datetime) -> datetime:
    check_interval(schedule.every_s)
    step = timedelta(seconds=schedule.every_s or 0)
    first = schedule.start_at or (schedule.anchor and schedule.anchor + step)
    if not first:
        raise ScheduleError("start_at", "every_s counts from start_at or from the registration: give one of them")
    # Whole steps by exact integers: counting from the last run instead would drift.
    return first if first > after else first + ((after - first) // step + 1) * step


def cron_rule(schedule: Schedule) -> cron.Rule:
    """What the schedule's cron stands for, with the task's slots for `H`."""
    if not isinstance(schedule.cron, str):
        raise ScheduleError("cron", "cron must be text")
    return _parsed(schedule.cron, schedule.seed if cron.wants_seed(schedule.cron) else "")


def recurrence_rule(schedule: Schedule) -> tuple[rrule_text.Rule, datetime, datetime]:
    """What the schedule's rrule stands for, its last time of the wall clock at most, and the instant of DTSTART."""
    start = schedule.start_at or schedule.anchor
    if not start:
        raise ScheduleError("start_at", "rrule counts from start_at or from the registration: give one of them")
    if start.microsecond:
        start = start.replace(microsecond=0) + SECOND
    try:
        return *recurrence.parse(schedule.rrule or "", wallclock.local(schedule.timezone, start)), start
    except ValueError as error:
        raise ScheduleError("rrule", str(error)) from None


def wall_rule(schedule: Schedule) -> tuple[FirstWall, Manner] | None:
    """The times of the wall clock at which the schedule is to fire, and how it meets clock changes.

    None for run_at and every_s, which count real time and meet none.
    """
    gap, fold = schedule.dst_gap, schedule.dst_fold
    if schedule.cron is not None:
        rule = cron_rule(schedule)
        return partial(cron.first_wall, rule), Manner(rule.fixed, gap, fold, first_second=rule.seconds[0])
    if schedule.rrule is not None:
        recurring, last, _ = recurrence_rule(schedule)
        return partial(recurrence.first_wall, recurring, last), Manner(recurring.fixed, gap, fold)
    if schedule.run_at_local is not None:
        return partial(_only, schedule.run_at_local), Manner(fixed=True, gap=gap, fold=fold, largest=ANY_CHANGE)
    return None


def check_interval(every_s: object) -> None:
    """`every_s` is a whole number of seconds in its bounds; else ScheduleError."""
    if isinstance(every_s, bool) or not isinstance(every_s, int) or not 1 <= every_s <= MAX_EVERY_S:
        raise ScheduleError("every_s", f"every_s must be a whole number of seconds from 1 to {MAX_EVERY_S} (one year)")


def check_zone(timezone: object) -> None:
    """`timezone` is the name of a packaged zone; else ScheduleError."""
    if not isinstance(timezone, str) or timezone not in zones.names():
        message = f"unknown time zone {ascii(timezone)[:64]}: give an IANA name, as Europe/Berlin or UTC"
        raise ScheduleError("timezone", message)


def _parsed(text: str, seed: str) -> cron.Rule:
    try:
        return cron.parse(text, seed)
    except ValueError as error:
        raise ScheduleError("cron", str(error)) from None
