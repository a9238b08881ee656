"""`clockjack endpoints create | list | rotate | enable | disable | delete | reseal`."""

from typing import Annotated, Any

import typer

from clockjack import endpoints, registration
from clockjack.cli import session, show
from clockjack.cli.register import duration
from clockjack.cli.session import Failed, Json, Namespace
from clockjack.ledger import acceptance
from clockjack.ledger import endpoints as ledger
from clockjack.ledger.database import Connection
from clockjack.settings import from_environment

COLUMNS = ("name", "state", "url", "success", "header_names", "overlap_until", "reason")
Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]


def create(
    name: Name,
    url: str,
    header: Annotated[list[str] | None, typer.Option(help="fixed header, 'Name: value'; any number of them")] = None,
    success: Annotated[str, typer.Option(help="which answers are a success: 2xx,409 or 200-204")] = "2xx",
    namespace: Namespace = "default",
    json: Json = False,
) -> None:
    """A receiver of webhooks that tasks name; prints its secret, this once."""
    pairs = [one.partition(":") for one in header or []]
    if any(not colon for _, colon, _ in pairs):
        raise Failed("headers: expected 'Name: value'", 2)
    given = {"name": name, "url": url, "success": success, "headers": {n.strip(): v.strip() for n, _, v in pairs}}
    with session.ledger() as database:
        new = registration.read(endpoints.NewEndpoint, given)
        seal = endpoints.seal_of(from_environment())
        row, secret = database.transaction(lambda c: endpoints.create(c, seal, namespace, new))
    _made(row, secret, json)


def list_(namespace: Namespace = "default", json: Json = False) -> None:
    """The endpoints of a namespace, without what is secret."""
    with session.ledger() as database:
        found = acceptance.read(database, lambda c: ledger.list_endpoints(c, namespace, limit=10_000))
    session.write([endpoints.document(row) for row in found], COLUMNS, json)


def rotate(
    name: Name,
    overlap: Annotated[
        str, typer.Option(help="how long the former secret signs as well, such as 1d; 0: no more")
    ] = "1d",
    namespace: Namespace = "default",
    json: Json = False,
) -> None:
    """A new secret signs, and the former one as well for a while; prints the new one, this once."""
    overlap_s = int(duration("--overlap", overlap).total_seconds())
    wanted = registration.read(endpoints.Rotation, {"overlap_s": overlap_s})
    with session.ledger() as database:
        seal = endpoints.seal_of(from_environment())
        row, secret = _known(lambda: database.transaction(lambda c: endpoints.rotate(c, seal, namespace, name, wanted)))
    _made(row, secret, json)


def enable(name: Name, namespace: Namespace = "default") -> None:
    """The endpoint is called again."""
    _switch(name, namespace, "enabled")


def disable(name: Name, namespace: Namespace = "default") -> None:
    """Runs that name the endpoint fail without a call."""
    _switch(name, namespace, "disabled")


def delete(name: Name, namespace: Namespace = "default") -> None:
    """The endpoint and its secrets are gone."""
    with session.ledger() as database:
        if not database.transaction(lambda c: ledger.delete(c, namespace, name)):
            raise Failed(f"there is no endpoint {name!r}")
    print(f"deleted {name}")


def reseal() -> None:
    """What is secret is sealed with the first of CLOCKJACK_SECRET_KEYS, in all namespaces; then the others can go."""
    seal, total, after = endpoints.seal_of(from_environment()), 0, 0
    with session.ledger() as database:
        while True:

            def body(connection: Connection, after: int = after) -> tuple[int, int | None]:
                return endpoints.reseal(connection, seal, after)

            done, end = database.transaction(body)
            total += done
            if end is None:
                break
            after = end
    print(f"sealed {total} endpoints anew")


def _switch(name: str, namespace: str, state: str) -> None:
    with session.ledger() as database:
        _known(lambda: database.transaction(lambda c: endpoints.switch(c, namespace, name, state)))
    print(f"{state} {name}")


def _known(work: Any) -> Any:
    try:
        return work()
    except endpoints.Unknown as error:
        raise Failed(str(error)) from None


def _made(row: dict[str, Any], secret: str, json: bool) -> None:
    if json:
        show.as_json(endpoints.document(row, secret))
    else:
        print(secret)
