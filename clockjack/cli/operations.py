"""`clockjack migrate | doctor | demo`."""

import os
import sys

import typer

from clockjack.cli import session, show
from clockjack.cli.session import Json
from clockjack.doctor import examine
from clockjack.ledger import migrate as migrations
from clockjack.settings import from_environment


def migrate() -> None:
    """Bring the tables to this version."""
    print(f"the tables are at revision {migrations.migrate(from_environment().database_url)}")


def doctor(json: Json = False) -> None:
    """What keeps this installation from keeping its promises; code 1 when there is something."""
    with session.ledger() as database:
        found = examine(from_environment(), database)
    if json:
        show.as_json(found)
    else:
        show.table(found["findings"], ("level", "what", "text"))
        if found["queues"]:
            print()
            show.table(found["queues"], ("queue", "waiting", "staged", "started", "oldest_age_s", "consumers"))
    if not found["ok"]:
        raise typer.Exit(1)


def demo() -> None:
    """The main job on private servers, with processes being killed (in a checkout of the project)."""
    os.execv(sys.executable, [sys.executable, "-m", "deploy.demo"])  # noqa: S606
