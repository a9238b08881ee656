"""Every error is an RFC 9457 problem: a stable `code`, words for people, and the fields that are wrong.

Nothing of a statement, a payload or a secret is in an answer or in the log.
"""

import logging
import traceback
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clockjack.documents import compact
from clockjack.ledger.acceptance import InFlight, KeyReused
from clockjack.ledger.database import AGAIN, Unavailable, UnknownCommit, code
from clockjack.ledger.tasks import StateConflict, VersionConflict
from clockjack.registration import Refused
from clockjack.schedules import ScheduleError

log = logging.getLogger("producer")
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 2
OVERLOADED = AGAIN | {1021, 1040, 1114, 1203}  # disk full, too many connections

CODES = {
    "unreadable-json": (400, "The body is not JSON", "Send one JSON object, encoded as UTF-8, each name once."),
    "invalid-idempotency-key": (400, "The Idempotency-Key cannot be used", "Send 1 to 255 printable ASCII characters."),
    "invalid-parameter": (400, "A query parameter cannot be used", "Correct the parameters listed under `errors`."),
    "unauthorized": (401, "A valid API key is needed", "Send `Authorization: Bearer cj_…`; `clockjack keys create`."),
    "forbidden": (
        403,
        "This API key may not do this",
        "Use a key with the scope write; for keys and queues, with the scope admin.",
    ),
    "not-found": (404, "There is nothing here", "Check the id; what is another namespace's is not shown."),
    "method-not-allowed": (405, "This method is not allowed here", "See the header Allow."),
    "too-slow": (408, "The request took too long to arrive", "The body has to come within 20 seconds."),
    "state-conflict": (409, "The task's state does not allow this", "Read the task and decide anew."),
    "idempotency-key-in-flight": (
        409,
        "A request with this Idempotency-Key is at work",
        "Send the request again after Retry-After: it is given the answer of the first.",
    ),
    "precondition-failed": (412, "The task is of another version", "Read the task, decide anew, send its new ETag."),
    "too-large": (413, "The request is too large", "A body has at most 128 KiB (in bulk 4 MiB), a payload 64 KiB."),
    "invalid-fields": (422, "Some fields cannot be used", "Correct the fields listed under `errors`."),
    "idempotency-key-reused": (422, "This Idempotency-Key was used for another request", "Use a new key a request."),
    "too-many-requests": (429, "This API key asks more often than it may", "Send it again after Retry-After."),
    "internal-error": (500, "Something went wrong here", "Nothing was registered. The server's log has the reason."),
    "unavailable": (503, "The database is not available at the moment", "Send the request again after Retry-After."),
}


class Problem(Exception):
    """An answer that is not what was asked for; `kind` is one of CODES."""

    def __init__(
        self,
        kind: str,
        detail: str | None = None,
        *,
        errors: list[dict[str, str]] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(kind)
        self.kind, self.detail, self.errors, self.headers = kind, detail, errors, headers or {}


def document(problem: Problem) -> dict[str, Any]:
    """The problem as RFC 9457 has it."""
    status, title, advice = CODES[problem.kind]
    found: dict[str, Any] = {
        "type": f"/problems/{problem.kind}",
        "title": title,
        "status": status,
        "code": problem.kind,
        "detail": problem.detail or advice,
    }
    return found | {"errors": problem.errors} if problem.errors else found


def answer(problem: Problem) -> Response:
    """The problem as a response."""
    status, headers = CODES[problem.kind][0], dict(problem.headers)
    if status == 503:
        headers.setdefault("Retry-After", str(RETRY_AFTER_S))
    if status == 401:
        headers.setdefault("WWW-Authenticate", 'Bearer realm="clockjack"')
    return Response(compact(document(problem)).encode("utf-8", "replace"), status, headers, MEDIA_TYPE)


def refused(error: Refused) -> Problem:
    """The problem that names these fields."""
    found = [{"pointer": pointer(field), "detail": message} for field, message in error.errors]
    return Problem("invalid-fields", str(error), errors=found)


def as_problem(error: Exception) -> Problem | None:
    """The problem that this exception stands for; None when it is a fault of ours."""
    match error:
        case Problem():
            return error
        case Refused():
            return refused(error)
        case ScheduleError():
            return as_problem(Refused([(error.field, str(error))]))
        case KeyReused():
            return Problem("idempotency-key-reused")
        case InFlight():
            return Problem("idempotency-key-in-flight", headers={"Retry-After": "1"})
        case StateConflict():
            return Problem("state-conflict", str(error))
        case VersionConflict():
            return Problem("precondition-failed", str(error))
        case Unavailable() | UnknownCommit():
            return Problem("unavailable")
        case RequestValidationError():
            return _invalid_parameters(error)
        case HTTPException():
            kinds = {404: "not-found", 405: "method-not-allowed", 413: "too-large"}
            kind = kinds.get(error.status_code, "invalid-parameter" if error.status_code < 500 else "internal-error")
            return Problem(kind, headers=dict(error.headers or {}))
    return Problem("unavailable") if code(error) in OVERLOADED else None


def install(app: FastAPI) -> None:
    """Every error of `app` is answered as a problem."""

    async def handle(request: Request, error: Exception) -> Response:
        if isinstance(error, (Unavailable, UnknownCommit)):
            request.app.state.watch.lost()
        problem = as_problem(error) or Problem("internal-error")
        if problem.kind == "method-not-allowed":
            problem.headers["Allow"] = ", ".join(_allowed(request))
        return answer(problem)

    for kind in (
        Problem,
        Refused,
        ScheduleError,
        KeyReused,
        InFlight,
        StateConflict,
        VersionConflict,
        Unavailable,
        UnknownCommit,
        RequestValidationError,
        HTTPException,
    ):
        app.add_exception_handler(kind, handle)
    app.add_middleware(_LastResort)


class _LastResort:
    """What no handler knows is answered as a problem and logged by type and place: messages may hold a payload."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def observed(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, observed)
        except ClientDisconnect:
            return
        except Exception as error:
            problem = as_problem(error)
            if problem is None:
                place = "".join(traceback.format_tb(error.__traceback__, limit=-6))
                log.error(
                    "request failed",
                    extra={"action": "http_error", "kind": type(error).__name__, "code": code(error), "place": place},
                )
            if not started:
                await answer(problem or Problem("internal-error"))(scope, receive, send)


def _allowed(request: Request) -> list[str]:
    """The methods of this path: each route knows its own only."""
    scopes = [{**request.scope, "method": method} for method in METHODS]
    return [s["method"] for s in scopes if any(r.matches(s)[0] is Match.FULL for r in request.app.routes)]


def pointer(field: str) -> str:
    """RFC 6901, as a URI fragment."""
    return "#/" + field.replace("~", "~0").replace("/", "~1") if field else "#"


def _invalid_parameters(error: RequestValidationError) -> Problem:
    if any(e["loc"][0] == "path" for e in error.errors()):
        return Problem("not-found")  # an id that cannot be one names nothing
    found = [{"parameter": str(e["loc"][-1])[:100], "detail": str(e["msg"])} for e in error.errors()]
    return Problem("invalid-parameter", "; ".join(f"{e['parameter']}: {e['detail']}" for e in found), errors=found)
