"""Cron expressions, in no zone: what they say, and the times of the wall clock that match. Pure; croniter reads fields.

5 fields, or 6 with the seconds first. The day fields follow Debian's cron, as its crontab(5) and its code have it: if
day-of-month or day-of-week begins with `*` both must match, else either. Odd expressions, decided once:

- `*/90` has only the first value of its field, as in Debian; `5/20` goes from 5 to the end of its field.
- `5-5` is 5, as in Debian (croniter: every value). As day of the week 0 and 7 are Sunday, and 0-7 is every day.
- `22-2`, `FRI-MON` and `NOV-FEB` wrap around; with a step (`22-2/3`) they are refused, for croniter miscounts them.
- `L` is the last day of the month, `L5` the last Friday, `5#2` or `FRI#2` the second one; `MON,FRI#2` is refused, and
  so is `5L`: in Quartz it means Thursday, elsewhere Friday.
- `H` is a slot of its field that is hashed from the task (day of month: 1-28, so that every month has it), `H(a-b)` one
  of a-b; `H/15` and `H(a-b)/15` begin at such a slot. It stands for its number in every other respect: `H H * * *` is
  at a particular time. Each field has a slot of its own.
- `?` is read as `*` in the day fields. `W`, `LW`, `R` (random), years, `@reboot` and `@every` are refused.
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

from clockjack import spread

MAX_LENGTH = 255
FIELDS = ("second", "minute", "hour", "day-of-month", "month", "day-of-week")
SECOND, MINUTE, HOUR, DAY, MONTH, WEEKDAY = range(6)
HASHED_RANGES = ((0, 59), (0, 59), (0, 23), (1, 28), (1, 12), (0, 6))
ALIASES = {"@hourly": "0 * * * *", "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *"}
ALIASES |= {"@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *"}
NAMES = {MONTH: croniter.ALPHACONV[3], WEEKDAY: croniter.ALPHACONV[4]}  # {"jan": 1, …}, {"sun": 0, …}
ITEM = re.compile(r"(\*|(?P<low>\d+)(-(?P<high>\d+))?)(?P<step>/0*[1-9]\d*)?")
HASH = re.compile("(?<![@A-Za-z])[Hh]")  # not that of THU, @hourly or @monthly
NTH_WEEKDAYS = re.compile(r"([0-7]#[1-5]|l[0-7])(,([0-7]#[1-5]|l[0-7]))*")


@dataclass(frozen=True, slots=True, eq=False)  # compared by identity: it is a key of caches and long to hash
class Rule:
    """A cron expression that was read: what the wall clock must show."""

    fields: tuple[str, ...]  # six, seconds first, with numbers for names and hashed slots
    seconds: tuple[int, ...]
    minutes: tuple[int, ...]  # of the day: hour * 60 + minute
    days: frozenset[int]  # 0 is the last of the month
    months: frozenset[int]
    weekdays: frozenset[int]  # 0 is Sunday
    nth_weekdays: frozenset[tuple[int, int]]  # (weekday, n-th in the month; 0 is the last)
    both_days: bool  # day-of-month and day-of-week must both match
    fixed: bool  # neither minute nor hour begins with `*`: cron(8) calls it a job at a particular time


def first_wall(rule: Rule, wall: datetime) -> datetime:
    """The first matching time of the wall clock at or after `wall`. There always is one: see `parse`."""
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
def _days(rule: Rule, year: int, month: int) -> tuple[int, ...]:
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


def wants_seed(cron: str) -> bool:
    """Whether the expression has an `H`; if not, it means the same for every task."""
    return HASH.search(cron) is not None


@lru_cache(maxsize=8_192)
def parse(cron: str, seed: str = "") -> Rule:
    """The rule that the expression stands for, with the seed's slots for `H`; it fires at least once in any 40 years.

    ValueError says what to correct if it cannot be read or never fires.
    """
    fields = [_settled(index, field, seed) for index, field in enumerate(_split(cron))]
    (seconds, _), (minutes, _), (hours, _), (days, _), (months, _), (weekdays, nth_weekdays) = (
        _expand(index, field) for index, field in enumerate(fields)
    )
    rule = Rule(
        fields=tuple(fields),
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
        raise ValueError(f"cron {cron!r} never fires: no year has such a day; correct its day and month")
    return rule


def _split(cron: str) -> list[str]:
    """The six fields, seconds first, with numbers for names and `*` for `?`."""
    # The length first: a list of thousands of ranges would cost milliseconds at every look.
    if len(cron) > MAX_LENGTH or not cron.isascii() or not cron.replace("\t", " ").isprintable():
        raise ValueError(f"cron must be one line of at most {MAX_LENGTH} ASCII characters")
    text = ALIASES.get(cron.strip().lower(), cron.lower())
    fields = text.split()
    if len(fields) not in (5, 6) or text.startswith("@"):
        forms = f"5 fields, 6 with the seconds first, or one of {', '.join(ALIASES)}"
        raise ValueError(f"cron {cron!r} has {len(fields)} field(s); give {forms}")
    fields = ["0"] * (6 - len(fields)) + fields
    for index, names in NAMES.items():
        fields[index] = "".join(str(names.get(word, word)) for word in re.split(r"(\W)", fields[index]))
    return ["*" if field == "?" and index in (DAY, WEEKDAY) else field for index, field in enumerate(fields)]


def _settled(index: int, field: str, seed: str) -> str:
    try:
        items = [spread.settle(item, seed, FIELDS[index], *HASHED_RANGES[index]) for item in field.split(",")]
    except ValueError:
        raise ValueError(_unreadable(index, field)) from None
    return ",".join(items)


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
        raise ValueError(_unreadable(index, field)) from None
    values = range(low, high + 1) if "*" in expanded[place] else expanded[place]
    pairs = [(weekday, nth) for weekday, all_nth in nth_weekdays.items() for nth in all_nth]
    return [0 if value == "l" else value for value in values], [(day, 0 if nth == "l" else nth) for day, nth in pairs]


def _unreadable(index: int, field: str) -> str:
    low, high = croniter.RANGES[(index - 1) % 6]
    forms = "*, 5, 1-5, */15, 1-30/5, H, H(1-5) or a list of these (a range that wraps around takes no step)"
    hashed = " (with H: 1 to 28)" if index == DAY and "h" in field else ""
    return f"{field!r} is no {FIELDS[index]} of a cron; write {forms} with numbers from {low} to {high}{hashed}"


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
