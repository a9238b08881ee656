"""Routes under /v1: register and read tasks, read runs, preview schedules. `control` has those that change tasks.

Handlers are plain functions on at most 16 threads, each with one connection of the pool; the transaction begins and
ends inside the handler.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from clockjack import documents, registration, telemetry
from clockjack.answers import Page as Listed
from clockjack.answers import State, Task, TaskRun
from clockjack.changes import Cursor
from clockjack.ledger import acceptance, reports, tasks
from clockjack.ledger.database import Database, from_us, to_us
from clockjack.outlook import Previewed
from clockjack.preview import preview
from producer import cursors
from producer.answers import found, json, response, unless_known
from producer.describing import describe
from producer.requests import Asking, Body, Caller, Id, Sent, body, caller, document, ticket

DUE_SOON = timedelta(seconds=6)
router = APIRouter(prefix="/v1", dependencies=[Depends(caller)])


class Page(BaseModel):
    """Which part of a list is wanted."""

    model_config = ConfigDict(extra="forbid")
    limit: Annotated[int, Field(ge=1, le=reports.MAX_PAGE)] = 50
    cursor: Cursor | None = None


class TaskFilter(Page):
    """Which tasks are wanted; `task_key` is a prefix."""

    state: State | None = None
    handler: Annotated[str, Field(max_length=200)] | None = None
    queue: Annotated[str, Field(max_length=64)] | None = None
    task_key: Annotated[str, Field(max_length=200)] | None = None
    tag: Annotated[str, Field(max_length=200)] | None = None
    group_key: Annotated[str, Field(max_length=200)] | None = None


@router.post(
    "/tasks",
    **describe({201: Task, 200: Task}, body=registration.NewTask, keyed=True, headers=("Location",)),
)
def register(request: Request, asking: Asking, sent: Sent) -> Response:
    """The task is registered: 201 when it is new, 200 when the task of this task_key was brought to these values."""
    return accept(request, asking, sent, lambda: document(sent.raw))


def accept(
    request: Request, asking: Caller, sent: Body, registered: Callable[[], Any], only: tasks.Meant = None
) -> Response:
    """What `registered` gives is registered, if it may be for the version of the task that has its task_key."""
    database: Database = request.app.state.database
    mark = ticket(request, asking, sent.raw)
    try:
        now = database.clock.now() if database.clock.known else database.now()
        values = registration.fields(registration.new_task(registered()), now)
    except registration.Refused:
        if mark and (given := acceptance.read(database, lambda c: acceptance.given(c, mark))):
            return response(given)  # accepted at its time: a retry must not be refused because time has passed
        raise
    warnings = request.app.state.notices.warnings(values["queue"], values["handler"])
    due: list[datetime | None] = []

    def write(row: dict[str, Any], crowding: list[str]) -> str:
        due.append(row["next_run_at"])
        return registration.answer(row, warnings + crowding)

    done = acceptance.register(
        database, asking.namespace, values, actor=asking.actor, write=write, ticket=mark, meant=only
    )
    telemetry.REGISTRATION.labels("http").observe(sent.age_s)
    if not done.replayed and due[-1] is not None and due[-1] - now < DUE_SOON:
        request.app.state.notices.nudge("claim")
    return response(done)


async def straight(request: Request) -> Response:
    """The same as `register`, whose route describes it, without what finding out its parameters costs each time."""
    return await run_in_threadpool(register, request, await caller(request), await body(request))


@router.post("/schedules/preview", **describe({200: Previewed}, body=registration.Preview))
def preview_schedule(request: Request, sent: Sent) -> Response:
    """What a schedule means, before a task has it: its words, its next occurrences, its surprises."""
    database: Database = request.app.state.database
    now = database.clock.now() if database.clock.known else database.now()
    wanted = registration.read(registration.Preview, document(sent.raw))
    schedule = replace(registration.schedule(wanted, now), seed=wanted.seed)
    return json(preview(schedule, now, wanted.count))


@router.get("/tasks", **describe({200: Listed[Task]}))
def list_tasks(request: Request, asking: Asking, wanted: Annotated[TaskFilter, Query()]) -> Response:
    """Tasks, the newest first, without their payloads."""
    where = wanted.model_dump(exclude={"limit", "cursor"}, exclude_none=True)
    before = cursors.read(wanted.cursor)

    def body(connection: Any) -> Any:
        return reports.list_tasks(connection, asking.namespace, **where, before_id=before, limit=wanted.limit)

    items = _read(request, body)
    after = items[-1]["id"] if len(items) == wanted.limit else None
    return page(request, [documents.task(row) for row in items], after)


@router.get("/tasks/{task_id:id}", **describe({200: Task, 304: None}, unmatched=True))
def get_task(request: Request, asking: Asking, task_id: Id) -> Response:
    """The task with its payload; 304 without it when If-None-Match names its ETag."""
    row = _read(request, lambda c: tasks.get(c, asking.namespace, task_id))
    return unless_known(request, documents.task(found(row)))


@router.get("/tasks/{task_id:id}/runs", **describe({200: Listed[TaskRun]}))
def list_runs(request: Request, asking: Asking, task_id: Id, wanted: Annotated[Page, Query()]) -> Response:
    """The task's runs, the latest due first."""
    before = cursors.read(wanted.cursor)

    def body(connection: Any) -> Any:
        if tasks.get(connection, asking.namespace, task_id) is None:
            return None
        return reports.list_runs(connection, task_id, before=from_us(before) if before else None, limit=wanted.limit)

    items = found(_read(request, body))
    after = to_us(items[-1]["due_at"]) if len(items) == wanted.limit else None
    return page(request, [documents.run(row) for row in items], after)


@router.get("/runs/{run_id:id}", **describe({200: TaskRun}))
def get_run(request: Request, asking: Asking, run_id: Id) -> Response:
    """The run with its attempts that did not succeed."""

    def body(connection: Any) -> Any:
        run = reports.get_run(connection, asking.namespace, run_id)
        return run and (run, reports.attempts(connection, run))

    run, attempts = found(_read(request, body))
    return json(documents.run(run) | {"attempts": [documents.plain(row) for row in attempts]})


def _read(request: Request, body: Any) -> Any:
    return acceptance.read(request.app.state.database, body)


def page(request: Request, items: list[Any], after: int | None) -> Response:
    """A page of a list, and where it goes on."""
    cursor = None if after is None else cursors.write(after)
    answer = json({"items": items, "next_cursor": cursor})
    if cursor:
        query = urlencode({**request.query_params, "cursor": cursor})
        answer.headers["Link"] = f'<{request.url.path}?{query}>; rel="next"'
    return answer
