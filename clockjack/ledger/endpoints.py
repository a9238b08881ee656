"""Endpoints: receivers of webhooks that tasks name. Written by people, and by a consumer that is told 410 Gone."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.engine import Connection

from clockjack.ledger.database import DUPLICATE, changed, code, inserted, rows
from clockjack.ledger.tasks import StateConflict

Row = dict[str, Any]
SHOWN = "id, namespace, name, url, header_names, success, state, reason, overlap_until, version, created_at, updated_at"
WRITTEN = ("url", "sealed", "header_names", "success", "state", "reason", "overlap_until")


def create(connection: Connection, namespace: str, name: str, values: Mapping[str, Any]) -> Row:
    """There is a new endpoint of this name. StateConflict when there was one."""
    row = {"namespace": namespace, "name": name} | {key: values[key] for key in WRITTEN if key in values}
    try:
        inserted(
            connection, f"INSERT INTO endpoints ({', '.join(row)}) VALUES ({', '.join(':' + n for n in row)})", **row
        )
    except Exception as error:
        if code(error) == DUPLICATE:
            raise StateConflict("there is an endpoint of this name: delete or edit it") from None
        raise
    return get(connection, namespace, name) or row


def get(connection: Connection, namespace: str, name: str, *, lock: bool = False) -> Row | None:
    """The endpoint, with what is sealed and whether its former secrets still sign (`overlaps`); None: there is none."""
    found = rows(
        connection,
        f"SELECT {SHOWN}, sealed, COALESCE(overlap_until > UTC_TIMESTAMP(6), 0) AS overlaps, UTC_TIMESTAMP(6) AS now"
        " FROM endpoints WHERE namespace = :n AND name = :name" + (" FOR UPDATE" if lock else ""),
        n=namespace,
        name=name,
    )
    return found[0] if found else None


def list_endpoints(connection: Connection, namespace: str, *, before_id: int | None = None, limit: int = 50) -> Any:
    """The endpoints of the namespace, the newest first, without what is sealed."""
    where = " AND id < :before" if before_id is not None else ""
    return rows(
        connection,
        f"SELECT {SHOWN} FROM endpoints WHERE namespace = :n{where} ORDER BY id DESC LIMIT :limit",
        n=namespace,
        limit=limit,
        **({"before": before_id} if where else {}),
    )


def update(connection: Connection, row: Mapping[str, Any], values: Mapping[str, Any]) -> Row:
    """The locked endpoint has these values, and its version is one higher."""
    sets = ", ".join(f"{name} = :{name}" for name in values)
    changed(
        connection,
        f"UPDATE endpoints SET {sets}, version = version + 1, updated_at = UTC_TIMESTAMP(6) WHERE id = :id",
        id=row["id"],
        **values,
    )
    return get(connection, row["namespace"], row["name"]) or {**row, **values}


def disable(connection: Connection, endpoint_id: int, version: int, reason: str) -> bool:
    """The endpoint is disabled, if it is still of the version that was called; whether it was this that did it."""
    return bool(
        changed(
            connection,
            "UPDATE endpoints SET state = 'disabled', reason = :reason, version = version + 1,"
            " updated_at = UTC_TIMESTAMP(6) WHERE id = :id AND version = :version AND state = 'enabled'",
            id=endpoint_id,
            version=version,
            reason=reason[:200],
        )
    )


def delete(connection: Connection, namespace: str, name: str) -> bool:
    """There is no endpoint of this name any more; whether there was one. StateConflict if an expectation names it."""
    if get(connection, namespace, name, lock=True) is None:
        return False
    sql = "SELECT name FROM expectations WHERE namespace = :n AND endpoint = :name ORDER BY name LIMIT 1"
    for row in rows(connection, sql, n=namespace, name=name):
        raise StateConflict(f"the expectation {row['name']!r} names this endpoint: delete that first")
    return bool(
        changed(connection, "DELETE FROM endpoints WHERE namespace = :n AND name = :name", n=namespace, name=name)
    )


def all_sealed(connection: Connection, after_id: int) -> list[Row]:
    """The next 100 endpoints of all namespaces, locked."""
    return rows(
        connection,
        f"SELECT {SHOWN}, sealed FROM endpoints WHERE id > :after ORDER BY id LIMIT 100 FOR UPDATE",
        after=after_id,
    )
