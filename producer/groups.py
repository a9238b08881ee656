"""The routes under /v1/groups. A group_key may have slashes: what follows the last of them is part of it, too."""

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request
from pydantic import WithJsonSchema
from starlette.responses import Response

from clockjack import documents, grouping
from clockjack.answers import Group
from clockjack.grouping import UnknownGroup
from clockjack.ledger.acceptance import Answer
from producer.describing import describe
from producer.problems import Problem
from producer.requests import Asking, Sent, caller, document, ticket
from producer.tasks import DUE_SOON

GroupKey = Annotated[str, WithJsonSchema({"type": "string", "format": "path-key", "maxLength": 180})]
NAMED = "/groups/{group_key:path}"
router = APIRouter(prefix="/v1", dependencies=[Depends(caller)])


@router.put(
    NAMED,
    **describe({201: Group, 200: Group}, body=grouping.NewGroup, problems=(409,), keyed=True, headers=("Location",)),
)
def put(request: Request, asking: Asking, sent: Sent, group_key: GroupKey) -> Response:
    """The group has exactly these members: 201 when it is new, 200 when it was brought to these values."""
    done = grouping.register(
        request.app.state.database,
        asking.namespace,
        group_key,
        document(sent.raw),
        actor=asking.actor,
        warnings=request.app.state.notices.warnings,
        ticket=ticket(request, asking, sent.raw),
    )
    return _changed(request, group_key, done)


@router.get(NAMED, **describe({200: Group}))
def get(request: Request, asking: Asking, group_key: GroupKey) -> Response:
    """The group with its members, without the cancelled ones unless all are."""
    try:
        text = grouping.show(request.app.state.database, asking.namespace, group_key)
    except UnknownGroup:
        raise Problem("not-found") from None
    return Response(text, media_type="application/json")


@router.delete(NAMED, **describe({200: Group}, keyed=True))
def cancel(request: Request, asking: Asking, sent: Sent, group_key: GroupKey) -> Response:
    """All members are cancelled; their history stays."""
    try:
        done = grouping.cancel(
            request.app.state.database,
            asking.namespace,
            group_key,
            actor=asking.actor,
            ticket=ticket(request, asking, sent.raw),
        )
    except UnknownGroup:
        raise Problem("not-found") from None
    return _changed(request, group_key, done)


@router.post(NAMED + "/move", **describe({200: Group}, body=grouping.Move, problems=(409,), keyed=True))
def move(request: Request, asking: Asking, sent: Sent, group_key: GroupKey) -> Response:
    """All members that are not cancelled lie at their offsets from another anchor."""
    try:
        done = grouping.move(
            request.app.state.database,
            asking.namespace,
            group_key,
            document(sent.raw),
            actor=asking.actor,
            ticket=ticket(request, asking, sent.raw),
        )
    except UnknownGroup:
        raise Problem("not-found") from None
    return _changed(request, group_key, done)


def _changed(request: Request, group_key: str, done: Answer) -> Response:
    """The answer; a dispatcher is woken if a member is due soon."""
    database = request.app.state.database
    headers = {"Location": f"/v1/groups/{quote(group_key, safe='')}"} if done.status == 201 else {}
    if done.replayed:
        headers["Idempotency-Replayed"] = "true"
    else:
        now = database.clock.now() if database.clock.known else database.now()
        soon = documents.moment(now + DUE_SOON) or ""
        members: list[Any] = documents.strict_json(done.answer)["members"]
        if any(member["next_run_at"] and member["next_run_at"] < soon for member in members):
            request.app.state.notices.nudge("claim")
    return Response(done.answer, done.status, headers, "application/json")
