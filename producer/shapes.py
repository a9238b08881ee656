"""JSON Schema of what is answered, from the types of clockjack/answers.py, and the components that all schemas share.

An answer has the fields of its type, all of them but those that are NotRequired, and no others.
"""

import types
from typing import Annotated, Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

Schema = dict[str, Any]
PLAIN = {int: "integer", float: "number", str: "string", bool: "boolean", types.NoneType: "null"}
REF = "#/components/schemas/"


def schema(kind: Any) -> Schema:
    """The schema of a type: of plain ones, lists, dicts, choices, and TypedDicts of these."""
    origin, of = get_origin(kind), get_args(kind)
    if kind is Any:
        return {}
    if kind in PLAIN:
        return {"type": PLAIN[kind]}
    if origin is Annotated:
        return schema(of[0]) | dict(of[1:])
    if origin is NotRequired:
        return schema(of[0])
    if origin is Literal:
        return {"type": PLAIN[type(of[0])], "enum": list(of)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [schema(one) for one in of]}
    if origin is list:
        return {"type": "array", "items": schema(of[0])}
    if is_typeddict(origin or kind):
        return _fields(origin or kind, of)
    raise TypeError(f"{kind} has no schema here")


def _fields(kind: Any, of: tuple[Any, ...]) -> Schema:
    hints = get_type_hints(kind, include_extras=True)
    known = dict(zip(getattr(kind, "__parameters__", ()), of, strict=True))
    filled = {name: _filled(hint, known) for name, hint in hints.items()}
    return {
        "title": kind.__name__ + "".join(f"Of{one.__name__}" for one in of),
        "description": kind.__doc__,
        "type": "object",
        "additionalProperties": False,
        "required": [name for name, hint in hints.items() if get_origin(hint) is not NotRequired],
        "properties": {name: schema(hint) for name, hint in filled.items()},
    }


def _filled(hint: Any, known: dict[Any, Any]) -> Any:
    parameters = getattr(hint, "__parameters__", ())
    return hint[tuple(known[one] for one in parameters)] if parameters else hint


def shared(value: Any, components: dict[str, Schema]) -> Any:
    """`value` with a reference in place of each object that has a title: it is in `components`, once."""
    if isinstance(value, list):
        return [shared(one, components) for one in value]
    if not isinstance(value, dict):
        return value
    if isinstance(ref := value.get("$ref"), str):
        return {**value, "$ref": ref.replace("#/$defs/", REF)}
    for name, inner in value.get("$defs", {}).items():
        shared({"title": name} | inner, components)
    named = isinstance(value.get("title"), str) and isinstance(value.get("properties"), dict)
    found = {
        name: {field: shared(one, components) for field, one in inner.items()}
        if name == "properties" and isinstance(inner, dict)
        else shared(inner, components)
        if name != "examples"
        else inner
        for name, inner in value.items()
        if name not in ("$defs", "title") and not (name == "default" and inner is None)
    }
    if not named:
        return found
    name = value["title"]
    if components.setdefault(name, found) != found:
        raise ValueError(f"two schemas have the name {name}")
    return {"$ref": REF + name}
