"""`clockjack next --stdin`: one JSON object a line in, one JSON array a line out, in the same order.

    {"cron": "30 2 * * *", "timezone": "Europe/Berlin", "after": "2026-03-28T12:00:00Z", "count": 2}
    ["2026-03-29T01:00:00Z","2026-03-30T00:30:00Z"]

The instants are strictly after `after`, at most `count` or up to and including `until`, RFC 3339 in UTC. The other
names are those of a schedule: every kind and option; every_s and rrule without start_at count from `after`. Bad input
is answered by {"error": …}. Every line has its answer at once.
Pure but for the two streams, and light to import: no servers, no settings.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import fields
from datetime import datetime
from typing import IO, Any

from clockjack import moments
from clockjack.schedules import Schedule, ScheduleError, next_after, validate
from clockjack.zones import LAST

MAX_LINE, MAX_INSTANTS = 65_536, 1_000_000
NAMES = frozenset(field.name for field in fields(Schedule)) - {"anchor"} | {"after", "until", "count"}
READERS: dict[str, Callable[[object], datetime]] = {
    "run_at": moments.moment,
    "start_at": moments.moment,
    "end_at": moments.moment,
    "run_at_local": moments.wall,
    "after": lambda value: moments.moment(value, up=False),
    "until": lambda value: moments.moment(value, up=False),
}


def serve(lines: Iterable[bytes], out: IO[str]) -> None:
    """Each line has its answer in `out`."""
    for line in lines:
        out.write(answer(line) + "\n")
        out.flush()


def answer(line: bytes) -> str:
    """The answer to one line, as JSON."""
    try:
        return f'["{texts}"]' if (texts := '","'.join(_instants(_read(line)))) else "[]"
    except (ScheduleError, _BadLine) as error:
        text = str(error)
        return json.dumps({"error": text if text.startswith(f"{error.field} ") else f"{error.field}: {text}"})


class _BadLine(ValueError):
    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def _read(line: bytes) -> dict[str, Any]:
    if len(line) > MAX_LINE:
        raise _BadLine("line", f"longer than {MAX_LINE} bytes")
    try:
        document = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        raise _BadLine("line", "not valid JSON in UTF-8") from None
    if not isinstance(document, dict):
        raise _BadLine("line", "expected a JSON object")
    if unknown := sorted(document.keys() - NAMES):
        raise _BadLine(ascii(unknown[0])[:50], f"there is no such name; there are {', '.join(sorted(NAMES))}")
    given = {name: value for name, value in document.items() if value is not None}
    for name in given.keys() & READERS.keys():
        try:
            given[name] = READERS[name](given[name])
        except ValueError as error:
            raise _BadLine(name, str(error)) from None
    return given


def _instants(given: dict[str, Any]) -> list[str]:
    after, until, count = given.pop("after", None), given.pop("until", None), given.pop("count", None)
    if after is None:
        raise _BadLine("after", "is required: RFC 3339, such as 2026-03-28T12:00:00Z")
    if until is None and count is None:
        raise _BadLine("count", "give count or until")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= MAX_INSTANTS):
        raise _BadLine("count", f"expected a whole number up to {MAX_INSTANTS}")
    schedule = Schedule(**given, anchor=after)
    validate(schedule)
    last, limit = until or LAST, MAX_INSTANTS if count is None else count
    found: list[str] = []
    while len(found) < limit and (instant := next_after(schedule, after)) and instant <= last:
        found.append(moments.text(instant))
        after = instant
    if count is None and len(found) == limit:
        raise _BadLine("until", f"there are {MAX_INSTANTS} instants or more up to it: ask for fewer")
    return found
