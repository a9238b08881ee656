"""API keys at every door: what may be said of one, what is shown of it. The key itself is shown once."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from clockjack import described as says
from clockjack import documents
from clockjack.ledger import keys as ledger
from clockjack.ledger.database import Connection
from clockjack.registration import Refused, Words

OVERLAP_S, LONGEST_OVERLAP_S = 86_400, 2_592_000
INSIDE = ("id", "revoked")
Row = dict[str, Any]


class Unknown(LookupError):
    """There is no such key."""


class NewKey(BaseModel):
    """A key as it is asked for: `per_second` requests on average, `burst` of them at once (as many as in a second)."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        json_schema_extra={
            "anyOf": [{"properties": {"burst": {"type": "null"}}}, says.some(["per_second"], "number")],
            "examples": [{"name": "board", "scope": "read", "per_second": 20, "burst": 100}],
        },
    )

    name: Annotated[
        Words, StringConstraints(max_length=100), says.text("printable", "board", minLength=1, maxLength=100)
    ]
    scope: Literal["read", "write", "admin"] = "write"
    per_second: Annotated[float, Field(ge=0.001, le=10_000, allow_inf_nan=False)] | None = None
    burst: Annotated[int, Field(ge=1, le=100_000), says.WHOLE] | None = None


class Rotation(BaseModel):
    """For how long the former key opens what it did, beside the new one."""

    model_config = ConfigDict(
        title="KeyRotation",
        extra="forbid",
        strict=True,
        frozen=True,
        json_schema_extra={"examples": [{"overlap_s": 3600}]},
    )

    overlap_s: Annotated[int, Field(ge=0, le=LONGEST_OVERLAP_S), says.WHOLE] = OVERLAP_S


def create(connection: Connection, namespace: str, new: NewKey) -> Row:
    """There is a new key of this namespace; returns it as it is shown, with `api_key`, this once."""
    key = ledger.create(connection, namespace, new.name, new.scope, **_limit(new))
    return _made(connection, key)


def rotate(connection: Connection, prefix: str, sent: Rotation, namespace: str | None = None) -> Row:
    """A new key does what the former one does until then; returns it with `api_key` and `former`.

    Unknown where there is none (in this namespace); StateConflict when it is revoked.
    """
    done = ledger.rotate(connection, prefix, sent.overlap_s, namespace)
    if done is None:
        raise Unknown(_nothing(prefix))
    former, key = done
    return _made(connection, key) | {"former": document(former)}


def revoke(connection: Connection, prefix: str, namespace: str | None = None) -> Row:
    """The key opens nothing any more; returns it as it is shown. Unknown where there is none."""
    row = ledger.revoke(connection, prefix, namespace)
    if row is None:
        raise Unknown(_nothing(prefix))
    return document(row)


def document(row: Mapping[str, Any]) -> Row:
    """The key for people and programs outside, without what could be used to sign in."""
    return documents.plain({name: value for name, value in row.items() if name not in INSIDE})


def _made(connection: Connection, key: str) -> Row:
    row = ledger.get(connection, str(ledger.prefix_of(key)))
    return {"api_key": key} | document(row or {})


def _limit(new: NewKey) -> Row:
    if new.per_second is None:
        if new.burst is not None:
            raise Refused([("burst", "is of a limit: give per_second, too")])
        return {}
    burst = math.ceil(new.per_second) if new.burst is None else new.burst
    if burst < new.per_second:
        raise Refused([("burst", "is less than per_second lets through in one second")])
    return {"per_second": new.per_second, "burst": burst}


def _nothing(prefix: str) -> str:
    return f"there is no key with the prefix {prefix[:16]!r}"
