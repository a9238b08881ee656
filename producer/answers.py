"""What a request is answered with. A task's answer has an ETag, which If-Match and If-None-Match take back.

It is the task's version, a point, and a digest of all that the answer says of the task: `next_run_at` moves without a
new version. If-Match asks for the version; If-None-Match of a GET for the whole.
"""

from hashlib import blake2s
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import Response

from clockjack import documents
from clockjack.ledger.acceptance import Answer
from producer.problems import Problem

T = TypeVar("T")


def response(answer: Answer) -> Response:
    """The answer that a change was given, now or when it was asked for first."""
    headers = replayed(answer)
    document = documents.strict_json(answer.answer)
    if answer.status in (201, 202):
        headers["Location"] = f"/v1/{'tasks' if answer.status == 201 else 'runs'}/{document['id']}"
    return Response(answer.answer, answer.status, headers | etag(document), "application/json")


def replayed(answer: Answer) -> dict[str, str]:
    """The header of an answer that was given before."""
    return {"Idempotency-Replayed": "true"} if answer.replayed else {}


def json(document: Any) -> Response:
    """The document."""
    return Response(documents.compact(document), headers=etag(document), media_type="application/json")


def unless_known(request: Request, document: Any) -> Response:
    """The document, or 304 without it when If-None-Match names its ETag."""
    headers = etag(document)
    given = ",".join(request.headers.getlist("if-none-match"))
    tags = [tag.strip().removeprefix("W/") for tag in given.split(",")]
    if "*" in tags or headers["ETag"] in tags:
        return Response(status_code=304, headers=headers)
    return json(document)


def etag(document: Any) -> dict[str, str]:
    """The headers that name the version of a task or an endpoint."""
    if "version" not in document:
        return {}
    digest = ""
    if "next_run_at" in document:
        text = documents.compact({name: value for name, value in document.items() if name != "warnings"})
        digest = "." + blake2s(text.encode(), digest_size=6).hexdigest()
    return {"ETag": f'"{document["version"]}{digest}"'}


def found(value: T | None) -> T:
    """The value, or the problem `not-found`."""
    if value is None:
        raise Problem("not-found")
    return value
