"""Routes under /v1/expectations: who is told when something was not heard of for too long."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from starlette.responses import Response

from clockjack import documents, expecting, registration
from clockjack.answers import Expectation, Items
from clockjack.ledger import acceptance
from clockjack.ledger import expectations as ledger
from producer.answers import found, json
from producer.describing import describe
from producer.problems import Problem
from producer.requests import Asking, Sent, caller, document

router = APIRouter(prefix="/v1", dependencies=[Depends(caller)])
Name = Annotated[str, Path(pattern=r"^[A-Za-z0-9_.-]{1,100}$")]


@router.post(
    "/expectations",
    **describe({201: Expectation}, body=expecting.NewExpectation, problems=(409,), headers=("Location",)),
)
def create(request: Request, asking: Asking, sent: Sent) -> Response:
    """There is a new expectation, which counts from now. 409 when its name is taken."""
    new = registration.read(expecting.NewExpectation, document(sent.raw))
    row = request.app.state.database.transaction(lambda c: expecting.create(c, asking.namespace, new))
    location = {"Location": f"/v1/expectations/{new.name}"}
    return Response(documents.compact(expecting.document(row)), 201, location, "application/json")


@router.get("/expectations", **describe({200: Items[Expectation]}))
def list_expectations(request: Request, asking: Asking) -> Response:
    """Up to 200 expectations of this namespace, silent ones first."""
    items = acceptance.read(request.app.state.database, lambda c: ledger.list_expectations(c, asking.namespace))
    return json({"items": [expecting.document(row) for row in items]})


@router.get("/expectations/{name}", **describe({200: Expectation}))
def get(request: Request, asking: Asking, name: Name) -> Response:
    """The expectation, as the last look found it."""
    row = acceptance.read(request.app.state.database, lambda c: ledger.get(c, asking.namespace, name))
    return json(expecting.document(found(row)))


@router.post("/expectations/{name}/ping", **describe({204: None}))
def ping(request: Request, asking: Asking, name: Name) -> Response:
    """It was heard of now."""
    if not request.app.state.database.transaction(lambda c: ledger.ping(c, asking.namespace, name)):
        raise Problem("not-found")
    return Response(status_code=204)


@router.delete("/expectations/{name}", **describe({204: None}))
def delete(request: Request, asking: Asking, name: Name) -> Response:
    """Nothing is expected any more, and nobody told."""
    if not request.app.state.database.transaction(lambda c: ledger.delete(c, asking.namespace, name)):
        raise Problem("not-found")
    return Response(status_code=204)
