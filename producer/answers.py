"""What a request is answered with. A task's answer has its version as ETag, which If-Match takes back."""

from typing import Any, TypeVar

from starlette.responses import Response

from clockjack import documents
from clockjack.ledger.acceptance import Answer
from producer.problems import Problem

T = TypeVar("T")


def response(answer: Answer) -> Response:
    """The answer that a change was given, now or when it was asked for first."""
    headers = {"Idempotency-Replayed": "true"} if answer.replayed else {}
    document = documents.strict_json(answer.answer)
    if answer.status in (201, 202):
        headers["Location"] = f"/v1/{'tasks' if answer.status == 201 else 'runs'}/{document['id']}"
    return Response(answer.answer, answer.status, headers | etag(document), "application/json")


def json(document: Any) -> Response:
    """The document."""
    return Response(documents.compact(document), headers=etag(document), media_type="application/json")


def etag(document: Any) -> dict[str, str]:
    """The headers that name the version of a task."""
    return {"ETag": f'"{document["version"]}"'} if "version" in document else {}


def found(value: T | None) -> T:
    """The value, or the problem `not-found`."""
    if value is None:
        raise Problem("not-found")
    return value
