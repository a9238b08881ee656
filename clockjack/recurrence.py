"""Recurrence rules of RFC 5545 §3.3.10, in no zone: the times of the wall clock at which they fire. Pure.

python-dateutil says which days of one year a rule picks. Which years, months, weeks, days, hours and minutes are the
rule's by its INTERVAL is reckoned here, so that looking far ahead costs no walk there, and a rule that never fires no
endless one. The rule comes as text without DTSTART: "FREQ=MONTHLY;BYDAY=2TU". Decided once:

- DTSTART gives what the rule leaves open (§3.3.10); it is an occurrence only if the rule matches it.
- HOURLY and MINUTELY step along the wall clock and follow it at clock changes, as `*` does in cron; longer ones are
  meant for a particular time.
- UNTIL is inclusive (§3.3.10): an instant if it ends in Z, else a time of the wall clock; a date is that whole day.
- COUNT counts times of the wall clock from DTSTART on, also those that a clock change, `exclude` or downtime takes.
- What §3.3.10 forbids is refused (both UNTIL and COUNT, BYWEEKNO outside YEARLY, BYYEARDAY with DAILY to MONTHLY,
  BYMONTHDAY with WEEKLY, BYDAY with a number outside MONTHLY and YEARLY or beside BYWEEKNO, BYSETPOS alone).
- So are SECONDLY (`every_s` and cron have seconds), leap seconds, BYEASTER and X- parts, BYWEEKNO without BYDAY,
  BYSETPOS with HOURLY or MINUTELY, and rules that first fire more than 40 years after DTSTART, or never.
"""

# ruff: noqa: DTZ001
from bisect import bisect_left
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from functools import lru_cache
from itertools import islice, product
from typing import Any

from dateutil import rrule

from clockjack.rrule_text import DAY_PARTS, Rule, Time, read
from clockjack.zones import LAST

MAX_WAIT_YEARS = 40
MAX_DAYS = {"YEARLY": 366, "MONTHLY": 31, "WEEKLY": 7, "DAILY": 1}
ONE_YEAR = 10_000  # as INTERVAL it makes dateutil stop after the first year


def check(text: str) -> None:
    """The text is a rule that can be read; ValueError says what to correct. Whether it fires depends on DTSTART."""
    read(text, datetime(2000, 1, 1))


@lru_cache(maxsize=4_096)
def parse(text: str, start: datetime) -> tuple[Rule, datetime]:
    """The rule that begins at `start` (DTSTART, whole seconds by the wall clock), and its last time at most.

    ValueError says what to correct if it cannot be read or does not fire in its first 40 years.
    """
    rule = read(text, start)
    first = next(_walls(rule, start, start.year + MAX_WAIT_YEARS), None) if _may_fire(rule) else None
    if first is None or (rule.until and first > rule.until):
        raise ValueError(f"rrule {text!r} never fires, or first after {MAX_WAIT_YEARS} years: correct its BY… parts")
    last = min(rule.until or LAST, LAST)
    if rule.count:
        *_, last = islice(_walls(rule, start, LAST.year), rule.count)
    return rule, last


def first_wall(rule: Rule, last: datetime, wall: datetime) -> datetime | None:
    """The rule's first time of the wall clock at or after `wall` and up to `last`, if there is one."""
    found = next(_walls(rule, wall, last.year), None)
    return found if found and found <= last else None


def _may_fire(rule: Rule) -> bool:
    """Whether any day could have times: without it the search would take long for some rules that never fire."""
    if "BYSETPOS" in rule.numbers:
        return any(abs(place) <= MAX_DAYS[rule.freq] * len(rule.times) for place in rule.numbers["BYSETPOS"])
    return any(_times(rule, rule.start.date() + timedelta(days=day)) for day in range(rule.interval))  # then it recurs


def _walls(rule: Rule, wall: datetime, last_year: int) -> Iterator[datetime]:
    wall = max(wall, rule.start)
    if wall.microsecond:
        wall = wall.replace(microsecond=0) + timedelta(seconds=1)
    for year in range(wall.year, last_year + 1):
        if "BYSETPOS" in rule.numbers:
            chosen = _chosen(rule, year)
            yield from chosen[bisect_left(chosen, wall) :]
            continue
        january = date(year, 1, 1)
        days = _days(rule, year)
        for day in days[bisect_left(days, (wall.date() - january).days) :]:
            on = january + timedelta(days=day)
            times = _times(rule, on)
            today = bisect_left(times, (wall.hour, wall.minute, wall.second)) if on == wall.date() else 0
            for time in times[today:]:
                yield datetime(on.year, on.month, on.day, *time)


@lru_cache(maxsize=4_096)
def _days(rule: Rule, year: int) -> tuple[int, ...]:
    """The days of the year (0 is 1 January) that the rule picks, whatever the time of day."""
    start, months = rule.start, rule.numbers.get("BYMONTH") or tuple(range(1, 13))
    if rule.freq == "YEARLY" and (year - start.year) % rule.interval:
        return ()
    if rule.freq == "MONTHLY":
        passed = (year - start.year) * 12 - start.month
        months = tuple(month for month in months if (passed + month) % rule.interval == 0)
        if not months:
            return ()
    given = {part.lower(): rule.numbers[part] for part in DAY_PARTS if part in rule.numbers}
    if not given and not rule.days:
        given["byweekday"] = tuple(range(7))
    if rule.freq != "YEARLY" or "BYMONTH" in rule.numbers:
        given["bymonth"] = months
    if rule.days:  # apart, for dateutil would want both of MO,2TU on one day
        plain = [rrule.weekday(weekday) for number, weekday in rule.days if not number]
        numbered = [rrule.weekday(weekday, number) for number, weekday in rule.days if number]
        found = {day for some in (plain, numbered) if some for day in _picked(rule, year, given | {"byweekday": some})}
    else:
        found = set(_picked(rule, year, given))
    january = date(year, 1, 1)
    if rule.freq in ("WEEKLY", "DAILY"):
        found = {day for day in found if _period(rule, january + timedelta(days=day)) % rule.interval == 0}
    return tuple(sorted(found))


def _picked(rule: Rule, year: int, parts: dict[str, Any]) -> Iterator[int]:
    begin = datetime(year, 1, 1)
    midnights = rrule.rrule(
        rrule.YEARLY, begin, ONE_YEAR, rule.week_start, byhour=0, byminute=0, bysecond=0, cache=False, **parts
    )
    return ((midnight - begin).days for midnight in midnights)


def _period(rule: Rule, day: date) -> int:
    """Which of the rule's weeks or days from DTSTART on this day belongs to."""
    if rule.freq == "DAILY":
        return (day - rule.start.date()).days
    return _week(rule, day) - _week(rule, rule.start.date())


def _week(rule: Rule, day: date) -> int:
    return (day.toordinal() - 1 - rule.week_start) // 7  # ordinal 1 is a Monday


def _times(rule: Rule, day: date) -> tuple[Time, ...]:
    """The times of this day at which the rule fires, in order, if it picks the day."""
    if rule.freq not in ("HOURLY", "MINUTELY"):
        return rule.times
    unit = 24 if rule.freq == "HOURLY" else 1440
    begun = rule.start.hour if rule.freq == "HOURLY" else rule.start.hour * 60 + rule.start.minute
    return _steps(rule, (begun - unit * (day - rule.start.date()).days) % rule.interval)


@lru_cache(maxsize=1_024)
def _steps(rule: Rule, first: int) -> tuple[Time, ...]:
    """The times of a day whose first hour or minute in step is this one."""
    hours, minutes, seconds = (rule.numbers.get(part) for part in ("BYHOUR", "BYMINUTE", "BYSECOND"))
    seconds = seconds or (rule.start.second,)
    if rule.freq == "HOURLY":
        steps = [hour for hour in range(first, 24, rule.interval) if not hours or hour in hours]
        return tuple(product(steps, minutes or (rule.start.minute,), seconds))
    pairs = (divmod(minute, 60) for minute in range(first, 1440, rule.interval))
    kept = [
        (hour, minute) for hour, minute in pairs if (not hours or hour in hours) and (not minutes or minute in minutes)
    ]
    return tuple((hour, minute, second) for hour, minute in kept for second in seconds)


@lru_cache(maxsize=1_024)
def _chosen(rule: Rule, year: int) -> tuple[datetime, ...]:
    """The year's times of a rule with BYSETPOS: of each period's times, in order, those at these places."""
    periods: dict[int, list[date]] = {}
    for near in (year - 1, year, year + 1) if rule.freq == "WEEKLY" else (year,):
        for number in _days(rule, near):
            day = date(near, 1, 1) + timedelta(days=number)
            key = day.month if rule.freq == "MONTHLY" else year if rule.freq == "YEARLY" else _period(rule, day)
            periods.setdefault(key, []).append(day)
    found = set()
    for days in periods.values():
        size = len(days) * len(rule.times)
        for place in rule.numbers["BYSETPOS"]:
            index = place - 1 if place > 0 else size + place
            if 0 <= index < size:
                day, time = days[index // len(rule.times)], rule.times[index % len(rule.times)]
                found.add(datetime(day.year, day.month, day.day, *time))
    return tuple(sorted(wall for wall in found if wall.year == year))
