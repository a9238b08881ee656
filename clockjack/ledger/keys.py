"""API keys, and the answers that were given under an Idempotency-Key.

A key is `cj_<prefix>_<secret>`: 256 random bits, so its SHA-256 is all that is kept and a slow hash adds nothing.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.engine import Connection

from clockjack.ledger.database import changed, inserted, rows
from clockjack.ledger.exact import text, token
from clockjack.ledger.tasks import StateConflict

Row = dict[str, Any]
SCOPES = ("read", "write", "admin")
SHOWN = (
    "id, key_prefix, namespace, name, scope, per_second, burst, created_at, revoked_at, last_used_at,"
    " COALESCE(revoked_at <= UTC_TIMESTAMP(6), 0) AS revoked"
)
KEPT = ("namespace", "name", "scope", "per_second", "burst")
USED_EVERY_S = 60


@dataclass(frozen=True, slots=True)
class Opened:
    """What a key opens: a namespace, to `read` it only, to `write` in it, too, or as `admin` to make its keys and
    pause queues as well.

    With `per_second` so many requests a second on average, and `burst` at once. `stale`: its use is not noted yet.
    """

    namespace: str
    scope: str
    per_second: float | None = None
    burst: int | None = None
    stale: bool = field(default=False, compare=False)


def create(connection: Connection, namespace: str, name: str, scope: str = "write", **limit: Any) -> str:
    """A new key of this namespace exists; returns it, the only time that it can be seen.

    `limit`: per_second and burst, both or neither.
    """
    return _new(connection, {"namespace": namespace, "name": name, "scope": scope, **limit})


def rotate(connection: Connection, prefix: str, overlap_s: int, namespace: str | None = None) -> tuple[Row, str] | None:
    """A new key stands for what the one of this prefix does, which is revoked `overlap_s` from now.

    Returns the former key's row and the new key; None where there is none. StateConflict when it is revoked already.
    """
    former = get(connection, prefix, namespace, lock=True)
    if former is None:
        return None
    if former["revoked"]:
        raise StateConflict("the key is revoked: create a new one")
    made = _new(connection, {name: former[name] for name in KEPT})
    _revoke(connection, former, overlap_s)
    return get(connection, prefix) or former, made


def revoke(connection: Connection, prefix: str, namespace: str | None = None) -> Row | None:
    """The key of this prefix opens nothing (since now, or before); returns its row, None where there is none."""
    row = get(connection, prefix, namespace, lock=True)
    if row is None:
        return None
    _revoke(connection, row, 0)
    return get(connection, prefix)


def verify(connection: Connection, key: str) -> Opened | None:
    """What a key opens that exists and is not revoked, else None."""
    prefix = prefix_of(key)
    if prefix is None:
        return None
    found = rows(
        connection,
        "SELECT namespace, scope, per_second, burst, key_hash,"
        f" COALESCE(last_used_at < UTC_TIMESTAMP(6) - INTERVAL {USED_EVERY_S} SECOND, 1) AS stale FROM api_keys"
        " WHERE key_prefix = :p AND (revoked_at IS NULL OR revoked_at > UTC_TIMESTAMP(6))",
        p=prefix,
    )
    if found and hmac.compare_digest(bytes(found[0]["key_hash"]), digest(key)):
        row = found[0]
        return Opened(row["namespace"], row["scope"], row["per_second"], row["burst"], bool(row["stale"]))
    return None


def used(connection: Connection, prefix: str) -> None:
    """`last_used_at` of the key is at most a minute ago: a row is written once a minute, however often it is used.

    Nobody waits for it: a row that somebody else holds is left to the next use.
    """
    found = rows(
        connection,
        "SELECT id FROM api_keys WHERE key_prefix = :p AND (last_used_at IS NULL OR last_used_at < UTC_TIMESTAMP(6)"
        f" - INTERVAL {USED_EVERY_S} SECOND) FOR UPDATE SKIP LOCKED",
        p=prefix,
    )
    for row in found:
        changed(connection, "UPDATE api_keys SET last_used_at = UTC_TIMESTAMP(6) WHERE id = :id", id=row["id"])


def get(connection: Connection, prefix: str, namespace: str | None = None, *, lock: bool = False) -> Row | None:
    """The key of this prefix (of this namespace), without what could be used to sign in; None where there is none."""
    where = " AND namespace = :n" if namespace is not None else ""
    found = rows(
        connection,
        f"SELECT {SHOWN} FROM api_keys WHERE key_prefix = :p{where}" + (" FOR UPDATE" if lock else ""),
        p=prefix,
        **({"n": namespace} if where else {}),
    )
    return found[0] if found else None


def list_keys(
    connection: Connection, namespace: str | None = None, *, before_id: int | None = None, limit: int = 1000
) -> list[Row]:
    """Keys (of this namespace), the newest first, without what could be used to sign in."""
    values: Row = {"namespace = :n": namespace, "id < :before": before_id}
    where = " AND ".join(condition for condition, value in values.items() if value is not None)
    return rows(
        connection,
        f"SELECT {SHOWN} FROM api_keys{' WHERE ' + where if where else ''} ORDER BY id DESC LIMIT :limit",
        limit=limit,
        **{name: value for name, value in (("n", namespace), ("before", before_id)) if value is not None},
    )


def _new(connection: Connection, row: Mapping[str, Any]) -> str:
    prefix = secrets.token_hex(5)
    key = f"cj_{prefix}_{secrets.token_urlsafe(32)}"
    values = {**row, "key_prefix": prefix, "key_hash": digest(key)}
    inserted(
        connection,
        f"INSERT INTO api_keys ({', '.join(values)}) VALUES ({', '.join(':' + name for name in values)})",
        **values,
    )
    return key


def _revoke(connection: Connection, row: Row, in_s: int) -> None:
    """The locked key is revoked from then on, or from an earlier moment that was said before."""
    changed(
        connection,
        "UPDATE api_keys SET revoked_at = LEAST(COALESCE(revoked_at, CAST('9999-12-31' AS DATETIME(6))),"
        " UTC_TIMESTAMP(6) + INTERVAL :s SECOND) WHERE id = :id",
        s=in_s,
        id=row["id"],
    )


def prefix_of(key: str) -> str | None:
    """The part of a key that may be shown and logged; None when it does not look like a key."""
    parts = key.split("_", 2)
    fits = len(parts) == 3 and parts[0] == "cj" and parts[1].isalnum() and len(parts[1]) <= 16 and len(key) <= 200
    return parts[1] if fits and key.isascii() else None


def digest(text: str) -> bytes:
    """The SHA-256 under which a secret is kept."""
    return hashlib.sha256(text.encode()).digest()


def find_answer(connection: Connection, namespace: str, key: str, *, nowait: bool = False) -> Row | None:
    """The request_hash, status and answer that this Idempotency-Key stands for, or None when it is new.

    With `nowait` what is not committed is seen, too: it raises 1205 (MariaDB) or 3572 (MySQL) at once.
    """
    found = rows(
        connection,
        "SELECT request_hash, status, answer FROM idempotency_keys WHERE namespace = :n AND idempotency_key = :k"
        + (" FOR UPDATE NOWAIT" if nowait else ""),
        n=namespace,
        k=key,
    )
    return found[0] if found else None


def reserve(connection: Connection, namespace: str, key: str, request_hash: bytes) -> int:
    """The Idempotency-Key is taken until the end of the transaction; returns the id under which its answer is stored.

    A key that exists raises 1062: roll back, find it.
    """
    values = f"{text(namespace)}, {text(key)}, {token(request_hash)}, 0, ''"
    names = "namespace, idempotency_key, request_hash, status, answer"
    return int(connection.exec_driver_sql(f"INSERT INTO idempotency_keys ({names}) VALUES ({values})").lastrowid)


def store_answer(connection: Connection, reserved: int, status: int, answer: str) -> None:
    """The answer is given again to whoever comes with the key that was reserved."""
    sets = f"status = {int(status)}, answer = {text(answer)}"
    connection.exec_driver_sql(f"UPDATE idempotency_keys SET {sets} WHERE id = {int(reserved)}")
