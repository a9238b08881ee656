"""Routes under /v1/queues. Queues are shared by all namespaces, as consumers are: whoever asks sees all of them."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import WithJsonSchema
from starlette.responses import Response

from clockjack import queueing, registration
from clockjack.outlook import QueueState, QueueStates
from producer.answers import json, response
from producer.describing import describe
from producer.requests import Admin, Asking, Body, Caller, Sent, caller, ticket

QueueName = Annotated[str, WithJsonSchema({"type": "string", "format": "printable", "minLength": 1, "maxLength": 64})]
router = APIRouter(prefix="/v1", dependencies=[Depends(caller)])


@router.get("/queues", **describe({200: QueueStates}))
def list_queues(request: Request, asking: Asking) -> Response:
    """Queues that are paused, hold something or are served, with what is due, waits and runs in each."""
    return json(queueing.listed(request.app.state.database, request.app.state.queues))


@router.post("/queues/{queue}/pause", **describe({200: QueueState}, keyed=True))
def pause(request: Request, asking: Admin, sent: Sent, queue: QueueName) -> Response:
    """Nothing of the queue starts until it is resumed; what is due waits, and what has begun goes on."""
    return _switch(request, asking, sent, "pause", queue)


@router.post("/queues/{queue}/resume", **describe({200: QueueState}, keyed=True))
def resume(request: Request, asking: Admin, sent: Sent, queue: QueueName) -> Response:
    """The queue starts what is due, late runs as their `misfire` says."""
    return _switch(request, asking, sent, "resume", queue)


def _switch(request: Request, asking: Caller, sent: Body, action: str, queue: str) -> Response:
    name = registration.read(queueing.Named, {"queue": queue}).queue
    database, queues = request.app.state.database, request.app.state.queues
    mark = ticket(request, asking, sent.raw)
    done = queueing.switch(database, queues, action, name, actor=asking.actor, ticket=mark)
    request.app.state.notices.nudge("claim")
    return response(done)
