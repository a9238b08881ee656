"""`python -m producer.openapi`: the description of the API, as /openapi.json serves it and docs/openapi.json keeps it.

FastAPI knows the routes, their parameters and bodies; which problems and which documents they answer is said here.
"""

import json
import sys
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from clockjack import documents
from clockjack.settings import Settings
from producer.keys import SCHEMAS as KEYS
from producer.namespaces import SCHEMAS as NAMESPACES
from producer.problems import CODES, MEDIA_TYPE
from producer.requests import READS

ANYWHERE = (401, 429, 500, 503)
TICKETS = ("/v1/tasks", "/v1/groups", "/v1/runs/{run_id}")  # what changes these takes an Idempotency-Key
WITH_BODY = (400, 408, 413, 422)
CONFLICTS = {  # what the state of things refuses, and versions that do not match
    ("patch", "/v1/tasks/{task_id}"): (409, 412),
    ("delete", "/v1/tasks/{task_id}"): (412,),
    ("post", "/v1/tasks/{task_id}/pause"): (409, 412),
    ("post", "/v1/tasks/{task_id}/resume"): (409, 412),
    ("post", "/v1/tasks/{task_id}/run"): (409,),
    ("post", "/v1/tasks/{task_id}/backfill"): (409,),
    ("post", "/v1/runs/{run_id}/retry"): (409,),
    ("post", "/v1/runs/{run_id}/cancel"): (409,),
    ("put", "/v1/groups/{group_key}"): (409,),
    ("post", "/v1/groups/{group_key}/move"): (409,),
    ("post", "/v1/keys/{key_prefix}/rotate"): (409,),
    ("post", "/v1/endpoints"): (409,),
    ("patch", "/v1/endpoints/{name}"): (409,),
    ("post", "/v1/endpoints/{name}/rotate"): (409,),
    ("post", "/v1/expectations"): (409,),
}
TASKS, RUNS = ("/v1/tasks", "/v1/tasks/{task_id}"), ("/v1/runs", "/v1/runs/{run_id}")
STATES = ["ready", "running", "succeeded", "failed", "cancelled", "skipped"]


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI description of `app`."""
    if app.openapi_schema:
        return app.openapi_schema
    found = get_openapi(title="Clockjack", version=app.version, routes=app.routes, description="See docs/api.md.")
    components = found.setdefault("components", {})
    for name in ("HTTPValidationError", "ValidationError"):  # we answer problems instead
        components.get("schemas", {}).pop(name, None)
    components["schemas"] = components.get("schemas", {}) | _schemas()
    components["responses"] = {str(status): _problem(status) for status in sorted({one[0] for one in CODES.values()})}
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    found["security"] = [{"bearer": []}, {"key": []}]
    for path, item in found["paths"].items():
        for method, operation in item.items():
            _complete(method, path, operation)
    app.openapi_schema = found
    return found


def _complete(method: str, path: str, operation: dict[str, Any]) -> None:
    answers = operation["responses"]
    answers.pop("422", None)
    statuses = {*ANYWHERE, *CONFLICTS.get((method, path), ())}
    statuses |= {403} if path.startswith("/v1/keys") or (method != "get" and path not in READS) else set()
    statuses |= {404} if "{" in path else set()
    statuses |= {409} if method != "get" and path.startswith(TICKETS) else set()
    statuses |= set(WITH_BODY) if "requestBody" in operation or method in ("post", "put", "patch") else set()
    if any(parameter["in"] == "query" for parameter in operation.get("parameters", ())):
        statuses.add(400)
    if (method, path) == ("post", "/v1/tasks"):
        answers["200"] = {"description": "The task of this task_key has these values"}
    if path == "/v1/runs/{run_id}/cancel":
        answers["200"] = {"description": "Cancelled"}
        answers["202"] = {"description": "It runs, and is asked to stop"}
    if path == "/v1/tasks/bulk":
        answers["200"] = {"description": "Each for itself, with `atomic` false"}
    schema = _answer(method, path)
    for status, answer in answers.items():
        if schema and status.startswith("2") and status != "204":  # which has no content
            answer["content"] = {"application/json": {"schema": schema}}
    answers |= {str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(statuses)}


def _answer(method: str, path: str) -> dict[str, Any] | None:
    """What a route answers when it does what was asked."""
    if path == "/v1/tasks/{task_id}/run" or path.startswith("/v1/runs/{run_id}"):
        return {"$ref": "#/components/schemas/Run"}
    if method == "get" and path in ("/v1/tasks", "/v1/runs", "/v1/tasks/{task_id}/runs"):
        item = "TaskOfList" if path == "/v1/tasks" else "Run"
        return _object(
            ["items", "next_cursor"],
            items={"type": "array", "items": {"$ref": f"#/components/schemas/{item}"}},
            next_cursor={"type": ["string", "null"]},
        )
    if path == "/v1/namespaces":
        return {"$ref": "#/components/schemas/Namespaces"}
    if path.startswith("/v1/keys"):
        listed, made = (method, path) == ("get", "/v1/keys"), method == "post"
        name = "Keys" if listed else "Key" if not made else "RotatedKey" if path.endswith("/rotate") else "NewKey"
        return {"$ref": f"#/components/schemas/{name}"}
    task = path in TASKS or path in ("/v1/tasks/{task_id}/pause", "/v1/tasks/{task_id}/resume")
    return {"$ref": "#/components/schemas/Task"} if task else {"type": "object"}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties}


def _schemas() -> dict[str, Any]:
    whole, moment = {"type": "integer", "minimum": 0}, {"type": ["string", "null"], "format": "date-time"}
    names = documents.TASK_FIELDS
    task: dict[str, Any] = {"id": whole, "namespace": {"type": "string"}, "handler": {"type": "string"}}
    task |= {"state": {"enum": ["active", "paused", "cancelled", "invalid"]}, "version": whole, "next_run_at": moment}
    run: dict[str, Any] = {"id": whole, "run_key": {"type": "string"}, "task_id": whole, "due_at": moment}
    run |= {"state": {"enum": STATES}, "attempt": whole, "failures": whole, "lateness_ms": {"type": ["number", "null"]}}
    run |= {"first_started_at": moment, "started_at": moment, "finished_at": moment}
    error = _object(["detail"], pointer={"type": "string"}, parameter={"type": "string"}, detail={"type": "string"})
    codes = {"enum": sorted(CODES)}
    return {
        "Task": _object(names, **task),
        "TaskOfList": _object([name for name in names if name != "payload"], **task),
        "Run": _object(sorted(run), **run),
        "Problem": _object(
            ["type", "title", "status", "code", "detail"],
            type={"type": "string"}, title={"type": "string"}, status=whole, code=codes, detail={"type": "string"},
            errors={"type": "array", "items": error},
        ),
        **KEYS,
        **NAMESPACES,
    }  # fmt: skip


def _problem(status: int) -> dict[str, Any]:
    kinds = [kind for kind, (of, _, _) in CODES.items() if of == status]
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"description": "; ".join(f"`{kind}`: {CODES[kind][1]}" for kind in kinds), "content": content}


def text() -> str:
    """The description as docs/openapi.json has it."""
    from producer.app import create_app

    app = create_app(Settings(database_url="mysql+pymysql://nobody@localhost/none", redis_url="redis://localhost"))
    return json.dumps(document(app), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
