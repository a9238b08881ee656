"""The limit of a key is kept before its request is looked at, and every answer to the key says what is left of it."""

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clockjack.ledger.database import Database
from clockjack.rates import Judged, Rate
from producer.problems import Problem

PLACE = "clockjack.headers"  # in the scope: what is added to the answer, whoever gives it


async def keep(request: Request, key_prefix: str, rate: Rate) -> None:
    """The request is within the limit, or Redis did not say; else the problem `too-many-requests`."""
    judged = await run_in_threadpool(_judge, request, key_prefix, rate)
    if judged is None:
        return
    request.scope[PLACE].update(judged.headers(rate))
    if not judged.allowed:
        raise Problem("too-many-requests")


def _judge(request: Request, key_prefix: str, rate: Rate) -> Judged | None:
    database: Database = request.app.state.database
    if not database.clock.known:
        database.now()
    found: Judged | None = request.app.state.rates.judge(key_prefix, rate, database.clock.now_us())
    return found


class Told:
    """Adds to an answer what was put into the scope for it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        more: dict[str, str] = {}
        scope[PLACE] = more

        async def telling(message: Message) -> None:
            if more and message["type"] == "http.response.start":
                added = [(name.lower().encode(), value.encode()) for name, value in more.items()]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await self.app(scope, receive, telling)
