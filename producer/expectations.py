"""Routes under /v1/expectations: who is told when something was not heard of for too long."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response

from clockjack import documents, expecting, registration
from clockjack.answers import Expectation
from clockjack.answers import Page as Listed
from clockjack.ledger import acceptance
from clockjack.ledger import expectations as ledger
from clockjack.ledger.acceptance import Change
from producer import cursors
from producer.answers import found, json, replayed
from producer.describing import describe
from producer.problems import Problem
from producer.requests import Asking, Sent, caller, document, ticket
from producer.tasks import Page, page

router = APIRouter(prefix="/v1", dependencies=[Depends(caller)])
Name = Annotated[str, Path(pattern=r"^[A-Za-z0-9_.-]{1,100}$")]


class ExpectationFilter(Page):
    """Which expectations are wanted, and which part of their list."""

    state: Literal["heard", "silent"] | None = None


@router.post(
    "/expectations",
    **describe({201: Expectation}, body=expecting.NewExpectation, keyed=True, headers=("Location",)),
)
def create(request: Request, asking: Asking, sent: Sent) -> Response:
    """There is a new expectation, which counts from now. 409 when its name is taken."""
    new = registration.read(expecting.NewExpectation, document(sent.raw))

    def work(connection: Any) -> Change:
        row = expecting.create(connection, asking.namespace, new)

        def seen(connection: Any) -> bool:
            there = ledger.get(connection, asking.namespace, new.name)
            return there is not None and there["id"] == row["id"]

        return Change(201, documents.compact(expecting.document(row)), seen)

    done = acceptance.once(request.app.state.database, work, ticket(request, asking, sent.raw))
    headers = {"Location": f"/v1/expectations/{new.name}"} | replayed(done)
    return Response(done.answer, 201, headers, "application/json")


@router.get("/expectations", **describe({200: Listed[Expectation]}))
def list_expectations(request: Request, asking: Asking, wanted: Annotated[ExpectationFilter, Query()]) -> Response:
    """The expectations of this namespace, the newest first."""
    before = cursors.read(wanted.cursor)
    items = acceptance.read(
        request.app.state.database,
        lambda c: ledger.list_expectations(
            c, asking.namespace, state=wanted.state, before_id=before, limit=wanted.limit
        ),
    )
    after = items[-1]["id"] if len(items) == wanted.limit else None
    return page(request, [expecting.document(row) for row in items], after)


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
