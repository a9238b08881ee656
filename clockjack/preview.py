"""What a schedule means, for somebody who is about to use it: its words, its next occurrences, its surprises. Pure."""

from datetime import UTC, datetime
from typing import Any

from clockjack import moments, zones
from clockjack.cautions import warnings
from clockjack.schedules import Schedule, occurrences, validate
from clockjack.wording import words


def preview(schedule: Schedule, after: datetime, count: int) -> dict[str, Any]:
    """`words`, the `next` occurrences after `after` in UTC and by the zone's clocks, and `warnings`, as JSON.

    ScheduleError if the schedule is not sound.
    """
    validate(schedule)
    return {
        "words": words(schedule),
        "timezone": schedule.timezone,
        "next": [_shown(schedule, due) for due in occurrences(schedule, after, count=count)],
        "warnings": warnings(schedule, after),
    }


def _shown(schedule: Schedule, due: datetime) -> dict[str, str]:
    local = due.replace(tzinfo=UTC).astimezone(zones.load(schedule.timezone))
    return {"utc": moments.text(due), "local": local.isoformat(), "weekday": f"{local:%a}"}
