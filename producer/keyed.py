"""The routes under /v1/tasks/by-key: the task of a task_key, which may have slashes, for who knows no id of ours."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import WithJsonSchema
from starlette.responses import Response

from clockjack import documents, registration
from clockjack.answers import Task
from clockjack.ledger import acceptance, control, tasks
from producer.answers import found, response, unless_known
from producer.describing import describe
from producer.requests import Asking, Sent, caller, document, meant, precondition, ticket
from producer.tasks import accept

TaskKey = Annotated[str, WithJsonSchema({"type": "string", "format": "path-key", "maxLength": 200})]
NAMED = "/tasks/by-key/{task_key:path}"
router = APIRouter(prefix="/v1", dependencies=[Depends(caller)])


@router.put(
    NAMED,
    **describe(
        {201: Task, 200: Task},
        body=registration.NewTask,
        keyed=True,
        matched=True,
        unmatched=True,
        headers=("Location",),
    ),
)
def put(request: Request, asking: Asking, sent: Sent, task_key: TaskKey) -> Response:
    """The task of this task_key has exactly these values: 201 when it is new, 200 when it was brought to them."""

    def registered() -> Any:
        given = document(sent.raw)
        if not isinstance(given, dict):
            return given  # refused as any registration that is no object
        if given.get("task_key", task_key) != task_key:
            raise registration.Refused([("task_key", "differs from the one in the URL: leave it out")])
        return given | {"task_key": registration.read(registration.Keyed, {"task_key": task_key}).task_key}

    return accept(request, asking, sent, registered, meant(request))


@router.get(NAMED, **describe({200: Task, 304: None}, unmatched=True))
def get(request: Request, asking: Asking, task_key: TaskKey) -> Response:
    """The task with its payload; 304 without it when If-None-Match names its ETag."""
    row = acceptance.read(request.app.state.database, lambda c: tasks.of_key(c, asking.namespace, task_key))
    return unless_known(request, documents.task(found(row)))


@router.delete(NAMED, **describe({200: Task}, keyed=True, matched=True))
def cancel(request: Request, asking: Asking, sent: Sent, task_key: TaskKey) -> Response:
    """The task of this task_key is cancelled; its history stays."""
    versions = precondition(request)

    def change(connection: Any) -> dict[str, Any]:
        task = found(tasks.of_key(connection, asking.namespace, task_key, lock=True))
        return found(control.cancel(connection, asking.namespace, task["id"], actor=asking.actor, versions=versions))

    done = acceptance.change_one(
        request.app.state.database,
        change,
        write=lambda row: documents.compact(documents.task(row)),
        ticket=ticket(request, asking, sent.raw),
    )
    return response(done)
