"""The route that tells in words why a task's runs are as they are."""

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from clockjack import documents, explaining
from clockjack.ledger import acceptance
from clockjack.ledger.history import history
from clockjack.outlook import Explanation
from producer.describing import describe
from producer.problems import Problem
from producer.requests import Asking, Id, caller

router = APIRouter(prefix="/v1", dependencies=[Depends(caller)])


@router.get("/tasks/{task_id:id}/explain", **describe({200: Explanation}))
def explain(request: Request, asking: Asking, task_id: Id) -> Response:
    """The task in sentences: its schedule, how it stands, what comes next, what became of its latest runs."""
    told = acceptance.read(request.app.state.database, lambda c: history(c, asking.namespace, task_id))
    if told is None:
        raise Problem("not-found")
    warnings = request.app.state.notices.warnings(told.task["queue"], told.task["handler"])
    return Response(documents.compact(explaining.explain(told, warnings)), media_type="application/json")
