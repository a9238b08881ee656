"""The routes under /v1/tasks/by-key: the task of a task_key, which may have slashes, for who knows no id of ours."""

from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from clockjack import documents, registration
from clockjack.ledger import acceptance, control, tasks
from producer.answers import found, response, schema, unless_known
from producer.requests import Asking, Sent, caller, document, meant, precondition, ticket
from producer.tasks import accept

NAMED = "/tasks/by-key/{task_key:path}"
router = APIRouter(prefix="/v1", dependencies=[Depends(caller)])


@router.put(NAMED, openapi_extra=schema(registration.NewTask))
def put(request: Request, asking: Asking, sent: Sent, task_key: str) -> Response:
    """The task of this task_key has exactly these values: 201 when it is new, 200 when it was brought to them."""

    def registered() -> Any:
        given = document(sent.raw)
        if not isinstance(given, dict):
            return given  # refused as any registration that is no object
        if given.get("task_key", task_key) != task_key:
            raise registration.Refused([("task_key", "differs from the one in the URL: leave it out")])
        return given | {"task_key": registration.read(registration.Keyed, {"task_key": task_key}).task_key}

    return accept(request, asking, sent, registered, meant(request))


@router.get(NAMED)
def get(request: Request, asking: Asking, task_key: str) -> Response:
    """The task with its payload; 304 without it when If-None-Match names its ETag."""
    row = acceptance.read(request.app.state.database, lambda c: tasks.of_key(c, asking.namespace, task_key))
    return unless_known(request, documents.task(found(row)))


@router.delete(NAMED)
def cancel(request: Request, asking: Asking, sent: Sent, task_key: str) -> Response:
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
