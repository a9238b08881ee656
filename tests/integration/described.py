"""Whatever a test asks, the answer is one that the description of the API has: its status, headers and body."""

import json
import re
from functools import lru_cache
from typing import Any

import jsonschema_rs

from producer import openapi

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


@lru_cache(1)
def _described() -> dict[str, Any]:
    return json.loads(openapi.text())


@lru_cache(1)
def _paths() -> list[tuple[re.Pattern[str], str]]:
    """Those with fewer names first: /v1/tasks/bulk is no task."""
    shapes = {"task_id": "[0-9]{1,19}", "run_id": "[0-9]{1,19}", "group_key": ".+", "task_key": ".+"}
    found = []
    for path in sorted(_described()["paths"], key=lambda path: (path.count("{"), -len(path))):
        pattern = re.sub(r"\{(\w+)\}", lambda match: shapes.get(match[1], "[^/]+"), path)
        found.append((re.compile(pattern, re.DOTALL), path))
    return found


def operation(method: str, path: str) -> dict[str, Any] | None:
    """What the description has of this request; None where it has nothing."""
    for pattern, name in _paths():
        if pattern.fullmatch(path) and method.lower() in _described()["paths"][name]:
            return _described()["paths"][name][method.lower()]
    return None


@lru_cache(1000)
def _validator(schema: str) -> Any:
    whole = json.loads(schema) | {"components": _described()["components"]}
    return jsonschema_rs.Draft202012Validator(whole, validate_formats=True)


def _resolved(value: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in value:
        return value
    found: Any = _described()
    for name in value["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return found


def check(answer: Any) -> None:
    """AssertionError if the description does not have this answer."""
    request = answer.request
    found = operation(request.method, request.url.path)
    if found is None or answer.status_code == 405 or not request.url.path.startswith("/v1/"):
        return
    what = f"{request.method} {request.url.path}: {answer.status_code}"
    assert str(answer.status_code) in found["responses"], f"{what} is not described"
    said = _resolved(found["responses"][str(answer.status_code)])
    for name, header in said.get("headers", {}).items():
        if name in answer.headers or _resolved(header)["required"]:
            assert name in answer.headers, f"{what} has no {name}"
    text = answer.read()
    for kind, content in said.get("content", {}).items():
        assert answer.headers["content-type"] == kind, what
        wrong = [str(error) for error in _validator(json.dumps(content["schema"])).iter_errors(json.loads(text))]
        assert not wrong, f"{what} answers {text[:500]!r}, but {wrong[0][:1000]}"
    assert said.get("content") or not text, what
