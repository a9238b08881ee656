"""What JSON Schema says of what our own code judges: the formats of texts, and which fields go together. Pure.

The formats beyond those of JSON Schema are explained in docs/api.md. null says the same as leaving a field out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BeforeValidator, WithJsonSchema

from clockjack.webhooks import HANDLER, MAX_HEADER_CHARS, MAX_HEADERS

JsonSchema = dict[str, Any]
ONCE: JsonSchema = {"dst_fold": {"enum": ["first", "last", None]}}  # it runs at one of two such times
MOMENT, ZONE = "2030-01-31T08:30:00Z", "Europe/Berlin"
HEADER_NAME = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$"


def text(form: str, example: str, **bounds: Any) -> WithJsonSchema:
    """A text of this format."""
    return WithJsonSchema({"type": "string", "format": form, "examples": [example], **bounds})


def exactly_one(types: Mapping[str, str], local: JsonSchema | None = None) -> JsonSchema:
    """Of these fields one is given; the others are null or left out. `local`: what a wall clock's time demands."""
    return {"oneOf": [_only(name, types, local) for name in types]}


def at_most_one(types: Mapping[str, str], local: JsonSchema | None = None) -> JsonSchema:
    """Of these fields one is given, or none."""
    return {"oneOf": [*(_only(name, types, local) for name in types), _none(types)]}


def some(names: Sequence[str], kind: str = "string") -> JsonSchema:
    """Of these fields at least one is given."""
    return {"anyOf": [{"required": [name], "properties": {name: {"type": kind}}} for name in names]}


def _only(given: str, types: Mapping[str, str], local: JsonSchema | None) -> JsonSchema:
    properties: JsonSchema = {name: {"type": kind if name == given else "null"} for name, kind in types.items()}
    return {"required": [given], "properties": properties | (local or {} if given.endswith("_at_local") else {})}


def _none(names: Mapping[str, str]) -> JsonSchema:
    return {"properties": {name: {"type": "null"} for name in names}}


# JSON has one kind of numbers: 60.0 is a whole one, and some writers write it so
WHOLE = BeforeValidator(lambda value: int(value) if isinstance(value, float) and value.is_integer() else value)


def nullable(schema: JsonSchema) -> JsonSchema:
    """The same, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def choice(*values: str) -> WithJsonSchema:
    """One of these texts."""
    return WithJsonSchema({"type": "string", "enum": list(values)})


KINDS = dict.fromkeys(("run_at", "run_at_local", "cron", "rrule"), "string")
KINDS |= {"every_s": "integer", "in_s": "number"}
ONE_KIND = exactly_one(KINDS, ONCE)
LIMITED: JsonSchema = {
    "oneOf": [
        _none(dict.fromkeys(("limit_key", "max_concurrent", "per_second"), "null")),
        {"required": ["limit_key"], "properties": {"limit_key": {"type": "string"}}}
        | some(("max_concurrent", "per_second"), "number"),
    ]
}
ONE_ANCHOR = exactly_one({"anchor_at": "string", "anchor_at_local": "string"}, ONCE)
HEADERS: JsonSchema = {
    "type": "object",
    "maxProperties": MAX_HEADERS,
    "propertyNames": {"pattern": HEADER_NAME},
    "additionalProperties": {
        "type": "string",
        "maxLength": MAX_HEADER_CHARS,
        "pattern": r"^([!-~]([ -~\t]*[!-~])?)?$",
    },
}
URL: JsonSchema = {"type": "string", "format": "public-url", "maxLength": 2048}
CALL: JsonSchema = {  # the payload of the handler http
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "url": nullable(URL),
        "endpoint": nullable({"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,100}$"}),
        "body": {},
        "headers": nullable(HEADERS),
    },
    **exactly_one({"url": "string", "endpoint": "string"}),
}
CALLED: JsonSchema = {
    "if": {"required": ["handler"], "properties": {"handler": {"const": HANDLER}}},
    "then": {"required": ["payload"], "properties": {"payload": CALL}},
}
