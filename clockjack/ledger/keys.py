"""API keys, and the answers that were given under an Idempotency-Key.

A key is `cj_<prefix>_<secret>`: 256 random bits, so its SHA-256 is all that is kept and a slow hash adds nothing.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection

from clockjack.ledger.database import changed, inserted, rows
from clockjack.ledger.exact import text, token

SCOPES = ("read", "write")


@dataclass(frozen=True, slots=True)
class Opened:
    """What a key opens: a namespace, to `read` it only or to `write` in it, too."""

    namespace: str
    scope: str


def create(connection: Connection, namespace: str, name: str, scope: str = "write") -> str:
    """A new key of this namespace exists; returns it, the only time that it can be seen."""
    prefix = secrets.token_hex(5)
    key = f"cj_{prefix}_{secrets.token_urlsafe(32)}"
    inserted(
        connection,
        "INSERT INTO api_keys (namespace, name, scope, key_prefix, key_hash)"
        " VALUES (:namespace, :name, :scope, :prefix, :hash)",
        scope=scope,
        namespace=namespace,
        name=name,
        prefix=prefix,
        hash=digest(key),
    )
    return key


def verify(connection: Connection, key: str) -> Opened | None:
    """What a key opens that exists and is not revoked, else None."""
    prefix = prefix_of(key)
    if prefix is None:
        return None
    found = rows(
        connection,
        "SELECT namespace, scope, key_hash FROM api_keys WHERE key_prefix = :p AND revoked_at IS NULL",
        p=prefix,
    )
    if found and hmac.compare_digest(bytes(found[0]["key_hash"]), digest(key)):
        return Opened(found[0]["namespace"], found[0]["scope"])
    return None


def list_keys(connection: Connection) -> list[dict[str, Any]]:
    """All keys, the newest first, without what could be used to sign in."""
    return rows(
        connection,
        "SELECT id, namespace, name, scope, key_prefix, created_at, revoked_at FROM api_keys"
        " ORDER BY id DESC LIMIT 1000",
    )


def revoke(connection: Connection, prefix: str) -> bool:
    """The key of this prefix is revoked (since now, or before); False where there is none."""
    return bool(
        changed(
            connection,
            "UPDATE api_keys SET revoked_at = COALESCE(revoked_at, UTC_TIMESTAMP(6)) WHERE key_prefix = :p",
            p=prefix,
        )
    )


def prefix_of(key: str) -> str | None:
    """The part of a key that may be shown and logged; None when it does not look like a key."""
    parts = key.split("_", 2)
    fits = len(parts) == 3 and parts[0] == "cj" and parts[1].isalnum() and len(parts[1]) <= 16 and len(key) <= 200
    return parts[1] if fits and key.isascii() else None


def digest(text: str) -> bytes:
    """The SHA-256 under which a secret is kept."""
    return hashlib.sha256(text.encode()).digest()


def find_answer(connection: Connection, namespace: str, key: str) -> dict[str, Any] | None:
    """The request_hash, status and answer that this Idempotency-Key stands for, or None when it is new."""
    found = rows(
        connection,
        "SELECT request_hash, status, answer FROM idempotency_keys WHERE namespace = :n AND idempotency_key = :k",
        n=namespace,
        k=key,
    )
    return found[0] if found else None


def store_answer(
    connection: Connection, namespace: str, key: str, *, request_hash: bytes, status: int, answer: str
) -> None:
    """The answer is given again to whoever comes with this key. A key that exists raises 1062: roll back, find it."""
    values = f"{text(namespace)}, {text(key)}, {token(request_hash)}, {int(status)}, {text(answer)}"
    connection.exec_driver_sql(
        f"INSERT INTO idempotency_keys (namespace, idempotency_key, request_hash, status, answer) VALUES ({values})"
    )
