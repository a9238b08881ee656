"""`clockjack simulate`: what would run, be skipped or wait, with outages; needs no server but for --task."""

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from clockjack import registration, trial
from clockjack.cli import session, show
from clockjack.cli.register import duration
from clockjack.cli.session import Failed, Json, Namespace
from clockjack.ledger import acceptance, tasks
from clockjack.simulation import MAX_ROWS
from clockjack.telemetry import wall_clock


def simulate(
    cron: Annotated[str | None, typer.Argument(help="5 fields, or 6 with the seconds first")] = None,
    task: Annotated[int | None, typer.Option(min=1, metavar="ID", help="the schedule and policies of a task")] = None,
    begin: Annotated[str | None, typer.Option("--from", help="RFC 3339; now, if not given")] = None,
    end: Annotated[str | None, typer.Option("--to", help="RFC 3339; a day later, if not given")] = None,
    outage: Annotated[
        list[str] | None, typer.Option(metavar="A..B", help="no dispatcher works from A to B, RFC 3339; also twice")
    ] = None,
    run_duration: Annotated[str, typer.Option("--duration", help="of each run: 90, 90s, 5m, 2h")] = "0",
    tz: Annotated[str | None, typer.Option("--tz", help="the zone, such as Europe/Berlin; UTC, if not given")] = None,
    at: Annotated[str | None, typer.Option(help="run_at, RFC 3339")] = None,
    every: Annotated[int | None, typer.Option("--every", metavar="SECONDS", help="every_s")] = None,
    rrule: Annotated[str | None, typer.Option(help="RFC 5545, without DTSTART")] = None,
    at_local: Annotated[str | None, typer.Option(help="run_at_local, such as 2030-01-31T08:30:00")] = None,
    start_at: Annotated[str | None, typer.Option(help="RFC 3339")] = None,
    end_at: Annotated[str | None, typer.Option(help="RFC 3339")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="2026-12-25 or 2026-12-24/2027-01-01; also twice")] = None,
    jitter: Annotated[int | None, typer.Option(metavar="SECONDS", help="jitter_s")] = None,
    dst_gap: Annotated[str | None, typer.Option(help="run_after or skip")] = None,
    dst_fold: Annotated[str | None, typer.Option(help="first, last or both")] = None,
    seed: Annotated[str | None, typer.Option(help="the task's identity, for H and jitter")] = None,
    misfire: Annotated[str | None, typer.Option(help="of what was missed, run: skip (none), once or all")] = None,
    max_misfires: Annotated[int | None, typer.Option(help="how many of them at most, with all")] = None,
    max_lateness: Annotated[
        int | None, typer.Option(metavar="SECONDS", help="max_lateness_s: later is skipped")
    ] = None,
    overlap: Annotated[str | None, typer.Option(help="allow, skip, queue_one or replace")] = None,
    max_runs: int | None = None,
    namespace: Namespace = "default",
    json: Json = False,
) -> None:
    """What would run, be skipped or wait, by the decisions that production makes."""
    window = {
        "from": begin, "to": end, "outages": [_outage(text) for text in outage or ()],
        "duration_s": duration("--duration", run_duration).total_seconds(),
    }  # fmt: skip
    schedule = {
        "cron": cron, "timezone": tz, "run_at": at, "every_s": every, "rrule": rrule, "run_at_local": at_local,
        "start_at": start_at, "end_at": end_at, "exclude": exclude or None, "jitter_s": jitter, "dst_gap": dst_gap,
        "dst_fold": dst_fold, "seed": seed,
    }  # fmt: skip
    policies = {
        "misfire": misfire, "max_misfires": max_misfires, "max_lateness_s": max_lateness, "overlap": overlap,
        "max_runs": max_runs,
    }  # fmt: skip
    given = {name: value for name, value in (schedule | policies).items() if value is not None}
    if task is None:
        wanted = registration.read(trial.Trial, _some(window) | given)
        found = trial.of_schedule(wanted, datetime.fromtimestamp(wall_clock()(), UTC).replace(tzinfo=None), MAX_ROWS)
    else:
        if wrong := [name for name in given if name in schedule]:
            raise Failed(f"{wrong[0]}: the schedule is the task's; give either --task or a schedule", 2)
        # checked beside a schedule that is sound
        checked = registration.read(trial.Trial, _some(window) | given | {"every_s": 1})
        with session.ledger() as database:
            row = acceptance.read(database, lambda c: tasks.get(c, namespace, task))
            now = database.now()
        if row is None:
            raise Failed(f"there is no task {task}")
        found = trial.of_task(row | {name: getattr(checked, name) for name in given}, checked, now, MAX_ROWS)
    if json:
        show.as_json(found)
        return
    print(show.cell(found["words"]))
    show.table((row | {"why": row["why"] or None} for row in found["rows"]), ("local", "utc", "what", "why"))
    print(show.cell(found["summary"]))


def _some(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _outage(text: str) -> dict[str, str]:
    begin, dots, end = text.partition("..")
    if not dots:
        raise Failed("--outage: expected A..B, such as 2030-01-31T08:30:00Z..2030-01-31T09:00:00Z", 2)
    return {"from": begin, "to": end}
