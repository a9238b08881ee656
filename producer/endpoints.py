"""Routes under /v1/endpoints: receivers of webhooks, by name. A secret is in the answer that made it, in no other."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response

from clockjack import documents, endpoints, registration
from clockjack.answers import Endpoint
from clockjack.answers import Page as Listed
from clockjack.ledger import acceptance
from clockjack.ledger import endpoints as ledger
from clockjack.ledger.acceptance import Change
from producer import cursors
from producer.answers import etag, found, json, replayed
from producer.describing import describe
from producer.problems import Problem
from producer.requests import Asking, Sent, caller, document, ticket
from producer.tasks import Page, page

router = APIRouter(prefix="/v1", dependencies=[Depends(caller)])
MADE = ("Location", "Cache-Control")
Name = Annotated[str, Path(pattern=r"^[A-Za-z0-9_.-]{1,100}$")]


@router.post("/endpoints", **describe({201: Endpoint}, body=endpoints.NewEndpoint, keyed=True, headers=MADE))
def create(request: Request, asking: Asking, sent: Sent) -> Response:
    """There is a new endpoint; the answer has its secret, this once. 409 when the name is taken."""
    new = registration.read(endpoints.NewEndpoint, document(sent.raw))
    seal = request.app.state.seal

    def work(connection: Any) -> Change:
        row, secret = endpoints.create(connection, seal, asking.namespace, new)

        def seen(connection: Any) -> bool:
            there = ledger.get(connection, asking.namespace, new.name)
            return there is not None and there["id"] == row["id"]

        return Change(201, endpoints.kept(seal, row, secret), seen)

    done = acceptance.once(request.app.state.database, work, ticket(request, asking, sent.raw))
    location = {"Location": f"/v1/endpoints/{new.name}"}
    return _made(endpoints.told(seal, done.answer), 201, location | replayed(done))


@router.get("/endpoints", **describe({200: Listed[Endpoint]}))
def list_endpoints(request: Request, asking: Asking, wanted: Annotated[Page, Query()]) -> Response:
    """The endpoints of this namespace, the newest first, without what is secret."""
    before = cursors.read(wanted.cursor)
    items = acceptance.read(
        request.app.state.database,
        lambda c: ledger.list_endpoints(c, asking.namespace, before_id=before, limit=wanted.limit),
    )
    after = items[-1]["id"] if len(items) == wanted.limit else None
    return page(request, [endpoints.document(row) for row in items], after)


@router.get("/endpoints/{name}", **describe({200: Endpoint}))
def get(request: Request, asking: Asking, name: Name) -> Response:
    """The endpoint, without what is secret."""
    row = acceptance.read(request.app.state.database, lambda c: ledger.get(c, asking.namespace, name))
    return json(endpoints.document(found(row)))


@router.patch("/endpoints/{name}", **describe({200: Endpoint}, body=endpoints.Edit, problems=(409,)))
def edit(request: Request, asking: Asking, sent: Sent, name: Name) -> Response:
    """The endpoint has this url, success or headers; `headers` takes the place of all that it had."""
    change = registration.read(endpoints.Edit, document(sent.raw))
    return json(
        endpoints.document(_change(request, lambda c, seal: endpoints.edit(c, seal, asking.namespace, name, change)))
    )


@router.post(
    "/endpoints/{name}/rotate",
    **describe({200: Endpoint}, body=endpoints.Rotation, optional=True, problems=(409,), headers=MADE),
)
def rotate(request: Request, asking: Asking, sent: Sent, name: Name) -> Response:
    """A new secret signs, which the answer has, this once; the former ones sign as well for `overlap_s`."""
    wanted = registration.read(endpoints.Rotation, document(sent.raw) if sent.raw.strip() else {})
    row, secret = _change(request, lambda c, seal: endpoints.rotate(c, seal, asking.namespace, name, wanted))
    return _made(endpoints.document(row, secret), 200, {})


@router.post("/endpoints/{name}/enable", **describe({200: Endpoint}))
def enable(request: Request, asking: Asking, name: Name) -> Response:
    """The endpoint is called again, from a second after this."""
    row = _change(request, lambda c, _: endpoints.switch(c, asking.namespace, name, "enabled"))
    return json(endpoints.document(row))


@router.post("/endpoints/{name}/disable", **describe({200: Endpoint}))
def disable(request: Request, asking: Asking, name: Name) -> Response:
    """Runs that name the endpoint fail without a call, from a second after this."""
    row = _change(request, lambda c, _: endpoints.switch(c, asking.namespace, name, "disabled"))
    return json(endpoints.document(row))


@router.delete("/endpoints/{name}", **describe({204: None}, problems=(409,)))
def delete(request: Request, asking: Asking, name: Name) -> Response:
    """There is no such endpoint any more; its secrets are gone. 409 while an expectation names it."""
    if not request.app.state.database.transaction(lambda c: ledger.delete(c, asking.namespace, name)):
        raise Problem("not-found")
    return Response(status_code=204)


def _change(request: Request, body: Callable[[Any, Any], Any]) -> Any:
    state = request.app.state
    try:
        return state.database.transaction(lambda c: body(c, state.seal))
    except endpoints.Unknown:
        raise Problem("not-found") from None


def _made(shown: dict[str, Any], status: int, headers: dict[str, str]) -> Response:
    headers |= {"Cache-Control": "no-store"}
    return Response(documents.compact(shown), status, headers | etag(shown), "application/json")
