"""Times, spans and numbers as people say them. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from clockjack import zones

MAX_LISTED = 4
SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def span(length: timedelta) -> str:
    """`350 ms`, `1.2 s`, `42 s`, `5 min 3 s`, `2 h 10 min`, `3 days 4 h`; what is left of the two units is cut off."""
    if length < SECOND:
        return f"{length // timedelta(milliseconds=1)} ms"
    if length < 10 * SECOND:
        tenths = length // timedelta(milliseconds=100)
        return f"{tenths // 10}{f'.{tenths % 10}' if tenths % 10 else ''} s"
    units = ((DAY, "day"), (HOUR, "h"), (MINUTE, "min"), (SECOND, "s"))
    found = []
    for size, unit in units:
        number, length = length // size, length % size
        if number:
            found.append(f"{number} {unit}{'s' if unit == 'day' and number > 1 else ''}")
        elif found:
            break
    return " ".join(found[:2])


def at(moment: datetime) -> str:
    """A naive UTC datetime to the second."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def zoned(timezone: str, moment: datetime) -> datetime:
    """What the zone's clocks show at a naive UTC datetime, with their offset."""
    return moment.replace(tzinfo=UTC).astimezone(zones.load(timezone))


def clock(wall: datetime) -> str:
    """A time of the wall clock, with its seconds only if it has some."""
    return f"{wall:%H:%M:%S}" if wall.second else f"{wall:%H:%M}"


def number(count: int, noun: str, bound: int | None = None) -> str:
    """`1 run`, `12 runs`; with `bound` reached, `1,000 runs or more`."""
    text = f"{count:,} {noun}{'' if count == 1 else 's'}"
    return f"{text} or more" if bound is not None and count >= bound else text


def listed(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`, `a, b, c, d and 7 more`."""
    found = list(items)
    if len(found) > MAX_LISTED + 1:
        found = [*found[:MAX_LISTED], f"{len(found) - MAX_LISTED} more"]
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} and {found[-1]}"


def first_line(text: str, most: int = 200) -> str:
    """The first line of a text that says something, at most so long."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= most else line[: most - 1] + "…"
