"""`clockjack import crontab`: the entries of a crontab file are tasks, kept in step with the file."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from clockjack import crontab as tables
from clockjack import registration
from clockjack.cli import session, show
from clockjack.cli.session import DryRun, Failed, Json, Namespace
from clockjack.crontab import Entry, Table
from clockjack.ledger import keeping
from clockjack.ledger.database import Database, UnknownCommit
from clockjack.ledger.keeping import Kept

HANDLER = "command"


class _OnlySaid(Exception):
    """What would have been done was found out, and is taken back."""


def import_crontab(
    file: Annotated[Path, typer.Argument(help="a crontab")],
    name: Annotated[str | None, typer.Option(help="of the table; the file's name by default")] = None,
    tz: Annotated[str, typer.Option("--tz", help="the zone of lines without a CRON_TZ above them")] = "UTC",
    system: Annotated[bool, typer.Option("--system", help="lines name a user, as in /etc/crontab")] = False,
    queue: str = "default",
    timeout: Annotated[int, typer.Option(metavar="SECONDS", help="timeout_s of the commands")] = 3600,
    commands: Annotated[
        bool, typer.Option("--commands", help="print what CLOCKJACK_COMMANDS must allow; no more")
    ] = False,
    dry_run: DryRun = False,
    namespace: Namespace = "default",
    json: Json = False,
) -> None:
    """Make the entries of a crontab tasks: new ones are added, changed ones edited, those that are gone cancelled."""
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Failed(f"{file}: {getattr(error, 'strerror', None) or 'is not UTF-8'}", 2) from None
    table = tables.read(text, timezone=tz, system=system)
    if commands:
        _refuse_if_wrong(file, table.wrong)
        show.as_json({entry.name: entry.allowed for entry in table.entries})
        return
    title = name or file.name
    with session.ledger() as database:
        wanted = _wanted(file, table, title, queue, timeout, database.now())
        kept = _keep(database, namespace, f"crontab/{title}/", wanted, dry_run)
    if not dry_run:
        session.nudge("claim")
    _tell(file, table, kept, dry_run, json)


def payload(entry: Entry) -> dict[str, Any]:
    """What the handler gets: the name under which a consumer's operator has allowed the command."""
    return {"command": entry.name}


def _wanted(
    file: Path, table: Table, title: str, queue: str, timeout_s: int, now: datetime
) -> dict[str, dict[str, Any]]:
    """The values of each entry's task by its task_key; the command ends if a line cannot be used."""
    wanted: dict[str, dict[str, Any]] = {}
    wrong = list(table.wrong)
    for entry in table.entries:
        key = f"crontab/{title}/{entry.name}"
        while key in wanted:  # the same command again, at other times
            base, _, number = key.partition("#")
            key = f"{base}#{int(number or 1) + 1}"
        document = {
            "handler": HANDLER, "payload": payload(entry), "task_key": key, "queue": queue,
            "name": _name(entry.command), "cron": entry.cron, "timezone": entry.timezone,
            "jitter_s": entry.jitter_s, "timeout_s": timeout_s, "max_failures": 1, "tags": ["crontab"],
        }  # fmt: skip
        try:
            wanted[key] = registration.fields(registration.new_task(document), now)
        except registration.Refused as error:
            wrong.append((entry.line, str(error)))
    _refuse_if_wrong(file, wrong)
    return wanted


def _name(command: str) -> str:
    """For people: the command's text, as far as a name may have it."""
    return "".join(c for c in " ".join(command.split()) if c.isprintable())[:200].strip() or HANDLER


def _keep(database: Database, namespace: str, prefix: str, wanted: dict[str, dict[str, Any]], dry_run: bool) -> Kept:
    kept: list[Kept] = []

    def body(connection: Any) -> Kept:
        kept[:] = [keeping.keep(connection, namespace, prefix, wanted, actor=session.ACTOR)]
        if dry_run:
            raise _OnlySaid
        return kept[0]

    try:
        return database.transaction(body)
    except _OnlySaid:
        return kept[0]
    except UnknownCommit:  # the same again changes nothing
        said = kept[0]
        database.transaction(body)
        return said


def _refuse_if_wrong(file: Path, wrong: list[tuple[int, str]]) -> None:
    if wrong:
        for line, text in sorted(wrong)[:-1]:
            show.complain(f"{file}:{line}: {text}")
        line, text = sorted(wrong)[-1]
        raise Failed(f"{file}:{line}: {text}; nothing was changed", 2)


def _tell(file: Path, table: Table, kept: Kept, dry_run: bool, json: bool) -> None:
    found = {word: getattr(kept, word) for word in ("added", "changed", "unchanged", "removed")}
    if json:
        show.as_json(found | {"dry_run": dry_run})
        return
    for word, keys in found.items():
        for key in keys if word != "unchanged" else ():
            print(f"{word}  {key}")
    would = "would be " if dry_run else ""
    print(", ".join(f"{len(keys)} {would}{word}" for word, keys in found.items()))
    for line, text in table.notes:
        show.complain(f"{file}:{line}: note: {text}")
