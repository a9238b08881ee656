"""GET /docs: the description of the API as a page, made from what /openapi.json says and from nothing else."""

import json
from collections.abc import Iterator
from html import escape
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.responses import Response

from producer.pages import block, code, page, prose, table
from producer.problems import CODES
from producer.tryout import form

router = APIRouter()
Schema = dict[str, Any]
BOUNDS = {
    "minimum": "from {}", "maximum": "to {}",
    "minLength": "at least {} characters", "maxLength": "at most {} characters",
    "minItems": "at least {}", "maxItems": "at most {}", "minProperties": "at least {}", "maxProperties": "at most {}",
}  # fmt: skip


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """Every operation with its parameters, bodies, answers and a line for curl; every schema; every problem."""
    app = request.app
    if getattr(app.state, "reference", None) is None:
        app.state.reference = page("HTTP API", _reference(app.openapi()))
    return app.state.reference  # type: ignore[no-any-return]


def anchor(method: str, path: str) -> str:
    """The id of an operation on the page."""
    return f"{method}{path.replace('/', '-').replace('{', '').replace('}', '')}"


def _reference(api: Schema) -> str:
    operations = [(method, path, one) for path, item in api["paths"].items() for method, one in item.items()]
    groups: dict[str, list[tuple[str, str, Schema]]] = {}
    for method, path, one in operations:
        groups.setdefault(path.split("/")[2], []).append((method, path, one))
    words = "".join(f"<p>{prose(part)}</p>" for part in api["info"]["description"].split("\n\n"))
    problems = [
        [f'<a href="/problems/{kind}">{kind}</a>', str(of), escape(title)] for kind, (of, title, _) in CODES.items()
    ]
    return "".join(
        (
            words,
            "<p>Every request needs an API key: <code>Authorization: Bearer cj_…</code>, or",
            ' <code>X-API-Key: cj_…</code>. The same for programs: <a href="/openapi.json">/openapi.json</a>.</p>',
            '<nav aria-label="Operations"><ul>',
            *(f'<li><a href="#{anchor(m, p)}">{code(f"{m.upper()} {p}")}</a></li>' for m, p, _ in operations),
            '<li><a href="#schemas">Schemas</a></li><li><a href="#problems">Problems</a></li></ul></nav>',
            *(
                f'<h2 id="{name}">{escape(name)}</h2>' + "".join(_operation(api, *one) for one in found)
                for name, found in groups.items()
            ),
            '<h2 id="schemas">Schemas</h2>',
            *(_component(name, schema) for name, schema in sorted(api["components"]["schemas"].items())),
            '<h2 id="problems">Problems</h2>',
            table("Every error is one of these (RFC 9457)", ["code", "status", "what"], problems),
        )
    )


def _operation(api: Schema, method: str, path: str, one: Schema) -> str:
    parameters = [
        [code(p["name"]), p["in"], "required" if p["required"] else "", _words(p["schema"]), _text(p)]
        for p in one.get("parameters", ())
    ]
    body = one.get("requestBody")
    sent = body["content"]["application/json"]["schema"] if body else {}
    example = next(iter(_resolved(api, sent).get("examples", ())), None)
    found = [
        f'<section aria-labelledby="{anchor(method, path)}"><h3 id="{anchor(method, path)}">',
        f'<span class="method">{method.upper()}</span> {code(path)}</h3><p>{prose(one.get("description", ""))}</p>',
        table("Parameters", ["name", "in", "needed", "type", "what"], parameters),
    ]
    if body:
        found.append(f"<p>Body{'' if body['required'] else ' (may be left out)'}: {_words(sent)}</p>")
        if example is not None:
            found.append(block(json.dumps(example, indent=2, ensure_ascii=False), "Example of a body"))
    found += [block(_curl(method, path, one, example), f"{method.upper()} {path} with curl"), _answers(api, one)]
    return "".join(found) + (form(path, one) if method == "get" else "") + "</section>"


def _answers(api: Schema, one: Schema) -> str:
    rows = []
    for status, answer in sorted(one["responses"].items()):
        found = _resolved(api, answer)
        schema: Schema = next((one["schema"] for one in found.get("content", {}).values()), {})
        kinds = [kind for kind, (of, _, _) in CODES.items() if str(of) == status]
        what = _words(schema) if status < "4" else ", ".join(f'<a href="/problems/{kind}">{kind}</a>' for kind in kinds)
        headers = ", ".join(code(name) for name in found.get("headers", {}))
        tone = "good" if status < "4" else "bad"
        words = escape(found["description"] if status < "4" else "; ".join(CODES[kind][1] for kind in kinds))
        rows.append([f'<span class="{tone}">{status}</span>', words, what, headers])
    return table("Answers", ["status", "meaning", "body", "headers"], rows)


def _curl(method: str, path: str, one: Schema, example: Any) -> str:
    for parameter in one.get("parameters", ()):
        if parameter["in"] == "path":
            shown = str(
                next(iter(parameter["schema"].get("examples", ())), "1" if "integer" in str(parameter) else "name")
            )
            path = path.replace(f"{{{parameter['name']}}}", quote(shown, safe=""))
    verb = "" if method == "get" else f" -X {method.upper()}"
    lines = [f'curl{verb} "$CLOCKJACK_URL{path}"', '-H "Authorization: Bearer $CLOCKJACK_API_KEY"']
    if example is not None:
        data = json.dumps(example, ensure_ascii=False).replace("'", "'\\''")
        lines += ["-H 'Content-Type: application/json'", f"-d '{data}'"]
    return " \\\n  ".join(lines)


def _component(name: str, schema: Schema) -> str:
    required = schema.get("required", ())
    rows = [
        [code(field), "required" if field in required else "", _words(of), _text(of)]
        for field, of in schema.get("properties", {}).items()
    ]
    rules = "".join(f"<li>{text}</li>" for text in _rules(schema))
    return (
        f'<section aria-labelledby="schema-{name}"><h3 id="schema-{name}">{name}</h3>'
        f"<p>{prose(schema.get('description', ''))}</p>{f'<ul>{rules}</ul>' if rules else ''}"
        + table(f"Fields of {name}", ["field", "needed", "type", "what"], rows)
        + "</section>"
    )


def _rules(schema: Schema) -> Iterator[str]:
    """What is said of several fields at once: which of them is given."""
    for part in [schema, *schema.get("allOf", ())]:
        for branches in (part.get("oneOf", ()), part.get("anyOf", ())):
            given = [code(" and ".join(one["required"])) for one in branches if one.get("required")]
            if given:
                none = any(not one.get("required") for one in branches)
                yield (
                    f"{'At most' if none else 'Exactly'} one of: {', '.join(given)}."
                    if len(given) > 1
                    else (f"Either without {given[0]}, or with what belongs to it.")
                )


def _words(schema: Schema) -> str:
    """The type in words, as HTML."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#schema-{name}">{name}</a>'
    if "anyOf" in schema and "properties" not in schema:
        return " or ".join(_words(one) for one in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return " | ".join(code(json.dumps(value)) for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        found = f"list of {_words(schema.get('items', {}))}"
    else:
        found = escape(str(schema.get("type", "any JSON")))
    more = [schema["format"]] if "format" in schema else []
    more += [words.format(f"{schema[name]:,}") for name, words in BOUNDS.items() if name in schema]
    more += [f"pattern {schema['pattern']}"] if "pattern" in schema else []
    return found + (f" ({escape(', '.join(more))})" if more else "")


def _text(of: Schema) -> str:
    """What else is said of a parameter or field: its description and its default."""
    schema = of.get("schema", of)
    default = f"default {code(json.dumps(schema['default']))}" if "default" in schema else ""
    return ". ".join(part for part in (prose(of.get("description", "").rstrip(".")), default) if part)


def _resolved(api: Schema, schema: Schema) -> Schema:
    found: Any = schema
    if "$ref" in schema:
        found = api
        for name in schema["$ref"].removeprefix("#/").split("/"):
            found = found[name]
    return dict(found)
