"""`clockjack list | show | runs | pause | resume | cancel | run-now`."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from clockjack import documents
from clockjack.cli import session, show
from clockjack.cli.session import Failed, Json, Limit, Namespace, TaskId, TaskIds
from clockjack.ledger import acceptance, control, reports
from clockjack.ledger import tasks as ledger_tasks
from clockjack.ledger.acceptance import Change

TASKS = ("id", "state", "handler", "queue", "task_key", "name", "next_run_at", "error")
RUNS = ("id", "due_at", "state", "attempt", "failures", "lateness_ms", "started_at", "finished_at", "reason", "error")
Row = dict[str, Any]


def list_(
    state: str | None = None,
    handler: str | None = None,
    queue: str | None = None,
    key: Annotated[str | None, typer.Option(help="task_key begins with this")] = None,
    limit: Limit = 50,
    namespace: Namespace = "default",
    json: Json = False,
) -> None:
    """Tasks, the newest first."""
    if state not in (None, "active", "paused", "cancelled", "invalid"):
        raise Failed("state: expected active, paused, cancelled or invalid", 2)
    with session.ledger() as database:

        def page(last: Row | None, size: int) -> list[Row]:
            where: dict[str, Any] = {"state": state, "handler": handler, "queue": queue, "task_key": key}
            before = last["id"] if last else None
            return acceptance.read(
                database, lambda c: reports.list_tasks(c, namespace, **where, before_id=before, limit=size)
            )

        found = [documents.task(row) for row in _pages(page, limit)]
    session.write(found, TASKS, json)


def show_(task_id: TaskId, namespace: Namespace = "default", json: Json = False) -> None:
    """A task, its latest runs and what was done to it."""

    def body(connection: Any) -> Any:
        row = _known(ledger_tasks.get(connection, namespace, task_id), task_id)
        runs = reports.list_runs(connection, task_id, limit=10)
        return row, runs, reports.list_events(connection, task_id, limit=10)

    with session.ledger() as database:
        row, runs, events = acceptance.read(database, body)
    document = documents.task(row)
    runs, events = [documents.run(r) for r in runs], [documents.plain(e) for e in events]
    if json:
        show.as_json(document | {"runs": runs, "events": events})
        return
    show.record(document)
    print("\nlatest runs")
    show.table(runs, RUNS)
    print("\nlatest changes")
    show.table(events, ("at", "actor", "action", "version", "detail"))


def runs(
    task_id: TaskId,
    limit: Limit = 50,
    namespace: Namespace = "default",
    json: Json = False,
) -> None:
    """A task's runs, the latest due first."""
    with session.ledger() as database:
        _known(acceptance.read(database, lambda c: ledger_tasks.get(c, namespace, task_id)), task_id)

        def page(last: Row | None, size: int) -> list[Row]:
            before = last["due_at"] if last else None
            return acceptance.read(database, lambda c: reports.list_runs(c, task_id, before=before, limit=size))

        found = [documents.run(row) for row in _pages(page, limit)]
    session.write(found, RUNS, json)


def pause(ids: TaskIds, namespace: Namespace = "default", json: Json = False) -> None:
    """These tasks start nothing until they are resumed."""
    _control(control.pause, ids, namespace, json)


def resume(ids: TaskIds, namespace: Namespace = "default", json: Json = False) -> None:
    """These tasks are active again."""
    _control(control.resume, ids, namespace, json, nudge=True)


def cancel(ids: TaskIds, namespace: Namespace = "default", json: Json = False) -> None:
    """These tasks fire no more; their history stays."""
    _control(control.cancel, ids, namespace, json)


def run_now(ids: TaskIds, namespace: Namespace = "default", json: Json = False) -> None:
    """One more run of each of these tasks, due now."""
    with session.ledger() as database:
        try:
            done = acceptance.run_now(
                database,
                namespace,
                ids,
                actor=session.ACTOR,
                write=lambda made: documents.compact([documents.run(row) for row in made]),
            )
        except KeyError as error:
            raise Failed(f"there is no task {error.args[0]}") from None
    session.nudge("look")
    session.write(documents.strict_json(done.answer), ("id", "task_id", "due_at", "state"), json)


def _control(change: Any, ids: list[int], namespace: str, json: bool, *, nudge: bool = False) -> None:
    """All of these tasks are changed, or none."""

    def work(connection: Any) -> Change:
        rows = [  # in ascending order, as everything that locks more than one row
            _known(change(connection, namespace, task_id, actor=session.ACTOR), task_id) for task_id in sorted(set(ids))
        ]
        return Change(200, documents.compact([documents.task(row) for row in rows]))

    with session.ledger() as database:
        done = acceptance.once(database, work)
    if nudge:
        session.nudge("claim")
    session.write(documents.strict_json(done.answer), TASKS, json)


def _pages(page: Callable[[Row | None, int], list[Row]], limit: int) -> list[Row]:
    found: list[Row] = []
    while len(found) < limit:
        size = min(limit - len(found), reports.MAX_PAGE)
        new = page(found[-1] if found else None, size)
        found += new
        if len(new) < size:
            break
    return found


def _known(row: Row | None, task_id: int) -> Row:
    if row is None:
        raise Failed(f"there is no task {task_id}")
    return row
