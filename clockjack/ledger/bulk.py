"""Control of many tasks: what `control` does to one, done to all that match, 500 a transaction.

Tasks are found in the order of their ids, and locked by primary key; pause, resume and cancel are a few statements for
each 500, whatever the number of tasks. Run and edit go task by task.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from clockjack.documents import compact, strict_json
from clockjack.ledger import acceptance, control, tasks
from clockjack.ledger.acceptance import Change, Ticket
from clockjack.ledger.advance import see
from clockjack.ledger.database import Database, changed, chunks, rows
from clockjack.ledger.decide import Step
from clockjack.ledger.reports import matching
from clockjack.ledger.tasks import COLUMNS, StateConflict, done_by_sql

LIMIT = 10_000  # tasks a request
BATCH, BATCH_ALONE = 500, 100  # tasks a transaction, all at once or one by one
BUSY_S = 4.0  # no transaction is begun later than this after the request: the rest is for the next one
MOST_REFUSED = 100
READ = ", ".join(name for name in COLUMNS.split(", ") if name != "payload")
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done to which tasks. `values` makes the columns of an edit of a task's row and the time."""

    namespace: str
    action: str  # pause | resume | cancel | run | edit
    where: Mapping[str, str | None]
    actor: str
    catch_up: bool = False
    values: Callable[[Row, datetime], Row] | None = None


@dataclass(slots=True)
class Done:
    """How many tasks matched, how many were changed, what was refused and why, after which id to go on (None: none)."""

    matched: int = 0
    changed: int = 0
    refused: list[dict[str, Any]] = field(default_factory=list)
    after: int | None = None
    replayed: bool = True


class _DryRun(Exception):
    """The transaction is rolled back; `args` holds what it would have answered."""


def carry_out(
    database: Database, order: Order, *, after: int = 0, dry_run: bool = False, ticket: Ticket | None = None
) -> Done:
    """Up to 10,000 of the matching tasks behind the id `after` are changed, or, in a dry run, would be.

    Each transaction has a ticket of its own, made of the request's: sent again, the request goes on where it was.
    """
    done, begun_s = Done(after=after), time.monotonic()
    size = BATCH_ALONE if order.action in ("run", "edit") else BATCH
    while done.after is not None and done.matched < LIMIT and time.monotonic() - begun_s < BUSY_S:
        own = ticket and _of_part(ticket, done.after, after)
        part, replayed = _part(database, order, done.after, size, dry_run, own)
        done.matched += part["matched"]
        done.changed += part["changed"]
        done.refused += part["refused"][: MOST_REFUSED - len(done.refused)]
        done.after, done.replayed = part["after"], done.replayed and replayed
    return done


def _of_part(ticket: Ticket, after: int, first: int) -> Ticket:
    if after == first:
        return ticket
    return replace(ticket, key=f"{sha256(ticket.key.encode()).hexdigest()} {after}")


def _part(
    database: Database, order: Order, after: int, size: int, dry_run: bool, ticket: Ticket | None
) -> tuple[dict[str, Any], bool]:
    def work(connection: Connection) -> Change:
        found, touched = _change(connection, order, after, size)
        if dry_run:
            raise _DryRun(found)
        mark = tasks.last_event(connection, touched) if touched else None
        return Change(200, compact(found), None if mark is None else lambda c: tasks.has_event(c, mark))

    try:
        answer = acceptance.once(database, work, None if dry_run else ticket)
    except _DryRun as end:
        return end.args[0], False
    return strict_json(answer.answer), answer.replayed


def _change(connection: Connection, order: Order, after: int, size: int) -> tuple[dict[str, Any], int | None]:
    """What was done to the next `size` tasks, and one of those that were changed."""
    condition, values = matching(order.namespace, order.where)
    sql = f"SELECT id FROM tasks WHERE {condition} AND id > :after ORDER BY id LIMIT :size"
    ids = [row["id"] for row in rows(connection, sql, after=after, size=size, **values)]
    found: list[Row] = []
    if ids:
        sql = f"SELECT {READ} FROM tasks FORCE INDEX (PRIMARY) WHERE id IN :ids AND {condition} ORDER BY id FOR UPDATE"
        found = rows(connection, sql, ids=ids, **values)
    refused: list[dict[str, Any]] = []
    touched: list[int] = []
    judged: list[tuple[Row, Row]] = []
    now = connection.execute(sa.text("SELECT UTC_TIMESTAMP(6)")).scalar_one()
    for task in found:
        try:
            if order.action in ("run", "edit"):
                touched += [task["id"]] if _alone(connection, order, task) else []
            elif new := _judge(order, task, now):
                judged.append((task, new))
        except (StateConflict, ValueError) as error:
            refused.append({"id": task["id"], "why": str(error)})
    if judged:
        _write(connection, judged, control.EVENTS[order.action], order.actor, now)
        touched = [task["id"] for task, _ in judged]
    document = {"matched": len(found), "changed": len(touched), "refused": refused[:MOST_REFUSED]}
    return document | {"after": ids[-1] if len(ids) == size else None}, touched[-1] if touched else None


def _judge(order: Order, task: Row, now: datetime) -> Row:
    if order.action == "pause":
        return control.to_pause(task)
    if order.action == "cancel":
        return control.to_cancel(task)
    return control.to_resume(task, now, catch_up=order.catch_up)


def _alone(connection: Connection, order: Order, task: Row) -> bool:
    if order.action == "run":
        return bool(control.run_now(connection, order.namespace, [task["id"]], actor=order.actor))
    if order.values is None:
        raise TypeError("an edit needs values")
    row = control.edit(connection, order.namespace, task["id"], order.values, actor=order.actor)
    return row is not None and row["version"] != task["version"]


def _write(connection: Connection, judged: Sequence[tuple[Row, Row]], action: str, actor: str, now: datetime) -> None:
    """The locked tasks have these values, each its version one higher and its event, as `tasks.update` does for one."""
    see(connection, [Step(task, None) for task, _ in judged])  # what plain SQL did is in the trail before it
    for task, new in judged:
        control.end_range(connection, task, new, now)
    alike: dict[tuple[int, tuple[str, ...]], list[tuple[int, Row]]] = {}
    for task, new in judged:
        versions = 1 + len(done_by_sql(task))
        alike.setdefault((versions, tuple(sorted(new))), []).append((task["id"], new))
    for (versions, names), group in sorted(alike.items(), key=lambda item: item[1][0][0]):
        for part in chunks(group, 200):  # a CASE is searched line by line: longer ones cost more a row
            _update(connection, versions, names, part)
    ids = [task["id"] for task, _ in judged]
    changed(
        connection,
        "INSERT INTO task_events (task_id, actor, action, version, schedule_version)"
        " SELECT id, :actor, :action, version, schedule_version FROM tasks WHERE id IN :ids ORDER BY id",
        actor=actor[:100],
        action=action,
        ids=ids,
    )


def _update(connection: Connection, versions: int, names: Sequence[str], part: Sequence[tuple[int, Row]]) -> None:
    """These tasks are so many versions further and have these values: all of them the same, but for next_run_at."""
    same = [name for name in names if name != "next_run_at"]
    values = [part[0][1][name] for name in same]
    sets = "".join(f"{name} = %s, " for name in same)
    if "next_run_at" in names:
        sets += "next_run_at = CASE id" + " WHEN %s THEN CAST(%s AS DATETIME(6))" * len(part) + " END, "
        values += [value for task_id, new in part for value in (task_id, new["next_run_at"])]
    connection.exec_driver_sql(
        f"UPDATE tasks FORCE INDEX (PRIMARY) SET {sets}version = version + {versions}, updated_at = UTC_TIMESTAMP(6),"
        " seen_state = state, seen_schedule_version = schedule_version"
        f" WHERE id IN ({', '.join(['%s'] * len(part))})",
        (*values, *(task_id for task_id, _ in part)),
    )
