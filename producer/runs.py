"""Routes under /v1/runs: what became of occurrences, and what is done to one of them by hand."""

from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from clockjack import documents, registration, replaying
from clockjack.answers import Page as Listed
from clockjack.answers import Retried, TaskRun
from clockjack.ledger import acceptance, replay, slo, tasks
from clockjack.ledger.acceptance import Change
from clockjack.ledger.asking import cancel_run
from clockjack.outlook import Slo
from producer import cursors
from producer.answers import found, json, response
from producer.describing import describe
from producer.requests import Asking, Id, Sent, caller, document, ticket
from producer.tasks import Page, page

router = APIRouter(prefix="/v1", dependencies=[Depends(caller)])
ONE: Any = {"problems": (409,), "keyed": True, "headers": ("Location",)}


class RunFilter(replaying.Which, Page):
    """Which runs are wanted, and which part of their list."""


class Window(BaseModel):
    """How far back is looked."""

    model_config = ConfigDict(extra="forbid")
    window_s: Annotated[int, Field(ge=1, le=604_800)] = 3600


@router.get("/slo", **describe({200: Slo}))
def promise(request: Request, asking: Asking, wanted: Annotated[Window, Query()]) -> Response:
    """How many of the runs that came due began on time, and how late they were, by stage."""
    window = timedelta(seconds=wanted.window_s)
    kept = acceptance.read(request.app.state.database, lambda c: slo.slo(c, asking.namespace, window))
    return json(documents.nested(kept))


@router.get("/runs", **describe({200: Listed[TaskRun]}))
def list_runs(request: Request, asking: Asking, wanted: Annotated[RunFilter, Query()]) -> Response:
    """Runs, the newest first. A page that is not full has a `next_cursor` if there may be more."""
    where = wanted.model_dump(exclude={"limit", "cursor"})
    before = cursors.read(wanted.cursor)
    items, after = acceptance.read(
        request.app.state.database,
        lambda c: replay.list_runs(c, asking.namespace, where, before=before, limit=wanted.limit),
    )
    return page(request, [documents.run(row) for row in items], after)


@router.post("/runs/retry", **describe({202: Retried}, body=replaying.Replay))
def retry_many(request: Request, asking: Asking, sent: Sent) -> Response:
    """Up to 1,000 of the failed runs that match are due now; `next_cursor` goes on with the others."""
    wanted = registration.read(replaying.Replay, document(sent.raw))
    done, after = replaying.carry_out(
        request.app.state.database, asking.namespace, wanted, before=cursors.read(wanted.cursor), actor=asking.actor
    )
    if done["retried"]:
        request.app.state.notices.nudge("look")
    answer = json(done | {"next_cursor": None if after is None else cursors.write(after)})
    answer.status_code = 202
    return answer


@router.post("/runs/{run_id:id}/retry", **describe({202: TaskRun}, **ONE))
def retry(request: Request, asking: Asking, sent: Sent, run_id: Id) -> Response:
    """The failed or cancelled run is due now, with all its attempts to come."""
    answer = _change(request, asking, sent, run_id, replay.retry)
    request.app.state.notices.nudge("look")
    return answer


@router.post("/runs/{run_id:id}/cancel", **describe({200: TaskRun, 202: TaskRun}, **ONE))
def cancel(request: Request, asking: Asking, sent: Sent, run_id: Id) -> Response:
    """A run that waits is cancelled; of one that runs it is accepted: its handler is asked to stop."""
    return _change(request, asking, sent, run_id, cancel_run)


def _change(request: Request, asking: Asking, sent: Sent, run_id: int, change: Callable[..., Any]) -> Response:
    def work(connection: Any) -> Change:
        run = found(change(connection, asking.namespace, run_id, actor=asking.actor))
        mark = tasks.last_event(connection, run["task_id"])
        status = 200 if run["state"] == "cancelled" else 202  # what is ready or running is still to do what was asked
        return Change(status, documents.compact(documents.run(run)), lambda c: tasks.has_event(c, mark))

    return response(acceptance.once(request.app.state.database, work, ticket(request, asking, sent.raw)))
