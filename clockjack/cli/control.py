"""`clockjack edit | pause | resume | cancel | run-now | backfill`: named tasks, all or none; or all that match."""

import re
from functools import partial
from typing import Annotated, Any

import typer

from clockjack import changes, documents, registration
from clockjack.cli import session, show
from clockjack.cli.session import TASKS, DryRun, Failed, Group, Json, Key, Namespace, Tag, TaskId, TaskIds, known
from clockjack.ledger import acceptance, backfill, bulk, control
from clockjack.ledger.acceptance import Change

Handler = Annotated[str | None, typer.Option(help="of this handler")]
Queue = Annotated[str | None, typer.Option(help="of this queue")]
State = Annotated[str | None, typer.Option(help="active, paused, cancelled or invalid")]
All = Annotated[bool, typer.Option("--all", help="all tasks of the namespace")]
Words = Annotated[list[str], typer.Argument(metavar="[ID]... FIELD=VALUE...", show_default=False)]


def pause(
    ids: TaskIds = None,
    key: Key = None,
    handler: Handler = None,
    queue: Queue = None,
    tag: Tag = None,
    group: Group = None,
    state: State = None,
    all_: All = False,
    dry_run: DryRun = False,
    namespace: Namespace = "default",
    json: Json = False,
) -> None:
    """These tasks start nothing until they are resumed."""
    where = {"task_key": key, "handler": handler, "queue": queue, "tag": tag, "group_key": group, "state": state}
    if not _many("pause", ids, where, all_, dry_run, namespace, json):
        _control(control.pause, ids or [], namespace, json)


def resume(
    ids: TaskIds = None,
    catch_up: Annotated[bool, typer.Option("--catch-up", help="also what the pause missed, as misfire says")] = False,
    key: Key = None,
    handler: Handler = None,
    queue: Queue = None,
    tag: Tag = None,
    group: Group = None,
    state: State = None,
    all_: All = False,
    dry_run: DryRun = False,
    namespace: Namespace = "default",
    json: Json = False,
) -> None:
    """These tasks are active again."""
    where = {"task_key": key, "handler": handler, "queue": queue, "tag": tag, "group_key": group, "state": state}
    if not _many("resume", ids, where, all_, dry_run, namespace, json, catch_up=catch_up):
        _control(partial(control.resume, catch_up=catch_up), ids or [], namespace, json)


def cancel(
    ids: TaskIds = None,
    key: Key = None,
    handler: Handler = None,
    queue: Queue = None,
    tag: Tag = None,
    group: Group = None,
    state: State = None,
    all_: All = False,
    dry_run: DryRun = False,
    namespace: Namespace = "default",
    json: Json = False,
) -> None:
    """These tasks fire no more; their history stays."""
    where = {"task_key": key, "handler": handler, "queue": queue, "tag": tag, "group_key": group, "state": state}
    if not _many("cancel", ids, where, all_, dry_run, namespace, json):
        _control(control.cancel, ids or [], namespace, json)


def run_now(
    ids: TaskIds = None,
    key: Key = None,
    handler: Handler = None,
    queue: Queue = None,
    tag: Tag = None,
    group: Group = None,
    state: State = None,
    all_: All = False,
    dry_run: DryRun = False,
    namespace: Namespace = "default",
    json: Json = False,
) -> None:
    """One more run of each of these tasks, due now."""
    where = {"task_key": key, "handler": handler, "queue": queue, "tag": tag, "group_key": group, "state": state}
    if _many("run", ids, where, all_, dry_run, namespace, json):
        return
    with session.ledger() as database:
        try:
            done = acceptance.run_now(
                database,
                namespace,
                ids or [],
                actor=session.ACTOR,
                write=lambda made: documents.compact([documents.run(row) for row in made]),
            )
        except KeyError as error:
            raise Failed(f"there is no task {error.args[0]}") from None
    session.nudge("look")
    session.write(documents.strict_json(done.answer), ("id", "task_id", "due_at", "state"), json)


def edit(
    words: Words,
    key: Key = None,
    handler: Handler = None,
    queue: Queue = None,
    tag: Tag = None,
    group: Group = None,
    state: State = None,
    all_: All = False,
    dry_run: DryRun = False,
    namespace: Namespace = "default",
    json: Json = False,
) -> None:
    """These tasks have these values. VALUE is JSON, or else text; FIELD= resets the field to its default."""
    where = {"task_key": key, "handler": handler, "queue": queue, "tag": tag, "group_key": group, "state": state}
    ids = [_id(word) for word in words if "=" not in word]
    change = _assignments([word for word in words if "=" in word])
    if not _many("edit", ids, where, all_, dry_run, namespace, json, set=change):
        values = changes.edit(changes.patch(change))
        _control(partial(control.edit, values=values), ids, namespace, json)


def fill(
    task_id: TaskId,
    from_: Annotated[str, typer.Option("--from", help="RFC 3339 with an offset")],
    to: Annotated[str, typer.Option(help="RFC 3339 with an offset; not in the future")],
    per_s: Annotated[int, typer.Option(help="so many runs a second, 1 to 1000")] = 10,
    dry_run: DryRun = False,
    namespace: Namespace = "default",
    json: Json = False,
) -> None:
    """Run what the task's schedule says for a span of the past and that did not run then."""
    given = {"from": from_, "to": to, "per_s": per_s, "dry_run": dry_run}
    wanted = registration.read(changes.Backfill, given)

    def work(connection: Any) -> Change:
        done = backfill.backfill(
            connection, namespace, task_id, wanted.span, actor=session.ACTOR, dry_run=wanted.dry_run
        )
        if done is None:
            raise Failed(f"there is no task {task_id}")
        return Change(200, documents.compact(changes.backfilled(*done, wanted)))

    with session.ledger() as database:
        found = documents.strict_json(acceptance.once(database, work).answer)
    if not dry_run:
        session.nudge("look")
    if json:
        show.as_json(found)
        return
    if dry_run:
        show.table(found["items"], ("due_at", "runs", "why"))
    else:
        print(f"{found['runs']} of {found['occurrences']} occurrences run, {per_s} a second")


def _many(
    action: str,
    ids: list[int] | None,
    where: dict[str, str | None],
    all_: bool,
    dry_run: bool,
    namespace: str,
    json: bool,
    **more: Any,
) -> bool:
    """Whether tasks were meant by what they have and not by their ids; then all that match were changed."""
    filtered = all_ or any(value is not None for value in where.values())
    if ids and filtered:
        raise Failed("give either IDs or a filter, not both", 2)
    if ids and dry_run:
        raise Failed("--dry-run is for a filter", 2)
    if ids:
        return False
    if not filtered:
        raise Failed("give IDs, or a filter: --key, --handler, --queue, --tag, --group, --state, --all", 2)
    given = {"action": action, "filter": where, "all": all_, "dry_run": dry_run, **more}
    order = changes.order(registration.read(changes.Bulk, given), namespace, session.ACTOR)
    total = bulk.Done(after=0)
    with session.ledger() as database:
        while total.after is not None:
            done = bulk.carry_out(database, order, after=total.after, dry_run=dry_run)
            total.matched, total.changed = total.matched + done.matched, total.changed + done.changed
            total.refused, total.after = (total.refused + done.refused)[: bulk.MOST_REFUSED], done.after
    if total.changed and not dry_run:
        session.nudge("look" if action == "run" else "claim")
    if json:
        show.as_json({"matched": total.matched, "changed": total.changed, "refused": total.refused})
        return True
    print(f"{total.matched} match, {total.changed} {'would be ' if dry_run else ''}changed")
    for one in total.refused:
        show.complain(f"task {one['id']} refused: {one['why']}")
    return True


def _control(change: Any, ids: list[int], namespace: str, json: bool) -> None:
    """All of these tasks are changed, or none."""

    def work(connection: Any) -> Change:
        rows = [  # in ascending order, as everything that locks more than one row
            known(change(connection, namespace, task_id, actor=session.ACTOR), task_id) for task_id in sorted(set(ids))
        ]
        return Change(200, documents.compact([documents.task(row) for row in rows]))

    with session.ledger() as database:
        done = acceptance.once(database, work)
    session.nudge("claim")
    session.write(documents.strict_json(done.answer), TASKS, json)


def _id(word: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,18}", word):
        raise Failed(f"expected an ID or FIELD=VALUE, not {word[:40]!r}", 2)
    return int(word)


def _assignments(words: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word in words:
        name, _, text = word.partition("=")
        if name in found:
            raise Failed(f"{name[:40]}: given twice", 2)
        try:
            found[name] = documents.strict_json(text) if text else None
        except ValueError:
            found[name] = text
    return found
