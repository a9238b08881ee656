"""`clockjack expect create | list | ping | delete`."""

from typing import Annotated

import typer

from clockjack import expecting, registration
from clockjack.cli import session, show
from clockjack.cli.register import duration
from clockjack.cli.session import Failed, Json, Namespace
from clockjack.ledger import acceptance
from clockjack.ledger import expectations as ledger

COLUMNS = ("name", "state", "heard_at", "expect_every_s", "task_id", "endpoint")
Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]


def create(
    name: Name,
    every: Annotated[str, typer.Option(help="it should be heard of at least once in, such as 1h")],
    endpoint: Annotated[str, typer.Option(help="who is told when it is not")],
    task: Annotated[int | None, typer.Option(help="the id of a task that should succeed; none: pings")] = None,
    queue: str = "default",
    namespace: Namespace = "default",
    json: Json = False,
) -> None:
    """An endpoint is told once when a task, or a ping, was not heard of for too long, and when it is again."""
    given = {"name": name, "expect_every_s": int(duration("--every", every).total_seconds())}
    given |= {"endpoint": endpoint, "task_id": task, "queue": queue}
    with session.ledger() as database:
        new = registration.read(expecting.NewExpectation, given)
        row = database.transaction(lambda c: expecting.create(c, namespace, new))
    if json:
        show.as_json(expecting.document(row))
    else:
        print(f"{name} is expected every {row['expect_every_s']} s from now on")


def list_(namespace: Namespace = "default", json: Json = False) -> None:
    """The expectations of a namespace, silent ones first."""
    with session.ledger() as database:
        found = acceptance.read(database, lambda c: ledger.list_expectations(c, namespace, limit=10_000))
        found.sort(key=lambda row: (row["state"] != "silent", row["name"]))
    session.write([expecting.document(row) for row in found], COLUMNS, json)


def ping(name: Name, namespace: Namespace = "default") -> None:
    """It was heard of now."""
    with session.ledger() as database:
        if not database.transaction(lambda c: ledger.ping(c, namespace, name)):
            raise Failed(f"there is no expectation {name!r}")


def delete(name: Name, namespace: Namespace = "default") -> None:
    """Nothing is expected any more."""
    with session.ledger() as database:
        if not database.transaction(lambda c: ledger.delete(c, namespace, name)):
            raise Failed(f"there is no expectation {name!r}")
    print(f"deleted {name}")
