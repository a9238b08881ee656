"""When a task is due. Pure: no wall clock, no network, no database; only the zones packaged with tzdata are read.

Invariant: `next_after` gives the occurrences of a schedule one by one, strictly increasing in UTC, and the answer
depends only on its arguments, so that starting again from any instant continues the same sequence.

Cron has 5 fields, or 6 with the seconds first. The day fields follow Debian's cron: if day-of-month or day-of-week
begins with `*` both must match, else either. So does the rule at clock changes:

- A job at a fixed time (neither minute nor hour begins with `*`) that falls into a skipped hour runs once right after
  it, however many of its slots were lost (with a seconds field: at its first second in the first minute after). One
  that falls into a repeated hour runs in the first pass only.
- Any other job follows the wall clock: nothing is made up for, and both passes of an hour count.
- A change of more than 3 hours is a correction of the clock: every job just follows the new time.

Odd expressions, decided once:

- `*/90` has only the first value of its field, as in Debian; `5/20` goes from 5 to the end of its field.
- `5-5` is 5, as in Debian (croniter: every value). As day of the week 0 and 7 are Sunday, and 0-7 is every day.
- `22-2`, `FRI-MON` and `NOV-FEB` wrap around; with a step (`22-2/3`) they are refused, for croniter miscounts them.
- `L` is the last day of the month, `L5` the last Friday, `5#2` or `FRI#2` the second one; `MON,FRI#2` is refused, and
  so is `5L`: in Quartz it means Thursday, elsewhere Friday.
- `?` is read as `*` in the day fields. `W`, `LW`, `R` (random), `H`, years, `@reboot` and `@every` are refused.
- What never fires (`0 0 30 2 *`) is refused; what fires rarely (`0 0 29 2 */7`: 29 February if a Sunday) is not.
"""

# ruff: noqa: DTZ001
import re
from bisect import bisect_left, bisect_right
from calendar import monthrange
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

from croniter import croniter

from clockjack import zones

FIRST = datetime(2000, 1, 1)
LAST = datetime(2199, 12, 31, 23, 59, 59, 999999)
MAX_EVERY_S = 31_536_000
MAX_CRON_LENGTH = 255
TICK = timedelta(microseconds=1)
LARGEST_CLOCK_CHANGE = timedelta(hours=3)
FIELDS = ("second", "minute", "hour", "day-of-month", "month", "day-of-week")
SECOND, MINUTE, HOUR, DAY, MONTH, WEEKDAY = range(6)
ALIASES = {"@hourly": "0 * * * *", "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *"}
ALIASES |= {"@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *"}
NAMES = {MONTH: croniter.ALPHACONV[3], WEEKDAY: croniter.ALPHACONV[4]}  # {"jan": 1, …}, {"sun": 0, …}
ITEM = re.compile(r"(\*|(?P<low>\d+)(-(?P<high>\d+))?)(?P<step>/0*[1-9]\d*)?")
NTH_WEEKDAYS = re.compile(r"([0-7]#[1-5]|l[0-7])(,([0-7]#[1-5]|l[0-7]))*")


class ScheduleError(ValueError):
    """The schedule cannot be used; `field` names what to correct and the message says how."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule as a task row holds it: one of run_at, cron and every_s; every datetime is naive UTC."""

    run_at: datetime | None = None
    cron: str | None = None
    every_s: int | None = None
    timezone: str = "UTC"
    start_at: datetime | None = None
    end_at: datetime | None = None
    anchor: datetime | None = None  # the moment of registration: without start_at, every_s counts from it


@dataclass(frozen=True, slots=True, eq=False)  # compared by identity: it is a key of caches and long to hash
class _Rule:
    """A parsed cron expression: what the wall clock must show, in no zone."""

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]  # of the day: hour * 60 + minute
    days: frozenset[int]  # 0 is the last of the month
    months: frozenset[int]
    weekdays: frozenset[int]  # 0 is Sunday
    nth_weekdays: frozenset[tuple[int, int]]  # (weekday, n-th in the month; 0 is the last)
    both_days: bool  # day-of-month and day-of-week must both match
    fixed: bool  # neither minute nor hour begins with `*`


def validate(schedule: Schedule) -> None:
    """The schedule is sound and, as far as that can be known without a clock, fires; else ScheduleError says why not.

    Whether an occurrence is left after the present moment is for the caller to ask: `next_after` is None if not.
    """
    kinds = [name for name in ("run_at", "cron", "every_s") if getattr(schedule, name) is not None]
    if len(kinds) != 1:
        given = " and ".join(kinds) or "none"
        raise ScheduleError((kinds or ["run_at"])[-1], f"give exactly one of run_at, cron and every_s; given: {given}")
    _check_zone(schedule.timezone)
    for name in ("run_at", "start_at", "end_at"):
        instant = getattr(schedule, name)
        if instant is not None and not (isinstance(instant, datetime) and instant.tzinfo is None):
            raise ScheduleError(name, f"{name} must be a date and time in UTC")
        if instant is not None and not FIRST <= instant <= LAST:
            raise ScheduleError(name, f"{name} must lie in the years {FIRST.year} to {LAST.year}")
    if schedule.cron is not None:
        if not isinstance(schedule.cron, str):
            raise ScheduleError("cron", "cron must be text")
        _parse_cron(schedule.cron)
    if schedule.every_s is not None:
        _check_interval(schedule.every_s)
    if schedule.start_at and schedule.end_at and schedule.end_at <= schedule.start_at:
        raise ScheduleError("end_at", "end_at must be later than start_at")
    anchored = schedule.every_s is None or schedule.start_at or schedule.anchor
    if anchored and next_after(schedule, FIRST - TICK) is None:
        bound = "end_at" if schedule.end_at else "start_at"
        raise ScheduleError(bound, f"the schedule has no occurrence between start_at and end_at: correct {bound}")


def next_after(schedule: Schedule, after: datetime) -> datetime | None:
    """The first occurrence strictly after `after` (both naive UTC), or None when there is none left.

    start_at and end_at are inclusive. ScheduleError if the cron, the interval or the zone cannot be used.
    """
    after = max(after, FIRST - TICK)
    if schedule.start_at and schedule.start_at > after:
        after = schedule.start_at - TICK
    if after >= LAST:
        return None
    found = schedule.run_at
    if schedule.cron is not None:
        found = _next_cron(schedule.cron, schedule.timezone, after)
    elif schedule.every_s is not None:
        found = _next_interval(schedule, after)
    return found if found and after < found <= (schedule.end_at or LAST) and found <= LAST else None


def is_occurrence(schedule: Schedule, instant: datetime) -> bool:
    """Whether the schedule fires at exactly this instant (naive UTC)."""
    return instant >= FIRST and next_after(schedule, instant - TICK) == instant


def _next_interval(schedule: Schedule, after: datetime) -> datetime:
    _check_interval(schedule.every_s)
    step = timedelta(seconds=schedule.every_s or 0)
    first = schedule.start_at or (schedule.anchor and schedule.anchor + step)
    if not first:
        raise ScheduleError("start_at", "every_s counts from start_at or from the registration: give one of them")
    # Whole steps by exact integers: counting from the last run instead would drift.
    return first if first > after else first + ((after - first) // step + 1) * step


@lru_cache(maxsize=16_384)
def _next_cron(cron: str, timezone: str, after: datetime) -> datetime:
    """The first instant after `after` at which the expression fires in the zone; it may lie past LAST."""
    _check_zone(timezone)
    rule = _parse_cron(cron)
    while True:
        change, end = zones.stretch(timezone, after + TICK)
        found = _first_in_stretch(rule, change, after)
        if found < end or found > LAST:
            return found
        after = end - TICK


def _first_in_stretch(rule: _Rule, change: zones.Change, after: datetime) -> datetime:
    """The first occurrence past `after`, if the offset stays as it is since `change`, the last change before it."""
    begin, before, offset = change
    wall = max(after + TICK, begin) + offset
    if rule.fixed and abs(offset - before) <= LARGEST_CLOCK_CHANGE:
        # The wall clock went on from begin + before to begin + offset.
        if offset < before:
            wall = max(wall, begin + before)  # what is repeated has had its runs
        elif offset > before:
            made_up = begin + timedelta(seconds=rule.seconds[0])
            if made_up > after and _first_wall(rule, begin + before) < begin + offset:
                return made_up
    return _first_wall(rule, wall) - offset


def _first_wall(rule: _Rule, wall: datetime) -> datetime:
    """The first matching time of the wall clock at or after `wall`. There always is one: see `_parse_cron`."""
    if wall.microsecond:
        wall = wall.replace(microsecond=0) + timedelta(seconds=1)
    year, month, day = wall.year, wall.month, wall.day
    days = _days(rule, year, month)
    if day in days:
        now = wall.hour * 60 + wall.minute
        index = bisect_left(rule.minutes, now)
        if index < len(rule.minutes) and rule.minutes[index] == now:
            if wall.second <= rule.seconds[-1]:
                return wall.replace(second=rule.seconds[bisect_left(rule.seconds, wall.second)])
            index += 1
        if index < len(rule.minutes):
            return datetime(year, month, day, *divmod(rule.minutes[index], 60), rule.seconds[0])
    index = bisect_right(days, day)
    while index == len(days):
        year, month = (year, month + 1) if month < 12 else (year + 1, 1)
        days, index = _days(rule, year, month), 0
    return datetime(year, month, days[index], *divmod(rule.minutes[0], 60), rule.seconds[0])


@lru_cache(maxsize=65_536)
def _days(rule: _Rule, year: int, month: int) -> tuple[int, ...]:
    """The days of this month on which the rule fires, in order."""
    if month not in rule.months:
        return ()
    monday_first, length = monthrange(year, month)
    first = (monday_first + 1) % 7  # cron counts from Sunday
    days = range(1, length + 1)
    by_date = {day for day in days if day in rule.days or (day == length and 0 in rule.days)}
    by_weekday = {day for day in days if (first + day - 1) % 7 in rule.weekdays}
    for weekday, nth in rule.nth_weekdays:
        same = days[(weekday - first) % 7 :: 7]
        by_weekday.update(same[nth - 1 : nth or None])  # nth = 0: the last one
    return tuple(sorted(by_date & by_weekday if rule.both_days else by_date | by_weekday))


@lru_cache(maxsize=4_096)
def _parse_cron(cron: str) -> _Rule:
    """The rule that the expression stands for; it fires at least once in any 40 years."""
    fields = _split(cron)
    (seconds, _), (minutes, _), (hours, _), (days, _), (months, _), (weekdays, nth_weekdays) = (
        _expand(index, field) for index, field in enumerate(fields)
    )
    rule = _Rule(
        seconds=tuple(seconds),
        minutes=tuple(hour * 60 + minute for hour in hours for minute in minutes),
        days=frozenset(days),
        months=frozenset(months),
        weekdays=frozenset() if nth_weekdays else frozenset(weekdays),
        nth_weekdays=frozenset(nth_weekdays),
        both_days=fields[DAY].startswith("*") or fields[WEEKDAY].startswith("*"),
        fixed=not (fields[MINUTE].startswith("*") or fields[HOUR].startswith("*")),
    )
    # A year has one of 14 calendars (leap or not, beginning on each weekday); 2000-2027 has them all.
    if not any(_days(rule, year, month) for year in range(2000, 2028) for month in rule.months):
        raise ScheduleError("cron", f"cron {cron!r} never fires: no year has such a day; correct its day and month")
    return rule


def _split(cron: str) -> list[str]:
    """The six fields, seconds first, with numbers for names and `*` for `?`."""
    # The length first: a list of thousands of ranges would cost milliseconds at every look.
    if len(cron) > MAX_CRON_LENGTH or not cron.isascii() or not cron.replace("\t", " ").isprintable():
        raise ScheduleError("cron", f"cron must be one line of at most {MAX_CRON_LENGTH} ASCII characters")
    text = ALIASES.get(cron.strip().lower(), cron.lower())
    fields = text.split()
    if len(fields) not in (5, 6) or text.startswith("@"):
        forms = f"5 fields, 6 with the seconds first, or one of {', '.join(ALIASES)}"
        raise ScheduleError("cron", f"cron {cron!r} has {len(fields)} field(s); give {forms}")
    fields = ["0"] * (6 - len(fields)) + fields
    for index, names in NAMES.items():
        fields[index] = "".join(str(names.get(word, word)) for word in re.split(r"(\W)", fields[index]))
    return ["*" if field == "?" and index in (DAY, WEEKDAY) else field for index, field in enumerate(fields)]


@lru_cache(maxsize=4_096)
def _expand(index: int, field: str) -> tuple[list[int], list[tuple[int, int]]]:
    """The values of one field and its (weekday, n-th in the month) pairs; the last day or n-th is 0."""
    place = (index - 1) % 6  # croniter has the seconds last
    low, high = croniter.RANGES[place]
    alone = ["*"] * 6
    try:
        alone[place] = _unmistakable(index, field)
        expanded, nth_weekdays = croniter.expand(" ".join(alone))
    except ValueError:
        forms = "*, 5, 1-5, */15, 1-30/5 or a list of these (a range that wraps around takes no step)"
        message = f"{field!r} is no {FIELDS[index]} of a cron; write {forms} with numbers from {low} to {high}"
        raise ScheduleError("cron", message) from None
    values = range(low, high + 1) if "*" in expanded[place] else expanded[place]
    pairs = [(weekday, nth) for weekday, all_nth in nth_weekdays.items() for nth in all_nth]
    return [0 if value == "l" else value for value in values], [(day, 0 if nth == "l" else nth) for day, nth in pairs]


def _unmistakable(index: int, field: str) -> str:
    """The field in a form that croniter reads as the module's docstring says; ValueError if there is none."""
    if index == WEEKDAY and NTH_WEEKDAYS.fullmatch(field):
        return field
    items = field.split(",")
    for place, item in enumerate(items):
        match = ITEM.fullmatch(item)
        if not match and (index, item) != (DAY, "l"):
            raise ValueError(item)
        if match and match["high"]:
            low, high, step = match.group("low", "high", "step")
            low = "0" if index == WEEKDAY and int(low) == 7 > int(high) else low  # to croniter 7-0 is every day
            items[place] = f"{low}-{high}{step or ''}" if int(low) != int(high) else low
            if step and int(low) > int(high):
                raise ValueError(item)
    return ",".join(items)


def _check_interval(every_s: object) -> None:
    if isinstance(every_s, bool) or not isinstance(every_s, int) or not 1 <= every_s <= MAX_EVERY_S:
        raise ScheduleError("every_s", f"every_s must be a whole number of seconds from 1 to {MAX_EVERY_S} (one year)")


def _check_zone(timezone: object) -> None:
    if not isinstance(timezone, str) or timezone not in zones.names():
        message = f"unknown time zone {ascii(timezone)[:64]}: give an IANA name, as Europe/Berlin or UTC"
        raise ScheduleError("timezone", message)
