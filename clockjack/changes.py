"""What a change of tasks may say: edits (RFC 7396), resuming, control of many, backfills; and what an edit writes.

Used by the HTTP API and the command line alike, so both refuse the same things in the same words.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

from clockjack import described as says
from clockjack.documents import moment as outside
from clockjack.documents import strict_json
from clockjack.ledger import bulk
from clockjack.ledger.backfill import Filled, Span
from clockjack.ledger.bulk import Order
from clockjack.ledger.tasks import EDITABLE, LIMITS, SCHEDULE
from clockjack.moments import moment
from clockjack.registration import KINDS, Moment, NewTask, Refused, columns, fields, new_task, read

FIELDS = tuple(name for name in NewTask.model_fields if name != "task_key")
FILTERS = ("task_key", "handler", "queue", "tag", "group_key", "state")
Text = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Cursor = Annotated[str, StringConstraints(max_length=100), says.text("cursor", "MS40Mg", maxLength=100)]
Row = dict[str, Any]


class Resume(BaseModel):
    """How a task is resumed."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, json_schema_extra={"examples": [{"catch_up": True}]}
    )
    catch_up: bool = False


class Filter(BaseModel):
    """Which tasks are meant; `task_key` is a prefix."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    task_key: Text | None = None
    handler: Text | None = None
    queue: Text | None = None
    tag: Text | None = None
    group_key: Text | None = None
    state: Literal["active", "paused", "cancelled", "invalid"] | None = None


def _edited() -> says.JsonSchema:
    """An edit as JSON Schema has it: the fields of a registration, each of which may be null but the handler."""
    of_new = NewTask.model_json_schema()["properties"]
    properties = {name: dict(of_new[name]) for name in FIELDS}
    for name, schema in properties.items():
        schema.pop("default", None)
        if name not in ("handler", "payload") and "anyOf" not in schema:
            properties[name] = says.nullable(schema)
    return {
        "title": "EditedTask",
        "description": "A JSON merge patch (RFC 7396) over the fields of a registration; null resets to the default.",
        "type": "object",
        "minProperties": 1,
        "additionalProperties": False,
        "properties": properties,
        **says.at_most_one(says.KINDS, says.ONCE),
        "examples": [{"cron": "0 9 * * MON-FRI", "timezone": says.ZONE, "max_lateness_s": None}],
    }


def _several() -> says.JsonSchema:
    """What a control of many says, besides its fields: which tasks, and what is for which action."""
    some, nothing = says.some(FILTERS), {"additionalProperties": {"type": "null"}}
    return {
        "allOf": [
            {
                "oneOf": [
                    {
                        "required": ["filter"],
                        "properties": {"filter": {"type": "object"} | some, "all": {"const": False}},
                    },
                    {
                        "required": ["all"],
                        "properties": {"all": {"const": True}, "filter": says.nullable({"type": "object"} | nothing)},
                    },
                ]
            },
            {
                "oneOf": [
                    {
                        "properties": {
                            "action": {"enum": ["pause", "cancel", "run"]},
                            "catch_up": {"const": False},
                            "set": {"type": "null"},
                        }
                    },
                    {"properties": {"action": {"const": "resume"}, "set": {"type": "null"}}},
                    {
                        "required": ["set"],
                        "properties": {
                            "action": {"const": "edit"},
                            "catch_up": {"const": False},
                            "set": {"type": "object"},
                        },
                    },
                ]
            },
        ],
        "examples": [{"action": "pause", "filter": {"tag": "mail"}, "dry_run": True}],
    }


EDITED = _edited()


class Bulk(BaseModel):
    """What is to be done to all tasks that match."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, json_schema_extra=_several())
    action: Literal["pause", "resume", "cancel", "run", "edit"]
    filter: Annotated[dict[str, Any], WithJsonSchema(Filter.model_json_schema())] | None = None
    all: bool = False
    dry_run: bool = False
    catch_up: bool = False
    set: Annotated[dict[str, Any], WithJsonSchema(EDITED)] | None = None
    cursor: Cursor | None = None


class Backfill(BaseModel):
    """Which occurrences are to have a run, and how many of these a second."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        json_schema_extra={
            "examples": [{"from": "2026-11-01T00:00:00Z", "to": "2026-11-02T00:00:00Z", "dry_run": True}]
        },
    )
    from_: Annotated[Moment, Field(alias="from")]
    to: Annotated[datetime, BeforeValidator(lambda value: moment(value, up=False)), says.text("date-time", says.MOMENT)]
    per_s: Annotated[int, Field(ge=1, le=1000), says.WHOLE] = 10
    dry_run: bool = False

    @property
    def span(self) -> Span:
        """As the ledger takes it."""
        return Span(self.from_, self.to, self.per_s)


def patch(document: Any, field: str = "") -> dict[str, Any]:
    """`document` as an edit: it names known fields only. Refused otherwise, under the name `field` if there is one."""
    if not isinstance(document, dict):
        raise Refused([(field, "expected a JSON object")])
    if not document:
        raise Refused([(field, "give the fields that are to change")])
    unknown = [name for name in document if name not in FIELDS]
    words = {"task_key": "is the task's identity and cannot be changed"}
    wrong = [(name[:100], words.get(name, "there is no such field")) for name in unknown]
    if wrong:
        raise Refused([(field, f"{name}: {text}") if field else (name, text) for name, text in wrong])
    return document


def values(row: Row, change: dict[str, Any], now: datetime) -> Row:
    """The column values that this edit gives to the task `row`, judged as a registration; else Refused.

    null resets a field to its default. A kind of schedule takes the place of the one that the task has.
    """
    given = [kind for kind in KINDS if change.get(kind) is not None]
    before = _document(row, change)
    if given:
        before = {name: value for name, value in before.items() if name not in KINDS}
    new = new_task(_merged(before, change))
    touched = set(change)
    if touched & set(KINDS):
        touched |= set(KINDS)
    found = fields(new, now, row["created_at"]) if touched & {*SCHEDULE, *KINDS} else columns(new)
    return {name: found[name] for name in EDITABLE if name in touched}


def edit(change: dict[str, Any]) -> Callable[[Row, datetime], Row]:
    """What the ledger asks for the values of each task that is edited so."""
    return lambda row, now: values(row, change, now)


def order(sent: Bulk, namespace: str, actor: str) -> Order:
    """`sent` as the ledger takes it; Refused when it does not say clearly which tasks are meant, or what for."""
    where = _filter(sent.filter or {})
    if sent.all and where:
        raise Refused([("all", "give either a filter or all, not both")])
    if not sent.all and not where:
        raise Refused([("filter", 'give at least one of task_key, handler, queue, tag, group_key and state, or "all"')])
    if sent.catch_up and sent.action != "resume":
        raise Refused([("catch_up", "is for the action resume")])
    if (sent.set is not None) != (sent.action == "edit"):
        raise Refused([("set", "is required with the action edit, and only there")])
    make = None if sent.set is None else edit(_sound(patch(sent.set, "set")))
    return Order(namespace, sent.action, where, actor, catch_up=sent.catch_up, values=make)


def outcome(done: bulk.Done, cursor: str | None) -> dict[str, Any]:
    """The answer to a control of many."""
    return {"matched": done.matched, "changed": done.changed, "refused": done.refused, "next_cursor": cursor}


def backfilled(task: Row, filled: list[Filled], sent: Backfill) -> dict[str, Any]:
    """The answer to a backfill: how much there is, and in a dry run each occurrence."""
    wakes = [one.wake_at for one in filled if one.wake_at]
    document: dict[str, Any] = {"task_id": task["id"], "from": outside(sent.from_), "to": outside(sent.to)}
    document |= {"per_s": sent.per_s, "dry_run": sent.dry_run, "occurrences": len(filled), "runs": len(wakes)}
    document["last_wake_at"] = outside(wakes[-1]) if wakes else None
    if sent.dry_run:
        document["items"] = [{"due_at": outside(o.due_at), "runs": o.why is None, "why": o.why} for o in filled]
    return document


def _filter(document: dict[str, Any]) -> dict[str, str | None]:
    try:
        found = read(Filter, document)
    except Refused as error:
        raise Refused([("filter", f"{name}: {text}") for name, text in error.errors]) from None
    return found.model_dump(exclude_none=True)


def _sound(change: dict[str, Any]) -> dict[str, Any]:
    """The edit, if each value could be that of some task: what no task can have is refused before the first one."""
    document = {name: value for name, value in change.items() if value is not None}
    limited = (
        {"limit_key": "any", "max_concurrent": 1} if set(LIMITS) & set(document) else {}
    )  # the tasks have the rest
    try:
        new_task({"handler": "any", "task_key": "any"} | limited | document)
    except Refused as error:
        raise Refused([("set", f"{name}: {text}") for name, text in error.errors]) from None
    if "handler" in change and change["handler"] is None:
        raise Refused([("set", "handler: is required")])
    if sum(name in document for name in KINDS) > 1:
        raise Refused([("set", f"give at most one of {', '.join(KINDS)}")])
    return change


def _document(row: Row, change: Mapping[str, Any]) -> dict[str, Any]:
    """The registration that would make this row: the inverse of registration.fields.

    The payload is there only for an edit of it. What plain SQL wrote may be no registration: the model says why.
    """
    found = {name: row[name] for name in FIELDS if name in row and row[name] is not None and name != "payload"}
    found["tags"] = [tag for tag in row["tags"].split(",") if tag]
    for name in ("exclude", *(("payload",) if "payload" in change else ())):
        if row[name] is not None:
            found[name] = _read(row[name])
    return found


def _read(text: str) -> Any:
    try:
        return strict_json(text)
    except ValueError:
        return text


def _merged(target: Any, change: Any) -> Any:
    """RFC 7396."""
    if not isinstance(change, dict):
        return change
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in change.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), value)
    return merged
