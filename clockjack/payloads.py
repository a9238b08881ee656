"""What a handler takes of its payload, by its signature: checked before it begins, each time.

    def send(run: Run) -> None                              # takes the run, and checks run.payload itself
    def send(mail: Mail) -> None                            # a pydantic model: the whole payload
    def send(run: Run, to: str, copies: int = 1) -> None    # named: the payload is an object with these names

A payload that does not fit is InvalidPayload: its run fails for good, because no retry would mend it.
"""

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from inspect import Parameter
from typing import TYPE_CHECKING, Any

from clockjack.endings import InvalidPayload

if TYPE_CHECKING:
    from clockjack.handlers import Run

TOLD, LOC_CHARS = 5, 60
Check = Callable[[Any], Mapping[str, Any]]


def adapted(name: str, function: Callable[..., Any], run_type: type) -> Callable[["Run"], Any]:
    """The function as one of a run alone; TypeError when its signature cannot be served."""
    parameters = _parameters(name, function)
    if parameters is None:
        return function
    runs = [p for p in parameters if _is_run(p, run_type, alone=len(parameters) == 1)]
    rest = [p for p in parameters if p not in runs]
    if len(runs) > 1:
        raise TypeError(f"handler {name!r}: {runs[0].name} and {runs[1].name} would both be the run")
    if runs and not rest:
        return function
    for p in rest:
        if p.kind is Parameter.POSITIONAL_ONLY:
            raise TypeError(f"handler {name!r}: the payload cannot name {p.name}, which is positional only")
    check = _check(name, rest)
    first = bool(runs) and runs[0].kind is Parameter.POSITIONAL_ONLY

    @functools.wraps(function)
    def call(run: "Run") -> Any:
        values = dict(check(run.payload))
        if runs and not first:
            values[runs[0].name] = run
        return function(*([run] if first else []), **values)

    return call


def _parameters(name: str, function: Callable[..., Any]) -> list[Parameter] | None:
    """Those of its signature; None: it is called with the run, whatever it takes."""
    try:
        signature = inspect.signature(function, eval_str=True)
    except NameError as error:
        found = list(inspect.signature(function).parameters.values())
        if len(found) == 1:
            return None
        raise TypeError(f"handler {name!r}: an annotation cannot be read: {error}") from None
    except (TypeError, ValueError):
        return None
    found = list(signature.parameters.values())
    return None if any(p.kind is Parameter.VAR_POSITIONAL for p in found) else found


def _is_run(parameter: Parameter, run_type: type, *, alone: bool) -> bool:
    if parameter.kind is Parameter.VAR_KEYWORD:
        return False
    untold = parameter.annotation is Parameter.empty
    return parameter.annotation is run_type or (untold and alone) or (parameter.name == "run" and _vague(parameter))


def _vague(parameter: Parameter) -> bool:
    return parameter.annotation in (Parameter.empty, Any)


def _check(name: str, rest: list[Parameter]) -> Check:
    from pydantic import BaseModel, ConfigDict, Field, create_model
    from pydantic.errors import PydanticUserError

    one = rest[0] if len(rest) == 1 else None
    if one is not None and isinstance(one.annotation, type) and issubclass(one.annotation, BaseModel):
        whole: type[BaseModel] = one.annotation
        return lambda payload: {one.name: _validated(whole, payload)}
    named = [p for p in rest if p.kind is not Parameter.VAR_KEYWORD]
    # fields by number, so that a parameter may be called as it likes: `copy`, `json`, `_private`
    fields: dict[str, Any] = {
        f"p{i}": (
            Any if p.annotation is Parameter.empty else p.annotation,
            Field(alias=p.name) if p.default is Parameter.empty else Field(default=None, alias=p.name),
        )
        for i, p in enumerate(named)
    }
    config = ConfigDict(extra="allow" if len(named) < len(rest) else "forbid")
    try:
        model = create_model("Payload", __config__=config, **fields)
    except PydanticUserError as error:
        raise TypeError(f"handler {name!r}: {str(error).splitlines()[0]}") from None

    def check(payload: Any) -> Mapping[str, Any]:
        found = _validated(model, {} if payload is None else payload)
        given = {p.name: getattr(found, f"p{i}") for i, p in enumerate(named) if f"p{i}" in found.model_fields_set}
        return given | (found.model_extra or {})

    return check


def _validated(model: Any, payload: Any) -> Any:
    """The payload as the model has it; by the rules for JSON, so that a strict model takes a date from a text."""
    from pydantic import ValidationError

    try:
        return model.model_validate_json(json.dumps(payload))
    except ValidationError as error:
        raise InvalidPayload(_told(error)) from None


def _told(error: Any) -> str:
    """What is wrong where, for people, without the values that are."""
    found = error.errors(include_url=False, include_input=False)
    lines = [f"{_place(one['loc'])}: {_message(one)}" for one in found[:TOLD]]
    if len(found) > TOLD:
        lines.append(f"and {len(found) - TOLD} more")
    return "; ".join(lines)


def _place(loc: tuple[int | str, ...]) -> str:
    return ".".join(str(part)[:LOC_CHARS] for part in loc) or "payload"


def _message(one: dict[str, Any]) -> str:
    if one["type"] == "union_tag_invalid":  # whose words repeat the tag
        return f"{one['ctx']['discriminator']} is none of {one['ctx']['expected_tags']}"
    return str(one["msg"])
