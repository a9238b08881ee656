"""`clockjack next`: what a cron expression means, without any server."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from clockjack import documents, registration, zones
from clockjack.cli import session
from clockjack.cli.session import Failed, Json
from clockjack.schedules import Schedule, next_after, validate
from clockjack.telemetry import wall_clock


def next_(
    cron: str,
    tz: Annotated[str, typer.Option("--tz")] = "UTC",
    count: Annotated[int, typer.Option(min=1, max=1000)] = 5,
    after: Annotated[str | None, typer.Option("--from", help="RFC 3339; now, if not given")] = None,
    json: Json = False,
) -> None:
    """When a cron expression fires next; needs no server."""
    schedule = Schedule(cron=cron, timezone=tz)
    validate(schedule)
    try:
        found = (
            registration.moment(after) if after else datetime.fromtimestamp(wall_clock()(), UTC).replace(tzinfo=None)
        )
    except ValueError as error:
        raise Failed(f"--from: {error}", 2) from None
    times: list[dict[str, str | None]] = []
    while len(times) < count and (due := next_after(schedule, found)):
        found = due
        local = due.replace(tzinfo=UTC).astimezone(zones.load(tz))
        times.append({"utc": documents.moment(due), "local": local.isoformat(), "weekday": local.strftime("%a")})
    session.write(times, ("local", "weekday", "utc"), json)
