"""What a task of the handler `http` may ask for. Pure; the same words at every door and at the delivery.

Its payload is {"url": "https://…"} or {"endpoint": "name"}, with "body" (any JSON) and "headers" (texts) if wanted.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clockjack import targets
from clockjack.documents import compact
from clockjack.settings import Settings
from clockjack.targets import BadTarget, Policy, Target

HANDLER = "http"
FIELDS = ("url", "endpoint", "body", "headers")
TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")
MAX_HEADERS, MAX_HEADER_CHARS = 20, 2_000
# what Clockjack says itself, and what is between it and the next hop and not the receiver's
OURS = frozenset(("host", "content-length", "idempotency-key", "user-agent", "accept-encoding", "expect"))
HOP_BY_HOP = frozenset(("connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"))
_policy = [Policy()]


class BadCall(ValueError):
    """The payload is none of the handler `http`; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Call:
    """What is to be sent, and where: to a target or to an endpoint of this name."""

    target: Target | None
    endpoint: str | None
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def configure(settings: Settings) -> None:
    """This process calls, and registers, what these settings allow. Called once, when it starts."""
    _policy[0] = Policy.of(settings.http_allow, settings.http_ports)


def policy() -> Policy:
    """What this process may call."""
    return _policy[0]


def read(payload: Any) -> Call:
    """What the payload asks for; BadCall when it cannot be done, whatever the settings allow."""
    if not isinstance(payload, dict):
        raise BadCall('the handler http needs an object: {"url": …} or {"endpoint": …}')
    if unknown := [name for name in payload if name not in FIELDS]:
        raise BadCall(f"{unknown[0][:100]!r} is no field of the handler http, which knows {', '.join(FIELDS)}")
    url, endpoint = payload.get("url"), payload.get("endpoint")
    if (url is None) == (endpoint is None):
        raise BadCall('give exactly one of "url" and "endpoint"')
    headers = read_headers(payload.get("headers"))
    body = compact(payload["body"]).encode() if "body" in payload else b""
    if endpoint is not None:
        if not isinstance(endpoint, str) or not NAME.fullmatch(endpoint):
            raise BadCall("endpoint: expected a name of letters, digits and _ - .")
        return Call(None, endpoint, body, headers)
    try:
        return Call(targets.read(url), None, body, headers)
    except BadTarget as error:
        raise BadCall(f"url: {error}") from None


def read_headers(headers: Any) -> dict[str, str]:
    """`headers` as they are sent; BadCall for what would break the request, or is not theirs to say."""
    if headers is None:
        return {}
    if not isinstance(headers, dict) or len(headers) > MAX_HEADERS:
        raise BadCall(f"headers: expected an object of at most {MAX_HEADERS} texts")
    for name, value in headers.items():
        if not TOKEN.fullmatch(name):
            raise BadCall(f"headers: {name[:100]!r} is no name of a header")
        lower = name.lower()
        if lower in OURS | HOP_BY_HOP or lower.startswith(("proxy-", "webhook-")):
            raise BadCall(f"headers: {name} is set by Clockjack or by what lies between, and by nobody else")
        usable = isinstance(value, str) and len(value) <= MAX_HEADER_CHARS and value == value.strip()
        if not usable or not all(" " <= c <= "~" or c == "\t" for c in value):
            raise BadCall(f"headers: {name} needs a text of at most {MAX_HEADER_CHARS} printable ASCII characters")
    if len({name.lower() for name in headers}) < len(headers):
        raise BadCall("headers: a name appears twice")
    return dict(headers)


def judge(payload: Any) -> None:
    """The payload may be registered here: also its address is one that the settings allow. BadCall otherwise."""
    call = read(payload)
    if call.target is not None:
        try:
            targets.judge(call.target, policy())
        except BadTarget as error:
            raise BadCall(f"url: {error}") from None


def fault(payload: Any) -> str | None:
    """What is wrong with a payload that came by plain SQL. Addresses are judged by who calls them."""
    try:
        read(payload)
    except BadCall as error:
        return str(error)
    return None


def dressed(call: Call, fixed: Mapping[str, str]) -> dict[str, str]:
    """The headers of the request: the fixed ones win over those of the payload, however their names are written."""
    own = {name.lower() for name in fixed}
    found = {name: value for name, value in call.headers.items() if name.lower() not in own} | dict(fixed)
    if call.body and "content-type" not in {name.lower() for name in found}:
        found["Content-Type"] = "application/json"
    return found
