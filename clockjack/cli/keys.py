"""`clockjack keys create | list | rotate | revoke`."""

from typing import Annotated

import typer

from clockjack import keys, registration
from clockjack.cli import session, show
from clockjack.cli.register import duration
from clockjack.cli.session import Failed, Json, Namespace
from clockjack.ledger import acceptance
from clockjack.ledger import keys as ledger

LIMIT = ("per_second", "burst")
COLUMNS = ("key_prefix", "namespace", "name", "scope", *LIMIT, "created_at", "revoked_at", "last_used_at")


def create(
    name: str,
    namespace: Namespace = "default",
    scope: Annotated[str, typer.Option(help="read, write, or admin, which makes and revokes keys as well")] = "write",
    per_second: Annotated[float | None, typer.Option(help="so many requests a second on average")] = None,
    burst: Annotated[int | None, typer.Option(help="so many at once; as many as in a second")] = None,
    json: Json = False,
) -> None:
    """A new key; it is shown this once and kept nowhere."""
    if not (0 < len(namespace) <= 64 and namespace.isprintable() and namespace == namespace.strip()):
        raise Failed("namespace: expected 1 to 64 printable characters", 2)
    given = {"name": name, "scope": scope, "per_second": per_second, "burst": burst}
    new = registration.read(keys.NewKey, given)
    with session.ledger() as database:
        made = database.transaction(lambda c: keys.create(c, namespace, new))
    if json:
        show.as_json(made)
    else:
        print(made["api_key"])


def list_(json: Json = False) -> None:
    """All keys, without their secrets."""
    with session.ledger() as database:
        found = acceptance.read(database, ledger.list_keys)
    session.write([keys.document(row) for row in found], COLUMNS, json)


def rotate(
    prefix: str,
    overlap: Annotated[str, typer.Option(help="how long the former key stays valid, such as 1h; 0: no more")] = "1d",
    json: Json = False,
) -> None:
    """A new key in place of the one of this prefix (or the whole key), which stays valid for a while; shown once."""
    wanted = registration.read(keys.Rotation, {"overlap_s": int(duration("--overlap", overlap).total_seconds())})
    with session.ledger() as database:
        try:
            made = database.transaction(lambda c: keys.rotate(c, ledger.prefix_of(prefix) or prefix, wanted))
        except keys.Unknown as error:
            raise Failed(str(error)) from None
    if json:
        show.as_json(made)
    else:
        print(made["api_key"])


def revoke(prefix: str) -> None:
    """The key of this prefix (or the whole key) opens nothing any more."""
    with session.ledger() as database:
        try:
            row = database.transaction(lambda c: keys.revoke(c, ledger.prefix_of(prefix) or prefix))
        except keys.Unknown as error:
            raise Failed(str(error)) from None
    print(f"revoked {row['key_prefix']}; a producer forgets it within 5 seconds")
