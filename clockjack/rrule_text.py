"""What a recurrence rule of RFC 5545 §3.3.10 says: its text, read and checked, with what DTSTART gives. Pure.

The text comes without DTSTART: "FREQ=MONTHLY;BYDAY=2TU". See `clockjack.recurrence` for what was decided.
"""

# ruff: noqa: DTZ001
import re
from dataclasses import dataclass
from datetime import datetime
from itertools import product

MAX_LENGTH, MAX_INTERVAL, MAX_COUNT = 500, 1_000, 5_000
FREQUENCIES = ("YEARLY", "MONTHLY", "WEEKLY", "DAILY", "HOURLY", "MINUTELY")
WEEKDAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
# part: the largest number, whether it may be negative, the frequencies it may go with
NUMBERS = {
    "BYMONTH": (12, False, FREQUENCIES),
    "BYWEEKNO": (53, True, ("YEARLY",)),
    "BYYEARDAY": (366, True, ("YEARLY", "HOURLY", "MINUTELY")),
    "BYMONTHDAY": (31, True, ("YEARLY", "MONTHLY", "DAILY", "HOURLY", "MINUTELY")),
    "BYHOUR": (23, False, FREQUENCIES),
    "BYMINUTE": (59, False, FREQUENCIES),
    "BYSECOND": (59, False, FREQUENCIES),
    "BYSETPOS": (366, True, FREQUENCIES[:4]),
}
DAY_PARTS = ("BYWEEKNO", "BYYEARDAY", "BYMONTHDAY", "BYDAY")
UNTIL = re.compile(r"(\d{4})(\d\d)(\d\d)(?:T(\d\d)(\d\d)(\d\d)(Z?))?", re.ASCII)
BYDAY = re.compile(r"([+-]?\d{1,2})?(MO|TU|WE|TH|FR|SA|SU)", re.ASCII)

Time = tuple[int, int, int]


@dataclass(frozen=True, slots=True, eq=False)  # compared by identity: it is a key of caches
class Rule:
    """A rule that was read, with what it takes from DTSTART."""

    freq: str
    interval: int
    start: datetime
    numbers: dict[str, tuple[int, ...]]  # the BY… parts except BYDAY
    days: tuple[tuple[int, int], ...]  # BYDAY: (number or 0, weekday from Monday = 0)
    week_start: int
    times: tuple[Time, ...]  # of a day; with HOURLY and MINUTELY see the walk
    count: int | None
    until: datetime | None  # time of the wall clock, inclusive
    until_utc: datetime | None  # instant, inclusive
    fixed: bool


def read(text: str, start: datetime) -> Rule:
    """The rule that begins at `start` (DTSTART); ValueError says what to correct if it cannot be read."""
    parts = _parts(text)
    freq = parts.pop("FREQ", "")
    if freq not in FREQUENCIES:
        raise ValueError(
            f"rrule needs FREQ={', '.join(FREQUENCIES[:-1])} or MINUTELY (for seconds use every_s or cron)"
        )
    numbers = {part: _numbers(part, parts.pop(part), freq) for part in NUMBERS if part in parts}
    interval = _whole("INTERVAL", parts.pop("INTERVAL", "1"), MAX_INTERVAL)
    count = _whole("COUNT", parts.pop("COUNT"), MAX_COUNT) if "COUNT" in parts else None
    until, until_utc = _until(parts.pop("UNTIL")) if "UNTIL" in parts else (None, None)
    if count and (until or until_utc):
        raise ValueError("rrule has both COUNT and UNTIL: give one of them")
    week_start = parts.pop("WKST", "MO")
    days = _weekdays(parts.pop("BYDAY"), freq, numbers) if "BYDAY" in parts else ()
    if parts or week_start not in WEEKDAYS:
        raise ValueError(f"rrule cannot have {next(iter(parts), 'WKST')!r} with this value: see RFC 5545, 3.3.10")
    if "BYWEEKNO" in numbers and not days:
        raise ValueError("rrule has BYWEEKNO without BYDAY: say which days of these weeks")
    if "BYSETPOS" in numbers and len(numbers) == 1 and not days:
        raise ValueError("rrule has BYSETPOS without another BY… part to choose from")
    if not days and not any(part in numbers for part in DAY_PARTS):
        if freq in ("YEARLY", "MONTHLY"):
            numbers["BYMONTHDAY"] = (start.day,)
        if freq == "YEARLY":
            numbers.setdefault("BYMONTH", (start.month,))
        if freq == "WEEKLY":
            days = ((0, start.weekday()),)
    hours, minutes, seconds = (
        numbers.get(part, (getattr(start, unit),))
        for part, unit in (("BYHOUR", "hour"), ("BYMINUTE", "minute"), ("BYSECOND", "second"))
    )
    return Rule(
        freq=freq,
        interval=interval,
        start=start,
        numbers=numbers,
        days=days,
        week_start=WEEKDAYS.index(week_start),
        times=tuple(product(hours, minutes, seconds)),
        count=count,
        until=until,
        until_utc=until_utc,
        fixed=freq not in ("HOURLY", "MINUTELY"),
    )


def _parts(text: str) -> dict[str, str]:
    if len(text) > MAX_LENGTH or not text.isascii() or not text.isprintable():
        raise ValueError(f"rrule must be one line of at most {MAX_LENGTH} ASCII characters")
    found: dict[str, str] = {}
    for part in text.strip().upper().removeprefix("RRULE:").split(";"):
        name, _, value = part.partition("=")
        if not name or not value or name in found:
            raise ValueError(f"rrule has {part[:50]!r}; write each part once, as FREQ=WEEKLY;BYDAY=MO,TH (no DTSTART)")
        found[name] = value
    return found


def _numbers(part: str, value: str, freq: str) -> tuple[int, ...]:
    largest, signed, freqs = NUMBERS[part]
    if freq not in freqs:
        raise ValueError(f"rrule cannot have {part} with FREQ={freq}")
    lowest = 0 if part in ("BYHOUR", "BYMINUTE", "BYSECOND") else 1
    found = set()
    for item in value.split(","):
        if not re.fullmatch(r"[+-]?\d{1,3}" if signed else r"\d{1,2}", item, re.ASCII):
            raise ValueError(f"rrule has {part}={value[:50]}: {item[:20]!r} is no number of it")
        number = int(item)
        if not lowest <= abs(number) <= largest:
            raise ValueError(f"rrule has {part}={value[:50]}: write numbers from {lowest} to {largest}")
        found.add(number)
    return tuple(sorted(found))


def _weekdays(value: str, freq: str, numbers: dict[str, tuple[int, ...]]) -> tuple[tuple[int, int], ...]:
    found = set()
    for item in value.split(","):
        match = BYDAY.fullmatch(item)
        number = int(match[1] or 0) if match else 0
        if not match or (match[1] and not number):
            raise ValueError(f"rrule has BYDAY={value[:50]}: write MO, TU, WE, TH, FR, SA, SU, also 2MO or -1FR")
        if number and (freq not in ("YEARLY", "MONTHLY") or "BYWEEKNO" in numbers):
            raise ValueError("rrule can have a number in BYDAY with FREQ=MONTHLY or YEARLY only, and not with BYWEEKNO")
        if abs(number) > (53 if freq == "YEARLY" and "BYMONTH" not in numbers else 5):
            raise ValueError(f"rrule has BYDAY={value[:50]}: there is no such week")
        found.add((number, WEEKDAYS.index(match[2])))
    return tuple(sorted(found))


def _whole(part: str, value: str, largest: int) -> int:
    if not re.fullmatch(r"\d{1,9}", value, re.ASCII) or not 1 <= int(value) <= largest:
        raise ValueError(f"rrule has {part}={value[:20]}: write a whole number from 1 to {largest}")
    return int(value)


def _until(value: str) -> tuple[datetime | None, datetime | None]:
    """The last time of the wall clock, or the last instant."""
    match = UNTIL.fullmatch(value)
    try:
        if not match:
            raise ValueError
        year, month, day, *clock = (int(group) for group in match.groups()[:6] if group is not None)
        moment = datetime(year, month, day, *(clock or (23, 59, 59)))
    except ValueError:
        raise ValueError(f"rrule has UNTIL={value[:20]}: write 20271231, or 20271231T235959Z in UTC") from None
    return (None, moment) if match[7] else (moment, None)
