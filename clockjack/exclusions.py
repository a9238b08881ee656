"""Dates on which a task does not run: `2026-12-25`, or an inclusive range `2026-12-24/2027-01-01`. Pure."""

import json
import re
from bisect import bisect_right
from datetime import date, timedelta
from functools import lru_cache

MAX_ENTRIES, MAX_LENGTH = 400, 10_000
DAY = timedelta(days=1)
ENTRY = re.compile(r"(\d{4}-\d\d-\d\d)(?:/(\d{4}-\d\d-\d\d))?", re.ASCII)

Ranges = tuple[tuple[date, date], ...]
Exclude = tuple[str, ...] | str | None  # a str is JSON, as a column holds it


def ranges(exclude: Exclude) -> Ranges:
    """The first and last dates of the ranges, in order, apart from one another; ValueError says what is wrong."""
    if exclude is None or isinstance(exclude, str):
        return _ranges(exclude or "[]")
    if not isinstance(exclude, (tuple, list)) or not all(isinstance(entry, str) for entry in exclude):
        raise ValueError('exclude must be a list of dates as text, such as ["2026-12-25"]')
    return _ranges(tuple(exclude))


def covering(found: Ranges, day: date) -> date | None:
    """The last date of the range that has this day, if one has."""
    index = bisect_right(found, day, key=_first) - 1
    return found[index][1] if index >= 0 and day <= found[index][1] else None


@lru_cache(maxsize=4_096)
def _ranges(exclude: tuple[str, ...] | str) -> Ranges:
    entries: object = exclude
    if isinstance(exclude, str):
        if len(exclude) > MAX_LENGTH:
            raise ValueError(f"exclude must have at most {MAX_LENGTH} characters")
        try:
            entries = json.loads(exclude)
        except (ValueError, RecursionError):
            raise ValueError('exclude must be a JSON array of dates, such as ["2026-12-25"]') from None
    entries = [] if entries is None else entries
    if not isinstance(entries, (tuple, list)) or len(entries) > MAX_ENTRIES:
        raise ValueError(f"exclude must be a list of at most {MAX_ENTRIES} dates")
    merged: list[tuple[date, date]] = []
    for first, last in sorted(_entry(entry) for entry in entries):
        if merged and first <= merged[-1][1] + DAY:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)


def _entry(entry: object) -> tuple[date, date]:
    match = ENTRY.fullmatch(entry) if isinstance(entry, str) else None
    try:
        if not match:
            raise ValueError
        first = date.fromisoformat(match[1])
        last = date.fromisoformat(match[2]) if match[2] else first
        if not 2000 <= first.year <= last.year <= 2199 or last < first:
            raise ValueError
    except ValueError:
        form = "a date such as 2026-12-25 or a range such as 2026-12-24/2027-01-01, in the years 2000 to 2199"
        raise ValueError(f"exclude has {ascii(entry)[:50]}; write {form}") from None
    return first, last


def _first(entry: tuple[date, date]) -> date:
    return entry[0]
