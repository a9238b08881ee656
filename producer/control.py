"""Routes under /v1 that change tasks: pause, resume, cancel, run, edit, control of many, backfill."""

from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from clockjack import changes, documents, registration
from clockjack.answers import Backfilled, Controlled, Task, TaskRun
from clockjack.ledger import acceptance, backfill, bulk, control
from clockjack.ledger.acceptance import Change
from producer import cursors
from producer.answers import found, json, response
from producer.describing import describe
from producer.problems import Problem
from producer.requests import Asking, Body, Caller, Id, Sent, caller, document, precondition, ticket

router = APIRouter(prefix="/v1", dependencies=[Depends(caller)])
ONE: Any = {"problems": (409,), "keyed": True, "matched": True}


@router.post("/tasks/control", **describe({200: Controlled}, body=changes.Bulk, keyed=True))
def control_many(request: Request, asking: Asking, sent: Sent) -> Response:
    """What is done to all tasks that match, up to 10,000 a request; `next_cursor` goes on with the others."""
    wanted = registration.read(changes.Bulk, document(sent.raw))
    order = changes.order(wanted, asking.namespace, asking.actor)
    done = bulk.carry_out(
        request.app.state.database,
        order,
        after=cursors.read(wanted.cursor) or 0,
        dry_run=wanted.dry_run,
        ticket=ticket(request, asking, sent.raw),
    )
    if done.changed and not wanted.dry_run:
        request.app.state.notices.nudge("look" if wanted.action == "run" else "claim")
    answer = json(changes.outcome(done, None if done.after is None else cursors.write(done.after)))
    if done.replayed:
        answer.headers["Idempotency-Replayed"] = "true"
    return answer


@router.patch("/tasks/{task_id:id}", **describe({200: Task}, body=changes.EDITED, **ONE))
def edit(request: Request, asking: Asking, sent: Sent, task_id: Id) -> Response:
    """The task has these values (JSON merge patch, RFC 7396); null resets a field to its default."""
    values = changes.edit(changes.patch(document(sent.raw)))
    done = acceptance.change_one(
        request.app.state.database,
        _one(request, asking, task_id, partial(control.edit, values=values)),
        write=lambda row: registration.answer(row, []),
        ticket=ticket(request, asking, sent.raw),
    )
    request.app.state.notices.nudge("claim")
    return response(done)


@router.delete("/tasks/{task_id:id}", **describe({200: Task}, keyed=True, matched=True))
def cancel(request: Request, asking: Asking, sent: Sent, task_id: Id) -> Response:
    """The task is cancelled; its history stays."""
    return _control(request, asking, sent, task_id, control.cancel)


@router.post("/tasks/{task_id:id}/pause", **describe({200: Task}, **ONE))
def pause(request: Request, asking: Asking, sent: Sent, task_id: Id) -> Response:
    """The task starts nothing until it is resumed."""
    return _control(request, asking, sent, task_id, control.pause)


@router.post("/tasks/{task_id:id}/resume", **describe({200: Task}, body=changes.Resume, optional=True, **ONE))
def resume(request: Request, asking: Asking, sent: Sent, task_id: Id) -> Response:
    """The task is active and due at its next occurrence; with `catch_up` at the first that its pause missed."""
    wanted = registration.read(changes.Resume, document(sent.raw) if sent.raw.strip() else {})
    answer = _control(request, asking, sent, task_id, partial(control.resume, catch_up=wanted.catch_up))
    request.app.state.notices.nudge("claim")
    return answer


@router.post("/tasks/{task_id:id}/run", **describe({202: TaskRun}, problems=(409,), keyed=True, headers=("Location",)))
def run_now(request: Request, asking: Asking, sent: Sent, task_id: Id) -> Response:
    """One more run of the task is due now."""
    try:
        done = acceptance.run_now(
            request.app.state.database,
            asking.namespace,
            [task_id],
            actor=asking.actor,
            write=lambda runs: documents.compact(documents.run(runs[0])),
            ticket=ticket(request, asking, sent.raw),
        )
    except KeyError:
        raise Problem("not-found") from None
    request.app.state.notices.nudge("look")
    return response(done)


@router.post(
    "/tasks/{task_id:id}/backfill",
    **describe({200: Backfilled}, body=changes.Backfill, problems=(409,), keyed=True),
)
def fill(request: Request, asking: Asking, sent: Sent, task_id: Id) -> Response:
    """The task's occurrences of a span of the past that had no run have one now."""
    wanted = registration.read(changes.Backfill, document(sent.raw))

    def work(connection: Any) -> Change:
        task, filled = found(
            backfill.backfill(
                connection, asking.namespace, task_id, wanted.span, actor=asking.actor, dry_run=wanted.dry_run
            )
        )
        return Change(200, documents.compact(changes.backfilled(task, filled, wanted)))

    mark = ticket(request, asking, sent.raw)
    done = acceptance.once(request.app.state.database, work, None if wanted.dry_run else mark)
    if not wanted.dry_run:
        request.app.state.notices.nudge("look")
    return response(done)


def _control(request: Request, asking: Caller, sent: Body, task_id: int, change: Any) -> Response:
    """With an Idempotency-Key: what was sent twice and comes late cannot undo what was done meanwhile."""
    return response(
        acceptance.change_one(
            request.app.state.database,
            _one(request, asking, task_id, change),
            write=lambda row: documents.compact(documents.task(row)),
            ticket=ticket(request, asking, sent.raw),
        )
    )


def _one(request: Request, asking: Caller, task_id: int, change: Any) -> Callable[[Any], dict[str, Any]]:
    versions = precondition(request)
    return lambda c: found(change(c, asking.namespace, task_id, actor=asking.actor, versions=versions))
