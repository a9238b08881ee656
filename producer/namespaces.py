"""The route that says what a key opens."""

from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from clockjack import keys
from clockjack.answers import Page as Listed
from clockjack.ledger import acceptance, namespaces
from clockjack.ledger import keys as ledger
from clockjack.outlook import Namespace
from producer.answers import found, json
from producer.describing import describe
from producer.requests import Asking, caller

router = APIRouter(prefix="/v1", dependencies=[Depends(caller)])


@router.get("/namespaces", **describe({200: Listed[Namespace]}))
def list_namespaces(request: Request, asking: Asking) -> Response:
    """The namespaces that this key opens, which is one: how much is in it, and the key itself, without its secret."""

    def body(connection: Any) -> dict[str, Any]:
        key = found(ledger.get(connection, asking.actor.removeprefix("key:"), asking.namespace))
        return namespaces.get(connection, asking.namespace) | {"key": keys.document(key)}

    one = acceptance.read(request.app.state.database, body)
    return json({"items": [one], "next_cursor": None})
