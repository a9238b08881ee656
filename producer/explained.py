"""GET /problems/{kind}: what the `type` of a problem points to, for people as a page, for programs as JSON."""

import json

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from producer.pages import block, code, page, prose
from producer.problems import CODES, Problem, document
from producer.reference import anchor

router = APIRouter()
WHY = {
    "unreadable-json": "The body is cut off, is not UTF-8, has the same name twice in one object, a number"
    " that no double holds, NaN or Infinity, or is nested too deeply. Readers would not agree on what it says.",
    "invalid-idempotency-key": "The header Idempotency-Key is empty, too long, there twice, has characters"
    " outside of printable ASCII, or begins with a quotation mark that is not closed.",
    "invalid-parameter": "A parameter of the query is unknown or has a value that it cannot have, or a cursor"
    " was changed on its way.",
    "unauthorized": "The request has no API key, or one that does not exist, or one that was revoked.",
    "forbidden": "The API key is a good one, but has the scope read, and the request would change something, or"
    " it is not of the scope admin, and the request is about keys or changes a queue.",
    "not-found": "No route has this path, or there is nothing of this id or name in the namespace that the"
    " API key opens. What is in other namespaces is not told apart from what does not exist.",
    "method-not-allowed": "The path is right, but not for this method.",
    "too-slow": "The connection stayed open, but the body did not arrive within 20 seconds.",
    "state-conflict": "What was asked for does not go with the state of the task, the run, the group or the"
    " endpoint, or the name is taken. `detail` says which it is.",
    "idempotency-key-in-flight": "A request with this Idempotency-Key has no answer yet, and this one came beside it."
    " It was not waited for, and nothing was done twice.",
    "precondition-failed": "If-Match names a version, and the task has another one by now: somebody changed"
    " it after it was read; or If-None-Match says that there must be none, and there is one. Nothing was"
    " changed by this request.",
    "too-large": "The body has more bytes than the route takes. Nothing of it was looked at.",
    "invalid-fields": "The body is JSON, but some of its fields are missing, unknown, of the wrong type, out"
    " of bounds, or do not go together. `errors` names each by an RFC 6901 pointer. Nothing was changed.",
    "idempotency-key-reused": "A request with this Idempotency-Key was answered before, and it was another"
    " one: another method, path or body. Its answer would be wrong here, so nothing was done.",
    "too-many-requests": "The API key has a limit, and asks more often than it allows. The headers RateLimit and"
    " RateLimit-Policy say what is left of it, and Retry-After when the next request is let in.",
    "internal-error": "Something happened that nobody foresaw. The log of the producer has its kind and its"
    " place, without what was sent.",
    "unavailable": "The database cannot be reached, refuses more work, or is not fit for use. Nothing was"
    " acknowledged. What was sent with an Idempotency-Key can be sent again without being done twice.",
}


@router.get("/problems/{kind}", include_in_schema=False)
async def problem_page(request: Request, kind: str) -> Response:
    """What was wrong and what to do."""
    if kind not in CODES:
        raise Problem("not-found")
    status, title, advice = CODES[kind]
    why = WHY.get(kind, title)
    if "text/html" not in request.headers.get("accept", ""):
        found = {"code": kind, "status": status, "title": title, "what_was_wrong": why, "what_to_do": advice}
        return JSONResponse(found, headers={"Vary": "Accept"})
    answer = page(title, _body(request, kind, status, why, advice))
    answer.headers["Vary"] = "Accept"
    return answer


def _body(request: Request, kind: str, status: int, why: str, advice: str) -> str:
    where = [
        f'<li><a href="/docs#{anchor(method, path)}">{code(f"{method.upper()} {path}")}</a></li>'
        for path, item in request.app.openapi()["paths"].items()
        for method, one in item.items()
        if str(status) in one["responses"]
    ]
    example = json.dumps(document(Problem(kind)), indent=2)
    return (
        f"<p>Problem {code(kind)}, status {status}.</p><h2>What was wrong</h2><p>{prose(why)}</p>"
        f"<h2>What to do</h2><p>{prose(advice)}</p>"
        + block(example, "Example")
        + (f"<h2>Which operations answer with {status}</h2><ul>{''.join(where)}</ul>" if where else "")
    )
