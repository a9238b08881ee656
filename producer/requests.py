"""What a request brings: who asks, the body, the Idempotency-Key. All of it bounded before it is looked at."""

import contextlib
import hashlib
import threading
import time
from dataclasses import dataclass, field
from typing import Annotated, Any

import anyio
from fastapi import Depends, Path, Request
from starlette.concurrency import run_in_threadpool
from starlette.convertors import Convertor, register_url_convertor

from clockjack.documents import strict_json
from clockjack.ledger import acceptance, keys
from clockjack.ledger.acceptance import Ticket
from clockjack.ledger.database import Database
from clockjack.ledger.tasks import Meant
from clockjack.rates import Rate
from producer import rates
from producer.problems import Problem

MAX_BODY_BYTES = 131_072
MAX_LARGE_BYTES = 4_194_304  # of many registrations at once: escaped it still fits a packet of 16 MiB
BODY_WITHIN_S = 20.0
MAY_WRITE, READING = ("write", "admin"), ("GET", "HEAD")
READS = ("/v1/schedules/preview", "/v1/schedules/simulate")  # a POST for its body's sake: it changes nothing
KEY_TRUSTED_S = 5.0  # so long a revoked key may still work


@dataclass(frozen=True, slots=True)
class Caller:
    """The namespace that a key opens, and the name under which its changes are recorded."""

    namespace: str
    actor: str
    scope: str = "write"
    rate: Rate | None = None


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes of a request, and the moment at which the last of them had come."""

    raw: bytes
    received_s: float = field(default_factory=time.perf_counter)

    @property
    def age_s(self) -> float:
        """How long ago the request was complete."""
        return time.perf_counter() - self.received_s


class Doorkeeper:
    """Knows the keys that were verified in the last seconds, by their hash."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[bytes, tuple[Caller, float]] = {}
        self._lock = threading.Lock()

    async def caller(self, key: str) -> Caller | None:
        """Who holds this key; None when nobody does."""
        actor = f"key:{keys.prefix_of(key)}"
        digest = keys.digest(key)
        known, until = self._known.get(digest, (None, 0.0))
        if time.monotonic() < until:
            return known
        opened = await run_in_threadpool(self._opened, key)
        found = None if opened is None else Caller(opened.namespace, actor, opened.scope, _rate(opened))
        with self._lock:
            if len(self._known) > 1000:
                self._known.clear()
            if found is None:
                self._known.pop(digest, None)
            else:
                self._known[digest] = (found, time.monotonic() + KEY_TRUSTED_S)
        return found

    def _opened(self, key: str) -> keys.Opened | None:
        opened = acceptance.read(self._database, lambda c: keys.verify(c, key))
        if opened and opened.stale:
            with contextlib.suppress(Exception):  # a note for people: nobody is refused because it cannot be made
                self._database.transaction(lambda c: keys.used(c, str(keys.prefix_of(key))), attempts=1)
        return opened


async def caller(request: Request) -> Caller:
    """Who asks, or the problem `unauthorized`."""
    key = _presented(request)
    if key is None or keys.prefix_of(key) is None:
        raise Problem("unauthorized")
    if request.app.state.watch.away:
        raise Problem("unavailable")
    if request.app.state.watch.unfit:
        raise Problem("unavailable", "The database server is not fit for use: see the log, or run `clockjack doctor`.")
    found = await request.app.state.doorkeeper.caller(key)
    if found is None:
        raise Problem("unauthorized", "This API key does not exist or is revoked.")
    if found.rate is not None:
        await rates.keep(request, str(keys.prefix_of(key)), found.rate)
    if found.scope not in MAY_WRITE and request.method not in READING and request.url.path not in READS:
        raise Problem("forbidden")
    return found  # type: ignore[no-any-return]


async def admin(asking: Annotated[Caller, Depends(caller)]) -> Caller:
    """Who asks, with a key of the scope admin, or the problem `forbidden`."""
    if asking.scope != "admin":
        raise Problem("forbidden", "This is for keys with the scope admin.")
    return asking


async def body(request: Request) -> Body:
    """The body: at most 128 KiB, also when it comes without a length, and within 20 s."""
    return await _body(request, MAX_BODY_BYTES)


async def large(request: Request) -> Body:
    """The body: at most 4 MiB."""
    return await _body(request, MAX_LARGE_BYTES)


async def _body(request: Request, most: int) -> Body:
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length[:20]) > most:
        raise Problem("too-large", headers={"Connection": "close"})
    parts, size = [], 0
    try:
        with anyio.fail_after(BODY_WITHIN_S):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise Problem("too-large", headers={"Connection": "close"})
                parts.append(part)
    except TimeoutError:
        raise Problem("too-slow", headers={"Connection": "close"}) from None
    return Body(b"".join(parts))


def document(raw: bytes) -> Any:
    """The JSON value of a body, or the problem `unreadable-json`."""
    try:
        return strict_json(raw)
    except ValueError as error:
        raise Problem("unreadable-json", f"The body {error}") from None


def ticket(request: Request, caller: Caller, raw: bytes) -> Ticket | None:
    """The request's Idempotency-Key with the hash of what it stands for; None when it has none."""
    given = request.headers.getlist("idempotency-key")
    if not given:
        return None
    key = given[0]
    if len(key) >= 2 and key[0] == key[-1] == '"':  # the draft's structured string; a bare one is taken too
        key = key[1:-1]
    elif key.startswith('"'):
        raise Problem("invalid-idempotency-key")
    usable = 1 <= len(key) <= 255 and key.isascii() and key.isprintable() and key == key.strip()
    if len(given) > 1 or not usable:
        raise Problem("invalid-idempotency-key")
    what = hashlib.sha256(f"{request.method} {request.url.path}\n".encode() + raw)
    return Ticket(caller.namespace, key, what.digest())


def precondition(request: Request) -> frozenset[int] | None:
    """The versions that If-Match names; None when it is not there or takes any. What is no version matches none."""
    given = ",".join(sent := request.headers.getlist("if-match")).strip()
    if not sent or given == "*":
        return None
    return _versions(given)


def meant(request: Request) -> Meant:
    """Which version of a task (None: there is none) a PUT is for, as If-Match and If-None-Match say; None: any."""
    sent = "if-match" in request.headers
    match, none_match = (",".join(request.headers.getlist(name)).strip() for name in ("if-match", "if-none-match"))
    if not sent and not none_match:
        return None
    wanted, unwanted = _versions(match), _versions(none_match.replace("W/", ""))

    def fits(version: int | None) -> bool:
        there = version is not None
        matches = not sent or (there if match == "*" else version in wanted)
        known = none_match != "" and (there if none_match == "*" else version in unwanted)
        return matches and not known

    return fits


def _versions(given: str) -> frozenset[int]:
    """Those of the tags: what comes before the point."""
    tags = (tag.strip() for tag in given.split(","))
    numbers = (tag[1:-1].partition(".")[0] for tag in tags if len(tag) > 1 and tag[0] == tag[-1] == '"')
    return frozenset(int(number) for number in numbers if number.isdecimal() and len(number) < 20)


def _rate(opened: keys.Opened) -> Rate | None:
    return None if opened.per_second is None or opened.burst is None else Rate(opened.per_second, opened.burst)


def _presented(request: Request) -> str | None:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return request.headers.get("x-api-key")


class _Id(Convertor[int]):
    """So that /v1/tasks/bulk is no task: what is no number of up to 19 digits names nothing."""

    regex = "[0-9]{1,19}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("id", _Id())
Id = Annotated[int, Path(ge=1, le=2**63 - 1)]
Asking = Annotated[Caller, Depends(caller)]
Admin = Annotated[Caller, Depends(admin)]
Sent = Annotated[Body, Depends(body)]
Large = Annotated[Body, Depends(large)]
