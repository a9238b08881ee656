"""POST /docs/try: a GET operation is asked with what a form of /docs says, and the answer is shown.

The key comes with the form, each time: nothing here is kept, and no other site can ask with somebody's key.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from html import escape
from typing import Annotated, Any
from urllib.parse import parse_qs, quote, urlencode

import httpx2
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from producer.pages import block, code, page, table
from producer.problems import Problem
from producer.requests import Body, body

router = APIRouter()
MOST_FIELDS = 50


@router.post("/docs/try", include_in_schema=False)
async def ask(request: Request, sent: Annotated[Body, Depends(body)]) -> Response:
    """The answer of the operation, as a page."""
    try:
        fields = {name: found[-1] for name, found in parse_qs(sent.raw.decode(), max_num_fields=MOST_FIELDS).items()}
        operation = request.app.openapi()["paths"][fields["path"]]["get"]
    except (KeyError, ValueError):
        raise Problem("not-found") from None
    path, query = fields["path"], {}
    for parameter in operation.get("parameters", ()):
        given = fields.get(f"of.{parameter['name']}", "")
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", quote(given or "-", safe=""))
        elif given and parameter["in"] == "query":
            query[parameter["name"]] = given
    target = path + (f"?{urlencode(query)}" if query else "")
    key = fields.get("key", "").strip()
    headers = {"Authorization": f"Bearer {key}"} if key.isascii() and key.isprintable() and key else {}
    transport = httpx2.ASGITransport(app=request.app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.get(target, headers=headers)
    return page(f"GET {path}", _shown(target, answer.status_code, answer.headers, answer.text))


def form(path: str, operation: Mapping[str, Any]) -> str:
    """A form for this GET operation."""
    return (
        '<details><summary>Try it</summary><form method="post" action="/docs/try">'
        f'<input type="hidden" name="path" value="{escape(path)}">{"".join(_inputs(operation))}'
        '<label>API key <input name="key" type="password" autocomplete="off" required></label>'
        "<button>Ask</button></form></details>"
    )


def _inputs(operation: Mapping[str, Any]) -> Iterator[str]:
    for parameter in operation.get("parameters", ()):
        name, schema = escape(parameter["name"]), parameter["schema"]
        if parameter["in"] not in ("path", "query"):
            continue
        needed = " required" if parameter["required"] else ""
        if "enum" in schema:
            options = "".join(f"<option>{escape(value)}</option>" for value in ["", *schema["enum"]])
            yield f'<label>{name} <select name="of.{name}"{needed}>{options}</select></label>'
        else:
            yield f'<label>{name} <input name="of.{name}"{needed}></label>'


def _shown(target: str, status: int, headers: Mapping[str, str], text: str) -> str:
    with suppress(ValueError):
        text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    rows = [[code(name), escape(value)] for name, value in headers.items()]
    return (
        f"<p>{code(target)} answers {status}.</p>"
        + block(text, "Body of the answer")
        + table("Headers", ["name", "value"], rows)
        + '<p><a href="/docs">Back to all operations</a></p>'
    )
