"""`clockjack add`: a registration, checked exactly as one that comes by HTTP."""

import re
from datetime import timedelta
from typing import Annotated

import typer

from clockjack import documents, registration
from clockjack.cli import session, show
from clockjack.cli.session import Failed, Json, Namespace
from clockjack.ledger import acceptance

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def add(
    handler: str,
    payload: Annotated[str, typer.Option(help="JSON")] = "null",
    at: Annotated[str | None, typer.Option(help="run_at, RFC 3339 with an offset")] = None,
    in_: Annotated[str | None, typer.Option("--in", help="from now: 10, 10s, 5m, 2h, 1d")] = None,
    cron: Annotated[str | None, typer.Option(help="5 fields, or 6 with the seconds first")] = None,
    tz: Annotated[str, typer.Option("--tz", help="the zone, such as Europe/Berlin")] = "UTC",
    every: Annotated[int | None, typer.Option("--every", metavar="SECONDS", help="every_s")] = None,
    rrule: Annotated[str | None, typer.Option(help="RFC 5545, without DTSTART")] = None,
    at_local: Annotated[str | None, typer.Option(help="run_at_local, such as 2030-01-31T08:30:00")] = None,
    key: Annotated[str | None, typer.Option(help="task_key: the same key changes the same task")] = None,
    queue: str = "default",
    name: str | None = None,
    start_at: str | None = None,
    end_at: str | None = None,
    max_runs: int | None = None,
    exclude: Annotated[list[str] | None, typer.Option(help="2026-12-25 or 2026-12-24/2027-01-01; also twice")] = None,
    jitter: Annotated[int, typer.Option(metavar="SECONDS", help="jitter_s")] = 0,
    dst_gap: Annotated[str, typer.Option(help="run_after or skip")] = "run_after",
    dst_fold: Annotated[str, typer.Option(help="first, last or both")] = "first",
    tag: Annotated[list[str] | None, typer.Option(help="also twice")] = None,
    misfire: Annotated[str, typer.Option(help="of what was missed, run: skip (none), once or all")] = "once",
    max_misfires: Annotated[int, typer.Option(help="how many of them at most, with all")] = 100,
    max_lateness: Annotated[
        int | None, typer.Option(metavar="SECONDS", help="max_lateness_s: later is skipped")
    ] = None,
    overlap: Annotated[str, typer.Option(help="allow, skip, queue_one or replace")] = "allow",
    pause_after_failures: Annotated[int | None, typer.Option(help="so many in a row")] = None,
    limit_key: Annotated[str | None, typer.Option(help="runs with this key share the two limits below")] = None,
    max_concurrent: Annotated[int | None, typer.Option(help="so many of them at once")] = None,
    per_second: Annotated[float | None, typer.Option(help="so many of them begin in a second")] = None,
    timeout: Annotated[int, typer.Option(metavar="SECONDS", help="timeout_s")] = 60,
    max_failures: int = 5,
    backoff: Annotated[int, typer.Option(metavar="SECONDS", help="backoff_s")] = 2,
    backoff_max: Annotated[int, typer.Option(metavar="SECONDS", help="backoff_max_s")] = 3600,
    namespace: Namespace = "default",
    json: Json = False,
) -> None:
    """Register a task: once (--at, --in, --at-local) or again and again (--cron, --every, --rrule)."""
    if at is not None and in_ is not None:
        raise Failed("run_at: give either --at or --in", 2)
    wait = None if in_ is None else duration("--in", in_)
    try:
        value = documents.strict_json(payload)
    except ValueError as error:
        raise Failed(f"payload: {error}", 2) from None
    given = {
        "handler": handler, "payload": value, "run_at": at, "cron": cron, "timezone": tz, "every_s": every,
        "task_key": key, "queue": queue, "name": name, "start_at": start_at, "end_at": end_at, "max_runs": max_runs,
        "timeout_s": timeout, "max_failures": max_failures, "backoff_s": backoff, "backoff_max_s": backoff_max,
        "rrule": rrule, "run_at_local": at_local, "exclude": exclude, "jitter_s": jitter, "dst_gap": dst_gap,
        "dst_fold": dst_fold, "tags": tag or [], "misfire": misfire, "max_misfires": max_misfires,
        "max_lateness_s": max_lateness, "overlap": overlap, "pause_after_failures": pause_after_failures,
        "limit_key": limit_key, "max_concurrent": max_concurrent, "per_second": per_second,
    }  # fmt: skip
    with session.ledger() as database:
        now = database.now()
        if wait is not None:
            given["run_at"] = documents.moment(now + wait)
        values = registration.fields(registration.new_task(given), now)
        warnings = session.warnings(values["queue"], values["handler"])
        done = acceptance.register(
            database,
            namespace,
            values,
            actor=session.ACTOR,
            write=lambda row, crowding: registration.answer(row, warnings + crowding),
        )
    if registration.REDIS_AWAY not in warnings:
        session.nudge("claim")
    task = documents.strict_json(done.answer)
    if json:
        show.as_json(task)
        return
    verb = "registered" if done.status == 201 else "brought to these values"
    print(f"task {task['id']} {verb}, next due {task['next_run_at'] or 'never'}")
    for warning in task["warnings"]:
        show.complain(f"warning: {warning}")


def duration(option: str, text: str) -> timedelta:
    """The span of time that the option says."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)([smhd]?)", text, re.ASCII)
    if not match:
        raise Failed(f"{option}: expected seconds or a duration such as 10s, 5m, 2h or 1d, not {text[:40]!r}", 2)
    return timedelta(seconds=float(match[1]) * UNITS[match[2]])
