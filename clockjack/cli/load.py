"""`clockjack forecast`: the load that is coming."""

from typing import Annotated

import typer

from clockjack import documents, moments
from clockjack.cli import session, show
from clockjack.cli.session import Failed, Json
from clockjack.ledger import acceptance
from clockjack.ledger import forecast as ledger_forecast


def forecast(
    bucket: Annotated[str, typer.Option(help="1s or 1m")] = "1m",
    buckets: Annotated[int, typer.Option(min=1, max=ledger_forecast.MAX_BUCKETS, help="so many of them")] = 60,
    begin: Annotated[str | None, typer.Option("--from", help="RFC 3339; now, if not given")] = None,
    json: Json = False,
) -> None:
    """How many tasks are due next in each second or minute to come, over all namespaces."""
    if bucket not in ledger_forecast.SIZES:
        raise Failed("bucket: expected 1s or 1m", 2)
    try:
        start = None if begin is None else moments.moment(begin)
    except ValueError as error:
        raise Failed(f"--from: {error}", 2) from None
    with session.ledger() as database:
        found = acceptance.read(database, lambda c: ledger_forecast.forecast(c, bucket, begin=start, buckets=buckets))
    document = documents.nested(found)
    if json:
        show.as_json(document)
        return
    show.bars(document["buckets"], "at", "due")
    if found["overdue"]:
        show.complain(f"warning: {found['overdue']} tasks are overdue")
    if found["truncated"]:
        show.complain("warning: there are more: the last line is not counted to its end, and later ones are missing")
