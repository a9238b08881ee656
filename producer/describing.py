"""What a route says of itself, in its decorator: `@router.post("/tasks", **describe({201: Task}, body=NewTask))`.

What it does not say follows from it: a body can be unreadable, an id can name nothing (producer/openapi.py).
"""

from typing import Any

from pydantic import BaseModel

from producer import shapes

REQUESTED = {  # headers of requests
    "keyed": {
        "name": "Idempotency-Key",
        "in": "header",
        "required": False,
        "description": "The same request with the same key is done once, and answered alike for 24 hours.",
        "schema": {
            "type": "string",
            "pattern": r'^([!#-~]([ -~]{0,253}[!-~])?|"[!-~]([ -~]{0,253}[!-~])?")$',
            "examples": ["order-7"],
        },
    },
    "matched": {
        "name": "If-Match",
        "in": "header",
        "required": False,
        "description": "The ETag of the version that is meant: 412 if the task is of another one by now.",
        "schema": {
            "type": "string",
            "pattern": r'^(\*|"[0-9]{1,18}(\.[0-9a-f]{1,64})?"(, "[0-9]{1,18}(\.[0-9a-f]{1,64})?")*)$',
            "examples": ['"3"'],
        },
    },
    "unmatched": {
        "name": "If-None-Match",
        "in": "header",
        "required": False,
        "description": "An ETag that is known already, or *: a GET is answered with 304, another request with 412.",
        "schema": {"type": "string", "examples": ["*"]},
    },
}
ANSWERED = {  # headers of answers
    "Location": ("Where it is.", True, {"type": "string", "format": "uri-reference"}),
    "ETag": ("The version, for If-Match.", True, {"type": "string", "pattern": r'^"[0-9]+(\.[0-9a-f]+)?"$'}),
    "Idempotency-Replayed": ("It was done before: this is the answer of that time.", False, {"const": "true"}),
    "Link": ("Where the list goes on.", False, {"type": "string", "pattern": '^<[^>]+>; rel="next"$'}),
    "Cache-Control": ("It has a secret.", True, {"const": "no-store"}),
    "Retry-After": ("Seconds.", True, {"type": "integer", "minimum": 0}),
    "RateLimit": ("What is left of the limit of the key.", True, {"type": "string"}),
    "RateLimit-Policy": ("The limit of the key.", True, {"type": "string"}),
    "WWW-Authenticate": ("How to authenticate.", True, {"type": "string"}),
}
WORDS = {200: "Done", 201: "It is new", 202: "Accepted", 204: "Done", 304: "It is as If-None-Match says"}


def describe(
    answers: dict[int, Any],
    *,
    body: type[BaseModel] | dict[str, Any] | None = None,
    optional: bool = False,
    problems: tuple[int, ...] = (),
    keyed: bool = False,
    matched: bool = False,
    unmatched: bool = False,
    headers: tuple[str, ...] = (),
) -> dict[str, Any]:
    """What the decorator of a route takes.

    `answers`: the type of the answer by status, the usual status first (None: it has no body). `body`: of the request;
    `optional`: it may be left out. `problems`: those that do not follow from the rest, as 409. `keyed`, `matched`,
    `unmatched`: it takes an Idempotency-Key, an If-Match, an If-None-Match. `headers`: Location, or others of ANSWERED
    that do not follow.
    """
    said: dict[str, Any] = {
        "responses": {str(status): _answer(status, kind, keyed, headers) for status, kind in answers.items()},
        "x-problems": [*problems, *((412,) if matched else ()), *((400, 408, 409, 413, 422) if keyed else ())],
    }
    if body is not None:
        schema = body if isinstance(body, dict) else body.model_json_schema()
        said["requestBody"] = {"required": not optional, "content": {"application/json": {"schema": schema}}}
    wanted = {"keyed": keyed, "matched": matched, "unmatched": unmatched}
    taken = [REQUESTED[name] for name in wanted if wanted[name]]
    if taken:
        said["parameters"] = taken
    return {"status_code": next(iter(answers)), "openapi_extra": said}


def _answer(status: int, kind: Any, keyed: bool, headers: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {"description": WORDS[status]}
    names = [name for name in headers if name != "Location" or status in (201, 202)]
    names += ["Idempotency-Replayed"] if keyed else []
    names += ["ETag"] if status == 304 else []
    if kind is not None:
        schema = shapes.schema(kind)
        found["content"] = {"application/json": {"schema": schema}}
        fields = schema.get("properties", {})
        names += ["ETag"] if "version" in fields else []
        names += ["Link"] if "next_cursor" in fields and "items" in fields else []
    return found | ({"headers": header_refs(names)} if names else {})


def header_refs(names: list[str]) -> dict[str, Any]:
    """References to these headers."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in sorted(names)}


def header_components() -> dict[str, Any]:
    """The headers of answers."""
    return {
        name: {"description": words, "required": always, "schema": schema}
        for name, (words, always, schema) in ANSWERED.items()
    }
