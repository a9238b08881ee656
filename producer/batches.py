"""POST /v1/tasks/bulk: up to 1,000 registrations by one request."""

from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from clockjack import batches, registration
from clockjack.answers import RegisteredMany
from clockjack.batches import RefusedTasks
from clockjack.ledger import acceptance
from producer import problems
from producer.describing import describe
from producer.problems import Problem
from producer.requests import Asking, Large, caller, document, large, ticket
from producer.tasks import DUE_SOON

MOST_ERRORS = 100
router = APIRouter(prefix="/v1", dependencies=[Depends(caller)])


@router.post(
    "/tasks/bulk",
    **describe({201: RegisteredMany, 200: RegisteredMany}, body=batches.NewTasks, keyed=True),
)
def register_many(request: Request, asking: Asking, sent: Large) -> Response:
    """The tasks are registered: 201, all or none; with `atomic` false 200, each for itself, or its problem."""
    state = request.app.state
    mark = ticket(request, asking, sent.raw)
    try:
        now = state.database.clock.now() if state.database.clock.known else state.database.now()
        wanted = batches.Sent(document(sent.raw), now)
        warnings = sorted({w for queue, handler in wanted.wants for w in state.notices.warnings(queue, handler)})
        done, due = batches.register(
            state.database,
            asking.namespace,
            wanted,
            actor=asking.actor,
            warnings=warnings[:MOST_ERRORS],
            problem=_problem,
            ticket=mark,
        )
    except (registration.Refused, RefusedTasks) as error:
        if mark and (given := acceptance.read(state.database, lambda c: acceptance.given(c, mark))):
            return _answer(given)  # accepted at its time: a retry must not be refused because time has passed
        raise _all(error) if isinstance(error, RefusedTasks) else error from None
    if due and not done.replayed and min(due) - now < DUE_SOON:
        state.notices.nudge("claim")
    return _answer(done)


async def straight(request: Request) -> Response:
    """The same as `register_many`, whose route describes it: see `tasks.straight`."""
    return await run_in_threadpool(register_many, request, await caller(request), await large(request))


def _answer(done: acceptance.Answer) -> Response:
    headers = {"Idempotency-Replayed": "true"} if done.replayed else {}
    return Response(done.answer, done.status, headers, "application/json")


def _problem(wrong: batches.Wrong) -> dict[str, Any]:
    return problems.document(problems.refused(registration.Refused(wrong)))


def _all(error: RefusedTasks) -> Problem:
    found = [
        {"pointer": f"#/tasks/{place}{problems.pointer(field)[1:]}", "detail": text}
        for place, wrong in sorted(error.wrong.items())
        for field, text in wrong
    ]
    first = found[0]
    return Problem("invalid-fields", f"{error}; {first['pointer'][2:]}: {first['detail']}", errors=found[:MOST_ERRORS])
