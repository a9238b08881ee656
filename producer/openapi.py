"""`python -m producer.openapi`: the description of the API, as /openapi.json serves it and docs/openapi.json keeps it.

Each route says in its decorator what it takes and answers (producer/describing.py); what all have in common is here.
"""

import json
import sys
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from clockjack.answers import Problem
from clockjack.settings import Settings
from producer import shapes
from producer.describing import header_components, header_refs
from producer.problems import CODES, MEDIA_TYPE
from producer.requests import READS

ANYWHERE = (401, 429, 500, 503)
WITH_BODY = (400, 408, 413, 422)
HEADERS = {401: ["WWW-Authenticate"], 429: ["Retry-After", "RateLimit", "RateLimit-Policy"], 503: ["Retry-After"]}
WORDS = """A distributed task scheduler. docs/api.md tells what the fields mean; /docs shows all of this for reading.

Texts have these formats, besides those of JSON Schema. date-time: RFC 3339 with an offset, in the years 2000 to 2199.
local-date-time: the same without an offset. cron, rrule: docs/schedules.md. time-zone: an IANA name. dates: a date, or
two with a slash between. printable: no control characters, no space at the ends.
path-key: printable, and what is between slashes is not empty, no . and no .. cursor: a next_cursor, unchanged.
public-url: http or https, to a public address. Every answer to a key that has a limit has the headers RateLimit and
RateLimit-Policy. A 409 has Retry-After while a request with the same Idempotency-Key is at work. What no schema says is
checked all the same, and answered with 422."""


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI description of `app`."""
    if app.openapi_schema:
        return app.openapi_schema
    found = get_openapi(title="Clockjack", version=app.version, routes=app.routes, description=WORDS)
    schemas: dict[str, Any] = {}
    found["paths"] = {
        path: {method: _complete(method, path, operation, schemas) for method, operation in item.items()}
        for path, item in found["paths"].items()
    }
    shapes.shared(shapes.schema(Problem), schemas)
    of = schemas["Problem"]["properties"]
    of["code"] |= {"enum": sorted(CODES)}
    of["type"] |= {"enum": [f"/problems/{kind}" for kind in sorted(CODES)]}
    found["components"] = {
        "schemas": schemas,
        "headers": header_components(),
        "responses": {str(status): _problem(status) for status in sorted({one[0] for one in CODES.values()})},
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        },
    }
    found["security"] = [{"bearer": []}, {"key": []}]
    app.openapi_schema = found
    return found


def _complete(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """The operation with the problems that follow from what it takes, and with its schemas shared."""
    statuses = {*ANYWHERE, *operation.pop("x-problems", ())}
    statuses |= {403} if method != "get" and path not in READS else set()
    statuses |= {404} if "{" in path else set()
    statuses |= set(WITH_BODY) if "requestBody" in operation else set()
    parameters = operation.get("parameters", [])
    statuses |= {400} if any(one["in"] == "query" for one in parameters) else set()
    for parameter in parameters:  # what is not in a query is left out of it, and never null
        schema = parameter["schema"]
        if parameter["in"] == "query" and "anyOf" in schema:
            parameter["schema"] = next(one for one in schema["anyOf"] if one != {"type": "null"})
    answers = {status: one for status, one in operation["responses"].items() if status < "4"}
    answers |= {str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(statuses)}
    return dict(shapes.shared(operation | {"responses": answers}, schemas))


def _problem(status: int) -> dict[str, Any]:
    kinds = [kind for kind, (of, _, _) in CODES.items() if of == status]
    narrow = {"properties": {"status": {"const": status}, "code": {"enum": kinds}}}
    schema = {"allOf": [{"$ref": f"{shapes.REF}Problem"}, narrow]}
    found: dict[str, Any] = {"description": "; ".join(f"`{kind}`: {CODES[kind][1]}" for kind in kinds)}
    found["content"] = {MEDIA_TYPE: {"schema": schema}}
    return found | ({"headers": header_refs(HEADERS[status])} if status in HEADERS else {})


def text() -> str:
    """The description as docs/openapi.json has it."""
    from producer.app import create_app

    app = create_app(Settings(database_url="mysql+pymysql://nobody@localhost/none", redis_url="redis://localhost"))
    return json.dumps(document(app), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
