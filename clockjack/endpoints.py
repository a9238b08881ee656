"""Endpoints at every door: what may be said of one, what is kept sealed, and what is shown.

A secret is shown when it is made, and never again. It signs as Standard Webhooks has it (https://www.standardwebhooks.com).
"""

import base64
import binascii
import hashlib
import hmac
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

from clockjack import described as says
from clockjack import documents, webhooks
from clockjack.ledger import endpoints as ledger
from clockjack.ledger.database import Connection
from clockjack.ledger.tasks import StateConflict
from clockjack.sealing import CannotOpen, Seal
from clockjack.settings import Settings

PREFIX = "whsec_"
MOST_SECRETS = 4
OVERLAP_S, LONGEST_OVERLAP_S = 86_400, 2_592_000
PART = "([2-5]xx|[2-5][0-9]{2}(-[2-5][0-9]{2})?)"
RULE = re.compile(f" *{PART}( *, *{PART})* *")
FOUR = "[A-Za-z0-9+/]{4}"  # of base64, 3 bytes; a secret has 24 to 64
SECRET = f"^{PREFIX}(({FOUR}){{8,21}}([A-Za-z0-9+/]{{2}}==)?|({FOUR}){{8,20}}[A-Za-z0-9+/]{{3}}=)$"
Row = dict[str, Any]


class Unknown(LookupError):
    """This namespace has no endpoint of this name."""


def _secret(text: Any) -> Any:
    if isinstance(text, str):
        try:
            size = len(base64.b64decode(text.removeprefix(PREFIX), validate=True))
        except (ValueError, binascii.Error):
            size = 0
        if not text.startswith(PREFIX) or not 24 <= size <= 64:
            raise ValueError("expected whsec_ and 24 to 64 bytes in base64")
    return text


def _url(url: Any) -> Any:
    try:
        webhooks.judge({"url": url})
    except webhooks.BadCall as error:
        raise ValueError(str(error).removeprefix("url: ")) from None
    return url


def _headers(headers: Any) -> Any:
    if headers is None:
        raise ValueError("expected an object")
    try:
        return webhooks.read_headers(headers)
    except webhooks.BadCall as error:
        raise ValueError(str(error).removeprefix("headers: ")) from None


def _success(rule: Any) -> Any:
    if isinstance(rule, str):
        if not RULE.fullmatch(rule):
            raise ValueError("expected codes such as 2xx,409 or 200-204; redirects are 3xx")
        rule = rule.replace(" ", "")
    return rule


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,100}$")]
Url = Annotated[str, BeforeValidator(_url), WithJsonSchema(says.URL | {"examples": ["https://example.com/hook"]})]
Headers = Annotated[dict[str, str], BeforeValidator(_headers), WithJsonSchema(says.HEADERS)]
Success = Annotated[
    str,
    StringConstraints(max_length=200),
    BeforeValidator(_success),
    WithJsonSchema({"type": "string", "maxLength": 200, "pattern": f"^{RULE.pattern}$", "examples": ["2xx,409"]}),
]
Secret = Annotated[str, BeforeValidator(_secret), WithJsonSchema({"type": "string", "pattern": SECRET})]


class NewEndpoint(BaseModel):
    """An endpoint as it is sent."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        json_schema_extra={"examples": [{"name": "billing", "url": "https://example.com/hook", "success": "2xx,409"}]},
    )

    name: Name
    url: Url
    headers: Headers = {}
    success: Success = "2xx"
    secret: Secret | None = None


class Edit(BaseModel):
    """What is to change of an endpoint; what is not said stays. `headers` takes the place of all fixed headers."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        title="EditedEndpoint",
        json_schema_extra={"examples": [{"success": "2xx"}]},
    )

    url: Url | None = None
    headers: Headers | None = None
    success: Success | None = None


class Rotation(BaseModel):
    """For how long the former secrets sign as well, beside the new one."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, json_schema_extra={"examples": [{"overlap_s": 3600}]}
    )

    overlap_s: Annotated[int, Field(ge=0, le=LONGEST_OVERLAP_S), says.WHOLE] = OVERLAP_S
    secret: Secret | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """An endpoint as it is called. The first secret is the newest."""

    id: int
    name: str
    version: int
    state: str
    reason: str | None
    url: str
    success: str
    secrets: tuple[str, ...]
    headers: dict[str, str]


def seal_of(settings: Settings) -> Seal:
    """What seals and opens in this process."""
    return Seal(settings.secret_keys)


def create(connection: Connection, seal: Seal, namespace: str, new: NewEndpoint) -> tuple[Row, str]:
    """There is a new endpoint; returns its row and its secret. StateConflict when its name is taken."""
    secret = new.secret or new_secret()
    values = {"url": new.url, "success": new.success, "header_names": ", ".join(new.headers)}
    values["sealed"] = _sealed(seal, namespace, new.name, [secret], new.headers)
    return ledger.create(connection, namespace, new.name, values), secret


def edit(connection: Connection, seal: Seal, namespace: str, name: str, change: Edit) -> Row:
    """The endpoint has these values. Unknown when there is none."""
    row = _locked(connection, namespace, name)
    values: Row = {key: value for key, value in (("url", change.url), ("success", change.success)) if value is not None}
    if change.headers is not None:
        inside = _open(seal, row)
        values["sealed"] = _sealed(seal, namespace, name, inside["secrets"], change.headers)
        values["header_names"] = ", ".join(change.headers)
    return ledger.update(connection, row, values) if values else row


def rotate(connection: Connection, seal: Seal, namespace: str, name: str, sent: Rotation) -> tuple[Row, str]:
    """A new secret signs; those that signed until now do so for `overlap_s` more. Unknown when there is none."""
    row = _locked(connection, namespace, name)
    inside = _open(seal, row)
    secret, signing = sent.secret or new_secret(), _signing(row, inside["secrets"])
    kept = [secret, *(other for other in signing if other != secret and sent.overlap_s)][:MOST_SECRETS]
    until = row["now"] + timedelta(seconds=sent.overlap_s) if len(kept) > 1 else None
    sealed = _sealed(seal, namespace, name, kept, inside["headers"])
    return ledger.update(connection, row, {"sealed": sealed, "overlap_until": until}), secret


def switch(connection: Connection, namespace: str, name: str, state: str) -> Row:
    """The endpoint is `enabled` or `disabled`. Unknown when there is none."""
    row = _locked(connection, namespace, name)
    reason = None if state == "enabled" else "disabled by hand"
    return row if row["state"] == state else ledger.update(connection, row, {"state": state, "reason": reason})


def reseal(connection: Connection, seal: Seal, after_id: int) -> tuple[int, int | None]:
    """The next endpoints are sealed with the first key: (how many, where to go on or None)."""
    found = ledger.all_sealed(connection, after_id)
    for row in found:
        inside = _open(seal, row)
        sealed = _sealed(seal, row["namespace"], row["name"], inside["secrets"], inside["headers"])
        ledger.update(connection, row, {"sealed": sealed})
    return len(found), found[-1]["id"] if found else None


def opened(row: Mapping[str, Any], seal: Seal) -> Opened:
    """The endpoint as it is called. CannotOpen without its key."""
    inside = _open(seal, row)
    shown = {key: row[key] for key in ("id", "name", "version", "state", "reason", "url", "success")}
    return Opened(**shown, secrets=tuple(_signing(row, inside["secrets"])), headers=inside["headers"])


def document(row: Mapping[str, Any], secret: str | None = None) -> Row:
    """The endpoint for people and programs outside; `secret` only where it was just made."""
    found = {key: value for key, value in row.items() if key not in ("sealed", "overlaps", "now", "header_names")}
    names = [name for name in row["header_names"].split(", ") if name]
    return documents.plain(found) | {"header_names": names} | ({"secret": secret} if secret else {})


def kept(seal: Seal, row: Mapping[str, Any], secret: str) -> str:
    """The answer to who made the endpoint, as it may be stored: its secret is sealed."""
    return documents.compact(document(row, seal.seal(secret, _answer(row["namespace"], row["name"]))))


def told(seal: Seal, answer: str) -> Row:
    """What was kept, with its secret; without it where its key is gone."""
    found: Row = documents.strict_json(answer)
    try:
        return found | {"secret": seal.open(found.pop("secret"), _answer(found["namespace"], found["name"]))}
    except CannotOpen:
        return found


def new_secret() -> str:
    """`whsec_` and 32 random bytes."""
    return PREFIX + base64.b64encode(os.urandom(32)).decode()


def signature(secrets: Sequence[str], message_id: str, timestamp: int, body: bytes) -> str:
    """The header webhook-signature: one `v1,…` for each secret, the newest first."""
    content = f"{message_id}.{timestamp}.".encode() + body
    keys = [base64.b64decode(secret.removeprefix(PREFIX)) for secret in secrets]
    return " ".join(f"v1,{base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()}" for key in keys)


def succeeds(rule: str, status: int) -> bool:
    """Whether the receiver has taken the call, by the endpoint's rule."""
    for part in rule.split(","):
        low, _, high = part.partition("-")
        if part[1:] == "xx" and status // 100 == int(part[0]):
            return True
        if part[1:] != "xx" and int(low) <= status <= int(high or low):
            return True
    return False


def _locked(connection: Connection, namespace: str, name: str) -> Row:
    row = ledger.get(connection, namespace, name, lock=True)
    if row is None:
        raise Unknown(f"there is no endpoint {name!r}")
    return row


def _signing(row: Mapping[str, Any], secrets: list[str]) -> list[str]:
    return secrets if row["overlaps"] else secrets[:1]


def _place(namespace: str, name: str) -> str:
    return f"endpoint {namespace}/{name}"


def _answer(namespace: str, name: str) -> str:
    return f"answer {namespace}/{name}"


def _sealed(seal: Seal, namespace: str, name: str, secrets: list[str], headers: Mapping[str, str]) -> str:
    try:
        return seal.seal(json.dumps({"secrets": secrets, "headers": dict(headers)}), _place(namespace, name))
    except CannotOpen as error:
        raise StateConflict(str(error)) from None


def _open(seal: Seal, row: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return dict(json.loads(seal.open(row["sealed"], _place(row["namespace"], row["name"]))))
    except CannotOpen as error:
        raise StateConflict(f"the endpoint {row['name']!r} cannot be opened: {error}") from None
