"""`clockjack group put | show | move | cancel`: an event's reminders and the like, changed as one."""

import re
from typing import Annotated, Any

import typer

from clockjack import documents, grouping
from clockjack.cli import session, show
from clockjack.cli.register import UNITS
from clockjack.cli.session import Failed, Json, Namespace
from clockjack.grouping import UnknownGroup

MEMBERS = ("id", "offset_s", "state", "handler", "run_at", "run_at_local", "next_run_at", "error")
Key = Annotated[str, typer.Argument(metavar="KEY", help="group_key")]
AnchorAt = Annotated[str | None, typer.Option("--anchor", help="anchor_at, RFC 3339 with an offset")]
AnchorLocal = Annotated[str | None, typer.Option("--anchor-local", help="anchor_at_local, such as 2030-01-31T08:30:00")]


def put(
    key: Key,
    handler: str,
    offsets: Annotated[str, typer.Option(metavar="LIST", help="offsets_s, such as --offsets=-1d,-1h,-10m,0")],
    anchor: AnchorAt = None,
    anchor_local: AnchorLocal = None,
    tz: Annotated[str, typer.Option("--tz", help="the zone of --anchor-local, such as Europe/Berlin")] = "UTC",
    payload: Annotated[str, typer.Option(help="JSON")] = "null",
    queue: str = "default",
    name: str | None = None,
    jitter: Annotated[int, typer.Option(metavar="SECONDS", help="jitter_s")] = 0,
    dst_gap: Annotated[str, typer.Option(help="run_after or skip")] = "run_after",
    dst_fold: Annotated[str, typer.Option(help="first or last")] = "first",
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
    """Register a group, or bring it to these members and values; members of other offsets are cancelled."""
    try:
        value = documents.strict_json(payload)
    except ValueError as error:
        raise Failed(f"payload: {error}", 2) from None
    given = {
        "handler": handler, "payload": value, "offsets_s": [_offset(text) for text in offsets.split(",")],
        "anchor_at": anchor, "anchor_at_local": anchor_local, "timezone": tz, "queue": queue, "name": name,
        "jitter_s": jitter, "dst_gap": dst_gap, "dst_fold": dst_fold, "tags": tag or [], "misfire": misfire,
        "max_misfires": max_misfires, "max_lateness_s": max_lateness, "overlap": overlap,
        "pause_after_failures": pause_after_failures, "timeout_s": timeout, "max_failures": max_failures,
        "backoff_s": backoff, "backoff_max_s": backoff_max,
        "limit_key": limit_key, "max_concurrent": max_concurrent, "per_second": per_second,
    }  # fmt: skip
    with session.ledger() as database:
        done = grouping.register(database, namespace, key, given, actor=session.ACTOR, warnings=session.warnings)
    session.nudge("claim")
    _print(done.answer, json)


def show_(key: Key, namespace: Namespace = "default", json: Json = False) -> None:
    """A group's members in the order of their times; cancelled ones only if all are."""
    with session.ledger() as database:
        try:
            text = grouping.show(database, namespace, key)
        except UnknownGroup:
            raise _unknown(key) from None
    _print(text, json)


def move(
    key: Key,
    anchor: AnchorAt = None,
    anchor_local: AnchorLocal = None,
    tz: Annotated[str | None, typer.Option("--tz", help="another zone; without it the members keep theirs")] = None,
    namespace: Namespace = "default",
    json: Json = False,
) -> None:
    """All members that are not cancelled are due at their offsets from another anchor."""
    given = {"anchor_at": anchor, "anchor_at_local": anchor_local, "timezone": tz}
    with session.ledger() as database:
        try:
            done = grouping.move(database, namespace, key, given, actor=session.ACTOR)
        except UnknownGroup:
            raise _unknown(key) from None
    session.nudge("claim")
    _print(done.answer, json)


def cancel(key: Key, namespace: Namespace = "default", json: Json = False) -> None:
    """All members fire no more; their history stays."""
    with session.ledger() as database:
        try:
            done = grouping.cancel(database, namespace, key, actor=session.ACTOR)
        except UnknownGroup:
            raise _unknown(key) from None
    _print(done.answer, json)


def _print(answer: str, json: bool) -> None:
    group: dict[str, Any] = documents.strict_json(answer)
    if json:
        show.as_json(group)
        return
    show.table(group["members"], MEMBERS)
    for warning in group["warnings"]:
        show.complain(f"warning: {warning}")


def _offset(text: str) -> int:
    match = re.fullmatch(r"\s*([+-]?\d{1,9})([smhd]?)\s*", text, re.ASCII)
    if not match:
        raise Failed(f"offsets_s: expected whole seconds, minutes, hours or days, such as -1d, not {text[:40]!r}", 2)
    return int(match[1]) * UNITS[match[2]]


def _unknown(key: str) -> Failed:
    return Failed(f"there is no group {key[:200]!r}")
