"""`clockjack run list | get | retry | cancel` and `clockjack dead list | replay`: what became of occurrences."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import typer

from clockjack import documents, registration, replaying
from clockjack.cli import session, show
from clockjack.cli.session import ACTOR, DryRun, Failed, Json, Limit, Namespace
from clockjack.ledger import acceptance, asking, replay, reports, tasks
from clockjack.ledger.acceptance import Change

RUNS = ("id", "task_id", "due_at", "state", "queue", "attempt", "failures", "lateness_ms", "reason", "error")
ATTEMPTS = ("attempt", "outcome", "worker", "started_at", "ended_at", "error")
RunId = Annotated[int, typer.Argument(min=1, metavar="ID", show_default=False)]
Handler = Annotated[str | None, typer.Option(help="of tasks with this handler")]
Queue = Annotated[str | None, typer.Option(help="of this queue")]
From = Annotated[str | None, typer.Option("--due-from", help="due then or later; RFC 3339 with an offset")]
Until = Annotated[str | None, typer.Option("--due-until", help="due before; RFC 3339 with an offset")]
All = Annotated[bool, typer.Option("--all", help="all failed runs of the namespace")]


def list_(
    state: Annotated[str | None, typer.Option(help="ready, running, succeeded, failed, cancelled or skipped")] = None,
    handler: Handler = None,
    queue: Queue = None,
    due_from: From = None,
    due_until: Until = None,
    late_ms: Annotated[int | None, typer.Option(help="began so late, or later")] = None,
    limit: Limit = 50,
    namespace: Namespace = "default",
    json: Json = False,
) -> None:
    """Runs of all tasks, the newest first.

    Example: clockjack run list --queue mail --late-ms 10000
    """
    given = {"state": state, "handler": handler, "queue": queue, "due_from": due_from, "due_until": due_until}
    _list(registration.read(replaying.Which, given | {"late_ms": late_ms}), limit, namespace, json)


def get(run_id: RunId, namespace: Namespace = "default", json: Json = False) -> None:
    """A run, with its attempts that did not succeed.

    Example: clockjack run get 4711
    """

    def body(connection: Any) -> Any:
        run = _known(reports.get_run(connection, namespace, run_id), run_id)
        return run, reports.attempts(connection, run)

    with session.ledger() as database:
        run, attempts = acceptance.read(database, body)
    document = documents.run(run) | {"attempts": [documents.plain(row) for row in attempts]}
    if json:
        show.as_json(document)
        return
    show.record({name: value for name, value in document.items() if name != "attempts"})
    if document["attempts"]:
        print("\nattempts that did not succeed")
        show.table(document["attempts"], ATTEMPTS)


def retry(run_id: RunId, namespace: Namespace = "default", json: Json = False) -> None:
    """A failed or cancelled run is due now, and has all its attempts again.

    Example: clockjack run retry 4711
    """
    _change(replay.retry, run_id, namespace, json)
    session.nudge("look")


def cancel(run_id: RunId, namespace: Namespace = "default", json: Json = False) -> None:
    """A ready run is over; a running one is asked to stop, and hears it within 2 s.

    Example: clockjack run cancel 4711
    """
    _change(asking.cancel_run, run_id, namespace, json)


def dead_list(
    handler: Handler = None,
    queue: Queue = None,
    due_from: From = None,
    due_until: Until = None,
    limit: Limit = 50,
    namespace: Namespace = "default",
    json: Json = False,
) -> None:
    """Dead letters: runs that have failed for good, the newest first.

    Example: clockjack dead list --handler mail.send
    """
    given = {"state": "failed", "handler": handler, "queue": queue, "due_from": due_from, "due_until": due_until}
    _list(registration.read(replaying.Which, given), limit, namespace, json)


def dead_replay(
    handler: Handler = None,
    queue: Queue = None,
    due_from: From = None,
    due_until: Until = None,
    all_: All = False,
    dry_run: DryRun = False,
    namespace: Namespace = "default",
    json: Json = False,
) -> None:
    """Failed runs that match are due now, and have all their attempts again.

    Example: clockjack dead replay --handler mail.send --due-from 2030-01-01T00:00:00Z --dry-run
    """
    given = {"handler": handler, "queue": queue, "due_from": due_from, "due_until": due_until}
    if all_ == any(value is not None for value in given.values()):
        raise Failed("give either a filter (--handler, --queue, --due-from, --due-until) or --all", 2)
    wanted = registration.read(replaying.Replay, given | {"dry_run": dry_run})
    total: dict[str, Any] = {"matched": 0, "retried": 0, "refused": []}
    before, more = None, True
    with session.ledger() as database:
        while more:
            done, before = replaying.carry_out(database, namespace, wanted, before=before, actor=ACTOR)
            total = {name: total[name] + done[name] for name in total}
            more = before is not None
    if total["retried"]:
        session.nudge("look")
    total["refused"] = total["refused"][: replaying.MOST_REFUSED]
    if json:
        show.as_json(total)
        return
    print(f"{total['matched']} match, {total['retried']} are due now")
    for one in total["refused"]:
        show.complain(f"run {one['id']} refused: {one['why']}")


def _list(which: replaying.Which, limit: int, namespace: str, json: bool) -> None:
    found: list[dict[str, Any]] = []
    before, more = None, True
    with session.ledger() as database:
        while more and len(found) < limit:
            page = partial(
                replay.list_runs,
                namespace=namespace,
                where=which.model_dump(),
                before=before,
                limit=limit - len(found),
            )
            items, before = acceptance.read(database, page)
            found += [documents.run(row) for row in items]
            more = before is not None
    session.write(found, RUNS, json)


def _change(change: Callable[..., Any], run_id: int, namespace: str, json: bool) -> None:
    """The run was changed; Failed where there is none."""

    def work(connection: Any) -> Change:
        run = _known(change(connection, namespace, run_id, actor=ACTOR), run_id)
        mark = tasks.last_event(connection, run["task_id"])
        return Change(200, documents.compact(documents.run(run)), lambda c: tasks.has_event(c, mark))

    with session.ledger() as database:
        run = documents.strict_json(acceptance.once(database, work).answer)
    if json:
        show.as_json(run)
    else:
        show.table([run], RUNS)


def _known(run: dict[str, Any] | None, run_id: int) -> dict[str, Any]:
    if run is None:
        raise Failed(f"there is no run {run_id}")
    return run
