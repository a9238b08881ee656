"""`clockjack retime`: after an upgrade of tzdata, next occurrences go to where its rules have them."""

from datetime import UTC
from typing import Annotated, Any

import typer

from clockjack import documents, zones
from clockjack.cli import session, show
from clockjack.cli.session import Failed, Json, Limit
from clockjack.ledger import retime as ledger_retime
from clockjack.ledger.retime import Retimed
from clockjack.timing import KINDS

COLUMNS = ("id", "namespace", "task_key", "timezone", "schedule", "next_run_at", "new", "local", "error")


def retime(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list what would move, change nothing")] = False,
    apply: Annotated[bool, typer.Option("--apply", help="move it")] = False,
    limit: Limit = 1000,
    json: Json = False,
) -> None:
    """The tasks of all namespaces whose next occurrence is another one by the zone's rules of today."""
    if dry_run == apply:
        raise Failed("give --dry-run, which changes nothing, or --apply" + (", not both" if apply else ""), 2)
    items: list[dict[str, Any]] = []
    counts = {"changed": 0, "moved": 0, "failed": 0}
    with session.ledger() as database:
        for page in ledger_retime.changes(database):
            moved = ledger_retime.apply(database, page, actor=session.ACTOR) if apply else []
            failed = [change for change in page if change.error is not None]
            counts["changed"] += len(page) - len(failed)
            counts["moved"] += len(moved)
            counts["failed"] += len(failed)
            shown = sorted([*moved, *failed], key=lambda change: int(change.task["id"])) if apply else page
            items += [_item(change) for change in shown[: limit - len(items)]]
    if counts["moved"]:
        session.nudge("claim")
    if json:
        show.as_json({"tzdata": zones.version(), **counts, "items": items})
    else:
        show.table(items, COLUMNS)
        done = f"{counts['moved']} moved" if apply else f"{counts['changed']} would move"
        failed_ones = f", {counts['failed']} cannot be reckoned" if counts["failed"] else ""
        show.complain(f"{done}{failed_ones}, by tzdata {zones.version()}")
    if counts["failed"]:
        raise typer.Exit(1)


def _item(change: Retimed) -> dict[str, Any]:
    task, new = change.task, change.new
    local = new and new.replace(tzinfo=UTC).astimezone(zones.load(task["timezone"])).isoformat()
    kind = next(name for name in KINDS if task[name] is not None)
    found = {name: task[name] for name in ("id", "namespace", "task_key", "timezone")}
    found["schedule"] = f"{kind}={documents.plain({kind: task[kind]})[kind]}"
    return found | {
        "next_run_at": documents.moment(task["next_run_at"]),
        "new": documents.moment(new),
        "local": local,
        "error": change.error,
    }
