"""When a definition is due, by brute force: cron as cron(8) lives through it minute by minute, and plain arithmetic.

It knows the schedules that the load uses (cron of 5 or 6 fields, every_s, run_at, start_at, end_at, dst_gap,
dst_fold). Anything else raises `Unknown`: the oracle never guesses. A definition that no scheduler could read raises
`Unreadable`: nothing of it is ever due. All times are µs since 1970 UTC.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import cache
from importlib import resources
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

S = 1_000_000
MINUTE = 60 * S
CORRECTION_MIN = 180  # clocks that are moved further are corrected, not changed
BEYOND = ("rrule", "run_at_local", "in_s", "exclude", "jitter_s")
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Unknown(Exception):
    """The oracle has no opinion on this."""


class Unreadable(Exception):
    """There is nothing to have an opinion on."""


class Cron(NamedTuple):
    """The numbers that the fields of a cron stand for; `fixed`: it names a particular time."""

    seconds: tuple[int, ...]
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    both_days: bool
    fixed: bool

    def on(self, day: date) -> bool:
        """Whether it runs on this day at all."""
        by_date, by_weekday = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return day.month in self.months and (by_date and by_weekday if self.both_days else by_date or by_weekday)

    def at(self, wall: datetime) -> bool:
        """Whether it runs in this minute of the clock on the wall."""
        return wall.minute in self.minutes and wall.hour in self.hours and self.on(wall.date())


def micros(value: Any) -> int:
    """A moment of a definition: µs as they are, or an ISO text, in UTC unless it says otherwise."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        when = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise Unreadable(f"{value!r} is no moment") from None
    delta = (when if when.tzinfo else when.replace(tzinfo=UTC)) - EPOCH
    return (delta.days * 86_400 + delta.seconds) * S + delta.microseconds


def due(definition: Mapping[str, Any], low_us: int, high_us: int, created_us: int | None = None) -> list[int]:
    """Every occurrence of the definition from `low_us` to `high_us`, both included; `created_us` anchors every_s."""
    if found := [name for name in BEYOND if definition.get(name)]:
        raise Unknown(f"the oracle does not know {found[0]}")
    if definition.get("run_at") is not None:
        at = micros(definition["run_at"])
        return [at] if low_us <= at <= high_us else []
    start = None if definition.get("start_at") is None else micros(definition["start_at"])
    low_us = low_us if start is None else max(low_us, start)
    if definition.get("end_at") is not None:
        high_us = min(high_us, micros(definition["end_at"]))
    if (every_s := definition.get("every_s")) is not None:
        if not isinstance(every_s, int) or every_s < 1:
            raise Unreadable(f"every_s is {every_s!r}")
        return _every(every_s * S, start, created_us, low_us, high_us)
    if definition.get("cron") is None:
        raise Unreadable("it has no schedule")
    return list(_cron(definition, low_us, high_us))


def _every(step: int, start: int | None, created_us: int | None, low_us: int, high_us: int) -> list[int]:
    if start is None and created_us is None:
        return []
    anchor = start if start is not None else (created_us or 0) + step
    first = max(anchor, anchor + -(-(low_us - anchor) // step) * step)
    return list(range(first, high_us + 1, step))


def _cron(definition: Mapping[str, Any], low_us: int, high_us: int) -> Iterator[int]:
    cron = parse(str(definition["cron"]))
    gap, fold = definition.get("dst_gap", "run_after"), definition.get("dst_fold", "first")
    for minute in minutes(str(definition.get("timezone") or "UTC"), low_us // MINUTE, high_us // MINUTE):
        hit = cron.at(minute.wall)
        if cron.fixed and minute.repeated and fold not in ("both", minute.repeated):
            hit = False
        made_up = not hit and cron.fixed and gap == "run_after" and any(cron.at(wall) for wall in minute.lost)
        for second in cron.seconds if hit else cron.seconds[:1] if made_up else ():
            at = minute.number * MINUTE + second * S
            if low_us <= at <= high_us:
                yield at


class Minute(NamedTuple):
    """A minute of UTC: what the clock on the wall shows, in which pass if there are two, and what it has skipped."""

    number: int
    wall: datetime
    repeated: str
    lost: tuple[datetime, ...]


def minutes(name: str, low: int, high: int) -> Iterator[Minute]:
    """The minutes `low` to `high` since 1970 as they are lived through in this zone."""
    zone = place(name)
    hours = range(low // 60, high // 60 + 1)
    for number in (n for hour in hours for n in range(hour * 60, hour * 60 + 60)):
        if low <= number <= high:
            yield _minute(zone, name, number)


@cache
def _minute(zone: tzinfo, name: str, number: int) -> Minute:
    before, here = ((EPOCH + timedelta(minutes=n)).astimezone(zone) for n in (number - 1, number))
    wall = here.replace(tzinfo=None, fold=0)
    back = (here.replace(fold=0).utcoffset() or timedelta()) - (here.replace(fold=1).utcoffset() or timedelta())
    twice = timedelta() < back <= timedelta(minutes=CORRECTION_MIN)
    repeated = ("last" if here.fold else "first") if twice else ""
    jump = wall - before.replace(tzinfo=None, fold=0) - timedelta(minutes=1)
    lost = int(jump / timedelta(minutes=1)) if jump <= timedelta(minutes=CORRECTION_MIN) else 0
    return Minute(number, wall, repeated, tuple(wall - timedelta(minutes=n) for n in range(lost, 0, -1)))


@cache
def place(name: str) -> tzinfo:
    """The zone of the packaged tzdata, not the system's."""
    parts = name.split("/")
    if not all(part and part[0].isalpha() for part in parts):
        raise Unreadable(f"{name!r} is no zone")
    try:
        with resources.files("tzdata").joinpath("zoneinfo", *parts).open("rb") as file:
            return ZoneInfo.from_file(file, key=name)
    except (OSError, ValueError):
        raise Unreadable(f"{name!r} is no zone") from None


@cache
def parse(text: str) -> Cron:
    """The fields of a cron with 5 or 6 fields."""
    fields = text.upper().split()
    if len(fields) == 5:
        fields.insert(0, "0")
    if any(c in text for c in "@#?"):
        raise Unknown(f"the oracle does not know the cron {text!r}")
    if len(fields) != 6:
        raise Unreadable(f"{text!r} has neither 5 nor 6 fields")
    second, minute, hour, day, month, weekday = fields
    return Cron(
        tuple(sorted(numbers(second, 0, 59))),
        numbers(minute, 0, 59),
        numbers(hour, 0, 23),
        numbers(day, 1, 31),
        numbers(month, 1, 12, MONTHS),
        frozenset(n % 7 for n in numbers(weekday, 0, 7, DAYS)),
        day[0] == "*" or weekday[0] == "*",
        minute[0] != "*" and hour[0] != "*",
    )


def numbers(field: str, low: int, high: int, words: tuple[str, ...] = ()) -> frozenset[int]:
    """What a list of `*`, `a`, `a-b`, `a/n`, `*/n`, `a-b/n` stands for; `a-b` may wrap around."""
    found: set[int] = set()
    for item in field.split(","):
        span, slash, step_text = item.partition("/")
        first_text, dash, last_text = span.partition("-")
        step = _number(step_text, 1, 10_000, ()) if slash else 1
        top = 6 if words is DAYS and span == "*" else high
        if span == "*":
            first, last = low, top
        else:
            first = _number(first_text, low, high, words)
            last = _number(last_text, low, high, words) if dash else high if slash else first
        if words is DAYS and not dash and slash and span != "*":
            last = 6
        if first <= last:
            found |= set(range(first, last + 1, step))
        elif slash:
            raise Unreadable(f"{item!r} wraps around with a step")
        else:
            found |= {*range(first, top + 1), *range(low, last + 1)}
    return frozenset(found)


def _number(text: str, low: int, high: int, words: tuple[str, ...]) -> int:
    if text in words:
        return words.index(text) + low
    if text and text[0] in "HLWR":
        raise Unknown(f"the oracle does not know {text!r} in a cron")
    if not (text.isascii() and text.isdigit()) or not low <= int(text) <= high:
        raise Unreadable(f"{text!r} is no number from {low} to {high}")
    return int(text)
