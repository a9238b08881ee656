"""How the tests of schedules read their tables."""

from datetime import UTC, datetime

from clockjack import schedules, zones
from clockjack.schedules import Schedule


def rows(table: str) -> list[list[str]]:
    """The cells of each line."""
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


def fires(schedule: Schedule, after: datetime, count: int) -> list[datetime]:
    """The next occurrences, at most `count`."""
    return list(schedules.occurrences(schedule, after, count=count))


def utc(zone: str, wall: str) -> datetime:
    """The first instant at which the clocks of the zone show this."""
    local = datetime.fromisoformat(wall).replace(tzinfo=zones.load(zone))
    return local.astimezone(UTC).replace(tzinfo=None)
