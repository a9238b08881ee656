"""`clockjack next`: what a schedule means, without any server."""

import sys
from datetime import UTC, datetime
from typing import Annotated

import typer

from clockjack import lines, moments
from clockjack.cli import show
from clockjack.cli.session import Failed, Json
from clockjack.preview import preview
from clockjack.schedules import Schedule
from clockjack.telemetry import wall_clock


def next_(
    cron: Annotated[str | None, typer.Argument(help="5 fields, or 6 with the seconds first")] = None,
    tz: Annotated[str, typer.Option("--tz", help="the zone, such as Europe/Berlin")] = "UTC",
    count: Annotated[int, typer.Option(min=1, max=1000)] = 5,
    after: Annotated[str | None, typer.Option("--from", help="RFC 3339; now, if not given")] = None,
    every: Annotated[int | None, typer.Option("--every", metavar="SECONDS", help="every_s")] = None,
    rrule: Annotated[str | None, typer.Option(help="RFC 5545, without DTSTART")] = None,
    at_local: Annotated[str | None, typer.Option(help="run_at_local, such as 2030-01-31T08:30:00")] = None,
    start_at: Annotated[str | None, typer.Option(help="RFC 3339")] = None,
    end_at: Annotated[str | None, typer.Option(help="RFC 3339")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="2026-12-25 or 2026-12-24/2027-01-01; also twice")] = None,
    jitter: Annotated[int, typer.Option(metavar="SECONDS", help="jitter_s")] = 0,
    dst_gap: Annotated[str, typer.Option(help="run_after or skip")] = "run_after",
    dst_fold: Annotated[str, typer.Option(help="first, last or both")] = "first",
    seed: Annotated[str, typer.Option(help="the task's identity, for H and jitter")] = "",
    stdin: Annotated[bool, typer.Option("--stdin", help="JSON objects in, JSON arrays out, one a line")] = False,
    json: Json = False,
) -> None:
    """What a schedule says and when it fires next; needs no server."""
    if stdin:
        if cron is not None:
            raise Failed("--stdin: the schedules come as lines of JSON, not as arguments", 2)
        lines.serve(sys.stdin.buffer, sys.stdout)
        return
    begin = _moment("--from", after) or datetime.fromtimestamp(wall_clock()(), UTC).replace(tzinfo=None)
    schedule = Schedule(
        cron=cron,
        every_s=every,
        rrule=rrule,
        run_at_local=_moment("--at-local", at_local, local=True),
        timezone=tz,
        start_at=_moment("--start-at", start_at),
        end_at=_moment("--end-at", end_at),
        anchor=begin,
        exclude=tuple(exclude or ()),
        jitter_s=jitter,
        seed=seed,
        dst_gap=dst_gap,
        dst_fold=dst_fold,
    )
    found = preview(schedule, begin, count)
    if json:
        show.as_json(found)
        return
    print(show.cell(found["words"]))
    show.table(found["next"], ("local", "weekday", "utc"))
    for warning in found["warnings"]:
        show.complain(f"warning: {warning}")


def _moment(option: str, text: str | None, local: bool = False) -> datetime | None:
    if text is None:
        return None
    try:
        return moments.wall(text) if local else moments.moment(text)
    except ValueError as error:
        raise Failed(f"{option}: {error}", 2) from None
