"""Time zones as the pinned tzdata package has them, and their changes of offset from UTC.

Never the system's zone files: two hosts would disagree about the future. `ZoneInfo.from_file` reads the package and
leaves zoneinfo's search path, which belongs to the program that imports us, as it is. Instants are naive UTC.
"""

# ruff: noqa: DTZ001
from bisect import bisect_left, bisect_right
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from importlib import metadata
from importlib.resources import files
from typing import NamedTuple
from zoneinfo import ZoneInfo

NO_SHIFT = timedelta(0)
SAMPLE = timedelta(days=5)
SECOND = timedelta(seconds=1)
LAST = datetime(2199, 12, 31, 23, 59, 59, 999999)  # nothing is looked for after it


class Change(NamedTuple):
    """At the instant `at` a zone's offset from UTC goes from `before` to `after`."""

    at: datetime
    before: timedelta
    after: timedelta


@cache
def version() -> str:
    """The version of the tzdata package whose zones these are."""
    return metadata.version("tzdata")


@cache
def names() -> frozenset[str]:
    """The names of all zones, case sensitive. What is not in it must not be loaded: a name becomes a path."""
    listed = files("tzdata").joinpath("zones").read_text(encoding="ascii").split()
    return frozenset(listed) - {"Factory", "localtime", "posixrules"}  # no places


@cache
def load(zone: str) -> ZoneInfo:
    """The zone of this name; KeyError if `names()` does not have it."""
    if zone not in names():
        raise KeyError(zone)
    with files("tzdata").joinpath("zoneinfo", *zone.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=zone)


def stretch(zone: str, instant: datetime) -> tuple[Change, datetime]:
    """The last change up to `instant`, and a later instant before which there is no other.

    A change that lies more than a week back may be replaced by one that shifts nothing.
    """
    changes = changes_of(zone, instant.year)
    index = bisect_right(changes, instant, key=_at)
    end = changes[index].at if index < len(changes) else datetime(instant.year + 1, 1, 1)
    return changes[index - 1], end


def next_change(zone: str, instant: datetime) -> Change | None:
    """The first change after `instant`, if there is one before the end of the next year."""
    for year in (instant.year, instant.year + 1):
        for change in changes_of(zone, year):
            if change.at > instant and change.before != change.after:
                return change
    return None


@lru_cache(maxsize=16_384)
def changes_of(zone: str, year: int) -> tuple[Change, ...]:
    """The zone's changes in this year, after one without a shift that stands for the state a week before it.

    zoneinfo does not tell its changes, so they are searched for. Since 2000 no two of a zone lie less than 6.9 days
    apart (Gaza, 2040), so samples every 5 days miss none; a test compares them with the zone files.
    """
    loaded = load(zone)
    low, end = datetime(year - 1, 12, 25), datetime(year + 1, 1, 1)
    offset = _offset(loaded, low)
    changes = [Change(low, offset, offset)]
    while low < end:
        high = low + SAMPLE
        after = _offset(loaded, high)
        if after != offset:
            changes.append(Change(_first_instant(loaded, low, high, after), offset, after))
        low, offset = high, after
    return tuple(changes)


def _first_instant(zone: ZoneInfo, low: datetime, high: datetime, offset: timedelta) -> datetime:
    seconds = range((high - low) // SECOND)
    passed = bisect_left(seconds, True, key=lambda second: _offset(zone, low + second * SECOND) == offset)
    return low + passed * SECOND


def _offset(zone: ZoneInfo, instant: datetime) -> timedelta:
    return instant.replace(tzinfo=UTC).astimezone(zone).utcoffset() or NO_SHIFT


def _at(change: Change) -> datetime:
    return change.at
