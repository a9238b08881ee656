"""`clockjack keys | migrate | doctor | demo`."""

import os
import sys
from typing import Annotated

import typer

from clockjack import documents
from clockjack.cli import session, show
from clockjack.cli.session import Failed, Json, Namespace
from clockjack.doctor import examine
from clockjack.ledger import acceptance, keys
from clockjack.ledger import migrate as migrations
from clockjack.settings import from_environment


def keys_create(
    name: str,
    namespace: Namespace = "default",
    scope: Annotated[str, typer.Option(help="read, write or admin")] = "write",
    json: Json = False,
) -> None:
    """A new key; it is shown this once and kept nowhere."""
    for field, text, most in (("name", name, 100), ("namespace", namespace, 64)):
        if not (0 < len(text) <= most and text.isprintable() and text == text.strip()):
            raise Failed(f"{field}: expected 1 to {most} printable characters", 2)
    if scope not in keys.SCOPES:
        raise Failed(f"scope: expected {', '.join(keys.SCOPES)}", 2)
    with session.ledger() as database:
        made = database.transaction(lambda c: keys.create(c, namespace, name, scope))
    if json:
        show.as_json({"api_key": made, "namespace": namespace, "name": name, "scope": scope})
    else:
        print(made)


def keys_list(json: Json = False) -> None:
    """All keys, without their secrets."""
    with session.ledger() as database:
        found = [documents.plain(row) for row in acceptance.read(database, keys.list_keys)]
    session.write(found, ("key_prefix", "namespace", "name", "scope", "created_at", "revoked_at"), json)


def keys_revoke(prefix: str) -> None:
    """The key of this prefix (or the whole key) opens nothing any more."""
    with session.ledger() as database:
        wanted = keys.prefix_of(prefix) or prefix
        if not database.transaction(lambda c: keys.revoke(c, wanted)):
            raise Failed(f"there is no key with the prefix {wanted[:16]!r}")
    print(f"revoked {wanted}; a producer forgets it within 5 seconds")


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
