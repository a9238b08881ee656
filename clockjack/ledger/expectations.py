"""Expectations: what should be heard of at least every so often, a task's success or a ping from outside.

A success writes nothing here: nobody's finish waits for a row. Each expectation is looked at when it could have become
silent, and the look reads when its task succeeded last. What it finds and the alert are one transaction: an alert is
raised once, however many dispatchers look.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.engine import Connection

from clockjack.documents import compact, moment
from clockjack.ledger import endpoints, tasks
from clockjack.ledger.database import DUPLICATE, changed, code, inserted, rows
from clockjack.ledger.tasks import StateConflict

Row = dict[str, Any]
COLUMNS = "id, namespace, name, task_id, expect_every_s, endpoint, queue, state, heard_at, look_at, created_at"
DUE = (
    f"SELECT {COLUMNS}, UTC_TIMESTAMP(6) AS now FROM expectations FORCE INDEX (look) WHERE look_at <= UTC_TIMESTAMP(6)"
    " ORDER BY look_at LIMIT 100 FOR UPDATE SKIP LOCKED"
)
LAST_SUCCESS = (  # of the occurrences that were due last: a task that only fails must not make each look a long one
    "SELECT MAX(finished_at) AS at FROM (SELECT finished_at, state FROM runs FORCE INDEX (occurrence)"
    " WHERE task_id = :t ORDER BY due_at DESC LIMIT 200) AS latest WHERE state = 'succeeded'"
)
SOONEST_S, LATEST_S = 1.0, 60.0


class Missing(Exception):
    """What the expectation names is not there; `field` says which."""

    def __init__(self, field: str) -> None:
        super().__init__("there is no such one in this namespace")
        self.field = field


def create(connection: Connection, namespace: str, values: Mapping[str, Any]) -> Row:
    """There is a new expectation, heard of just now. Missing, or StateConflict when its name is taken."""
    if values["task_id"] is not None and tasks.get(connection, namespace, values["task_id"]) is None:
        raise Missing("task_id")
    if endpoints.get(connection, namespace, values["endpoint"], lock=True) is None:  # nobody deletes it meanwhile
        raise Missing("endpoint")
    names = ("name", "task_id", "expect_every_s", "endpoint", "queue")
    try:
        inserted(
            connection,
            f"INSERT INTO expectations (namespace, {', '.join(names)}, look_at) VALUES (:namespace,"
            f" {', '.join(':' + n for n in names)}, UTC_TIMESTAMP(6) + INTERVAL :expect_every_s SECOND)",
            namespace=namespace,
            **{name: values[name] for name in names},
        )
    except Exception as error:
        if code(error) == DUPLICATE:
            raise StateConflict("there is an expectation of this name: delete it first") from None
        raise
    return get(connection, namespace, values["name"]) or dict(values)


def get(connection: Connection, namespace: str, name: str) -> Row | None:
    """The expectation, or None."""
    sql = f"SELECT {COLUMNS} FROM expectations WHERE namespace = :n AND name = :name"
    found = rows(connection, sql, n=namespace, name=name)
    return found[0] if found else None


def list_expectations(
    connection: Connection,
    namespace: str,
    *,
    state: str | None = None,
    before_id: int | None = None,
    limit: int = 50,
) -> list[Row]:
    """The expectations of the namespace, the newest first; in this state, of a smaller id, if that is said."""
    wanted = {"state": state, "before": before_id}
    given = {name: value for name, value in wanted.items() if value is not None}
    where = "".join(" AND id < :before" if name == "before" else " AND state = :state" for name in given)
    sql = f"SELECT {COLUMNS} FROM expectations WHERE namespace = :n{where} ORDER BY id DESC LIMIT :limit"
    return rows(connection, sql, n=namespace, limit=limit, **given)


def delete(connection: Connection, namespace: str, name: str) -> bool:
    """There is no such expectation any more; whether there was one."""
    sql = "DELETE FROM expectations WHERE namespace = :n AND name = :name"
    return bool(changed(connection, sql, n=namespace, name=name))


def ping(connection: Connection, namespace: str, name: str) -> bool:
    """The expectation was heard of now, and a silent one is looked at soon; False where there is none."""
    return bool(
        changed(
            connection,
            "UPDATE expectations SET heard_at = UTC_TIMESTAMP(6),"
            " look_at = IF(state = 'silent', UTC_TIMESTAMP(6), look_at) WHERE namespace = :n AND name = :name",
            n=namespace,
            name=name,
        )
    )


def look(connection: Connection) -> list[tuple[Row, str]]:
    """Those that could have changed were looked at; returns those that did, each with its new state. Alerts are due."""
    told = []
    for row in rows(connection, DUE):
        heard_at = _heard_at(connection, row)
        state, look_at = judge(row["expect_every_s"], heard_at, row["now"])
        changed(
            connection,
            "UPDATE expectations SET state = :state, heard_at = :heard_at, look_at = :look_at WHERE id = :id",
            state=state,
            heard_at=heard_at,
            look_at=look_at,
            id=row["id"],
        )
        if state != row["state"]:
            _alert(connection, row | {"heard_at": heard_at, "state": state})
            told.append((row, state))
    return told


def judge(expect_every_s: int, heard_at: datetime, now: datetime) -> tuple[str, datetime]:
    """Its state at this moment, and when that could change. Pure."""
    over = heard_at + timedelta(seconds=expect_every_s)
    if now < over:
        return "heard", over
    return "silent", now + timedelta(seconds=min(LATEST_S, max(SOONEST_S, expect_every_s / 10)))


def _heard_at(connection: Connection, row: Row) -> datetime:
    heard_at: datetime = row["heard_at"]
    if row["task_id"] is not None:
        last: datetime | None = rows(connection, LAST_SUCCESS, t=row["task_id"])[0]["at"]
        heard_at = max(heard_at, last or heard_at)
    return heard_at


def _alert(connection: Connection, row: Row) -> None:
    """A one-time task tells the endpoint, now."""
    data = {name: row[name] for name in ("name", "task_id", "expect_every_s")} | {"heard_at": moment(row["heard_at"])}
    kind = "expectation.silent" if row["state"] == "silent" else "expectation.recovered"
    body = {"type": kind, "timestamp": moment(row["now"]), "data": data}
    fields = {
        "handler": "http", "queue": row["queue"], "name": f"{kind}: {row['name']}", "tags": "expectation",
        "payload": compact({"endpoint": row["endpoint"], "body": body}), "run_at": row["now"],
        "timeout_s": 30, "max_failures": 20, "backoff_s": 5, "backoff_max_s": 3600,
    }  # fmt: skip
    tasks.register(connection, row["namespace"], fields, actor="expectation")
