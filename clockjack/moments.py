"""Moments as RFC 3339 texts, and as naive UTC inside. Pure, and light to import."""

import re
from datetime import UTC, datetime, timedelta

FIRST, LAST = datetime.fromisoformat("2000-01-01"), datetime.fromisoformat("2199-12-31")
UTC_OFFSETS = ("Z", "z", "+00:00", "-00:00")
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_LOCAL = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d(?::\d\d)?)(\.\d{1,6})?", re.ASCII)


def moment(value: object, *, up: bool = True) -> datetime:
    """An RFC 3339 text with an offset as naive UTC; a fraction beyond microseconds is rounded up: never early.

    As the end of a span it is to be cut off instead, with `up` false.
    """
    if isinstance(value, datetime) and value.tzinfo is None:
        return value  # read before
    match = _RFC3339.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise ValueError("expected RFC 3339 with an offset, such as 2030-01-31T08:30:00Z or 2030-01-31T08:30:00+01:00")
    date, clock, fraction, offset = match.groups()
    try:
        if offset in UTC_OFFSETS:
            when = datetime.fromisoformat(f"{date}T{clock}")
        else:
            when = datetime.fromisoformat(f"{date}T{clock}{offset}").astimezone(UTC).replace(tzinfo=None)
        if fraction:
            nanoseconds = int(fraction.ljust(9, "0"))
            when += timedelta(microseconds=-(-nanoseconds // 1000) if up else nanoseconds // 1000)
    except (ValueError, OverflowError):
        raise ValueError("there is no such date and time") from None
    return _in_range(when)


def wall(value: object) -> datetime:
    """A time of the wall clock, without an offset, such as 2030-01-31T08:30:00."""
    if isinstance(value, datetime) and value.tzinfo is None:
        return value  # read before
    match = _LOCAL.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise ValueError("expected a date and time without an offset, such as 2030-01-31T08:30:00")
    date, clock, fraction = match.groups()
    try:
        return _in_range(datetime.fromisoformat(f"{date}T{clock}{(fraction or '').ljust(7, '0') if fraction else ''}"))
    except ValueError as error:
        raise ValueError(str(error) if "expected" in str(error) else "there is no such date and time") from None


def text(when: datetime) -> str:
    """A naive UTC datetime as RFC 3339, with a fraction only if it has one."""
    return when.isoformat() + "Z"


def _in_range(when: datetime) -> datetime:
    if not FIRST <= when <= LAST:
        raise ValueError("expected a moment in the years 2000 to 2199")
    return when
