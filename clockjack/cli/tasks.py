"""`clockjack list | show | runs`."""

from collections.abc import Callable
from typing import Any

from clockjack import documents
from clockjack.cli import session, show
from clockjack.cli.session import TASKS, Failed, Group, Json, Key, Limit, Namespace, Tag, TaskId, known
from clockjack.ledger import acceptance, reports
from clockjack.ledger import tasks as ledger_tasks

RUNS = ("id", "due_at", "state", "attempt", "failures", "lateness_ms", "started_at", "finished_at", "reason", "error")
Row = dict[str, Any]


def list_(
    state: str | None = None,
    handler: str | None = None,
    queue: str | None = None,
    key: Key = None,
    tag: Tag = None,
    group: Group = None,
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
            where |= {"tag": tag, "group_key": group}
            before = last["id"] if last else None
            return acceptance.read(
                database, lambda c: reports.list_tasks(c, namespace, **where, before_id=before, limit=size)
            )

        found = [documents.task(row) for row in _pages(page, limit)]
    session.write(found, TASKS, json)


def show_(task_id: TaskId, namespace: Namespace = "default", json: Json = False) -> None:
    """A task, its latest runs and what was done to it."""

    def body(connection: Any) -> Any:
        row = known(ledger_tasks.get(connection, namespace, task_id), task_id)
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
        known(acceptance.read(database, lambda c: ledger_tasks.get(c, namespace, task_id)), task_id)

        def page(last: Row | None, size: int) -> list[Row]:
            before = last["due_at"] if last else None
            return acceptance.read(database, lambda c: reports.list_runs(c, task_id, before=before, limit=size))

        found = [documents.run(row) for row in _pages(page, limit)]
    session.write(found, RUNS, json)


def _pages(page: Callable[[Row | None, int], list[Row]], limit: int) -> list[Row]:
    found: list[Row] = []
    while len(found) < limit:
        size = min(limit - len(found), reports.MAX_PAGE)
        new = page(found[-1] if found else None, size)
        found += new
        if len(new) < size:
            break
    return found
