"""What a registration may say. Whatever passes here fits the columns and the CHECKs of the tables.

Used by the HTTP API and the command line alike, so both refuse the same things in the same words.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from clockjack import cautions, webhooks
from clockjack import described as says
from clockjack.documents import MAX_DEPTH, compact, depth, task
from clockjack.ledger.tasks import schedule_of
from clockjack.moments import LAST, moment, wall
from clockjack.schedules import Schedule, ScheduleError, first, next_after, validate

MAX_PAYLOAD_BYTES = 65_536
OLDEST = timedelta(days=365)
REDIS_AWAY = "Redis cannot be reached at the moment: what is due starts within 10 seconds after it is back"
KINDS = ("run_at", "in_s", "run_at_local", "cron", "every_s", "rrule")
Sent = TypeVar("Sent", bound=BaseModel)


class Refused(ValueError):
    """The registration cannot be accepted; `errors` are pairs of a field and what is wrong with it."""

    def __init__(self, errors: list[tuple[str, str]]) -> None:
        # a schedule's own messages begin with the field already
        super().__init__("; ".join(m if m.startswith(f"{f} ") else f"{f or 'body'}: {m}" for f, m in errors))
        self.errors = errors


def _printable(text: str) -> str:
    if not text.isprintable():  # control characters, lone surrogates, invisible separators
        raise ValueError("has characters that cannot be printed")
    if text != text.strip():
        raise ValueError("begins or ends with a space")  # the servers' comparison would ignore it
    return text


def in_a_path(key: str) -> str:
    """The key, which a URL can name; else ValueError."""
    if any(part in ("", ".", "..") for part in key.split("/")):
        raise ValueError("has a part between slashes that is empty, . or .., which is lost in a URL")
    if "\ufffd" in key:  # two URLs whose bytes are no UTF-8 would have one name
        raise ValueError("has characters that are not valid UTF-8")
    return key


def payload_text(value: Any) -> str:
    """The payload as it is kept; ValueError where it is too deep or too large."""
    if depth(value) > MAX_DEPTH:
        raise ValueError(f"is nested more than {MAX_DEPTH} levels deep")
    try:
        size = len((text := compact(value)).encode("utf-8"))
    except UnicodeEncodeError:
        raise ValueError("has half of a surrogate pair (\\ud800 to \\udfff)") from None
    except (TypeError, ValueError):
        raise ValueError("is not JSON") from None
    if size > MAX_PAYLOAD_BYTES:
        raise ValueError(f"has {size} bytes as JSON; at most {MAX_PAYLOAD_BYTES} are allowed")
    return text


def _within_limits(value: Any) -> Any:
    payload_text(value)
    return value


WallTime = Annotated[datetime, BeforeValidator(wall), says.text("local-date-time", says.MOMENT[:-1])]
Moment = Annotated[datetime, BeforeValidator(moment), says.text("date-time", says.MOMENT)]
Cron = Annotated[str, StringConstraints(min_length=1, max_length=255), says.text("cron", "0 9 * * MON-FRI")]
Rule = Annotated[str, StringConstraints(min_length=1, max_length=500), says.text("rrule", "FREQ=DAILY;INTERVAL=2")]
Zone = Annotated[str, StringConstraints(min_length=1, max_length=64), says.text("time-zone", says.ZONE)]
Gap = Annotated[str, StringConstraints(max_length=9), says.choice("run_after", "skip")]
Fold = Annotated[str, StringConstraints(max_length=5), says.choice("first", "last", "both")]
Dates = Annotated[str, says.text("dates", "2025-12-24/2026-01-01")]
Payload = Annotated[
    Any,
    BeforeValidator(_within_limits),
    Field(description="Any JSON, at most 64 KiB and 20 levels.", examples=[{"to": 7}]),
]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:/-]+$", min_length=1, max_length=200)]
Tag = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:/-]+$", min_length=1, max_length=24)]
LimitKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:/-]+$", min_length=1, max_length=100)]
Words = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200),
    BeforeValidator(lambda value: _printable(value) if isinstance(value, str) else value),
    says.text("printable", "order 7", minLength=1, maxLength=200),
]


class When(BaseModel):
    """A schedule as it is sent: fields are the columns' names, durations carry their unit; in_s becomes run_at."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    run_at: Moment | None = None
    in_s: Annotated[float, Field(ge=0, le=5_000_000_000, allow_inf_nan=False)] | None = None
    run_at_local: WallTime | None = None
    cron: Cron | None = None
    every_s: Annotated[int, Field(ge=1, le=31_536_000), says.WHOLE] | None = None
    rrule: Rule | None = None
    timezone: Zone = "UTC"
    start_at: Moment | None = None
    end_at: Moment | None = None
    exclude: Annotated[list[Dates], Field(max_length=400)] | None = None
    jitter_s: Annotated[int, Field(ge=0, le=86_400), says.WHOLE] = 0
    dst_gap: Gap = "run_after"
    dst_fold: Fold = "first"


class Preview(When):
    """A schedule to be shown: how many of its occurrences, and with the slots of which task (the seed is its id)."""

    model_config = ConfigDict(json_schema_extra=says.ONE_KIND | {"examples": [{"cron": "0 9 * * MON-FRI"}]})

    count: Annotated[int, Field(ge=1, le=100), says.WHOLE] = 5
    seed: Annotated[str, StringConstraints(max_length=200)] = ""


class Work(BaseModel):
    """What is to run and under which policies, as it is sent."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    handler: Name
    queue: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+$", min_length=1, max_length=64)] = "default"
    name: Words | None = None
    payload: Payload = None
    tags: Annotated[list[Tag], Field(max_length=20)] = []
    misfire: Literal["skip", "once", "all"] = "once"
    max_misfires: Annotated[int, Field(ge=1, le=10_000), says.WHOLE] = 100
    max_lateness_s: Annotated[int, Field(ge=1, le=31_536_000), says.WHOLE] | None = None
    overlap: Literal["allow", "skip", "queue_one", "replace"] = "allow"
    pause_after_failures: Annotated[int, Field(ge=1, le=1000), says.WHOLE] | None = None
    timeout_s: Annotated[int, Field(ge=1, le=86_400), says.WHOLE] = 60
    max_failures: Annotated[int, Field(ge=1, le=1000), says.WHOLE] = 5
    backoff_s: Annotated[int, Field(ge=0, le=86_400), says.WHOLE] = 2
    backoff_max_s: Annotated[int, Field(ge=0, le=604_800), says.WHOLE] = 3600
    max_concurrent: Annotated[int, Field(ge=1, le=10_000), says.WHOLE] | None = None
    per_second: Annotated[float, Field(ge=0.001, le=10_000, allow_inf_nan=False)] | None = None
    limit_key: LimitKey | None = Field(default=None, validate_default=True)

    @field_validator("limit_key")
    @classmethod
    def _limits(cls, limit_key: str | None, sent: ValidationInfo) -> str | None:
        bounds = [sent.data.get(name) for name in ("max_concurrent", "per_second")]
        if limit_key is None and any(bound is not None for bound in bounds):
            raise ValueError("is required with max_concurrent and per_second")
        if limit_key is not None and all(bound is None for bound in bounds):
            raise ValueError("needs max_concurrent or per_second")
        return limit_key

    @field_validator("payload")
    @classmethod
    def _may_be_called(cls, payload: Any, sent: ValidationInfo) -> Any:
        if sent.data.get("handler") == webhooks.HANDLER:
            webhooks.judge(payload)
        return payload


class NewTask(Work, When):
    """A registration as it is sent."""

    model_config = ConfigDict(
        json_schema_extra={
            "allOf": [says.ONE_KIND, says.LIMITED, says.CALLED],
            "examples": [
                {"handler": "mail.send", "payload": {"to": 7}, "in_s": 60},
                {"handler": "report", "cron": "0 9 * * MON-FRI", "timezone": "Europe/Berlin", "task_key": "daily"},
            ],
        }
    )

    task_key: Words | None = None
    max_runs: Annotated[int, Field(ge=1, le=4_294_967_295), says.WHOLE] | None = None


class Keyed(BaseModel):
    """A task's name in a URL; it may have slashes."""

    task_key: Annotated[Words, AfterValidator(in_a_path)]


def read(kind: type[Sent], document: Any) -> Sent:
    """`document` (read from JSON) as what `kind` says; Refused names each field that cannot be used."""
    if not isinstance(document, dict):
        raise Refused([("", "expected a JSON object")])
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=True, include_input=False)
    raise Refused([(".".join(str(part) for part in e["loc"][:1])[:100], _words(e)) for e in found])


def new_task(document: Any) -> NewTask:
    """`document` (read from JSON) as a registration; Refused names each field that cannot be used."""
    return read(NewTask, document)


def schedule(sent: When, now: datetime) -> Schedule:
    """The schedule that was sent at `now` (naive UTC), sound in itself; else Refused. It has no seed."""
    given = [kind for kind in KINDS if getattr(sent, kind) is not None]
    if len(given) != 1:
        wrong = given[1:] or ["run_at"]
        raise Refused([(field, f"give exactly one of {', '.join(KINDS[:-1])} and {KINDS[-1]}") for field in wrong])
    run_at = sent.run_at
    if sent.in_s is not None:
        run_at = min(now + timedelta(seconds=sent.in_s), LAST)
    found = Schedule(
        run_at=run_at,
        cron=sent.cron,
        every_s=sent.every_s,
        timezone=sent.timezone,
        start_at=sent.start_at,
        end_at=sent.end_at,
        anchor=now,
        rrule=sent.rrule,
        run_at_local=sent.run_at_local,
        exclude=tuple(sent.exclude) if sent.exclude else None,
        jitter_s=sent.jitter_s,
        dst_gap=sent.dst_gap,
        dst_fold=sent.dst_fold,
    )
    try:
        validate(found)
    except ScheduleError as error:
        raise Refused([(error.field, str(error))]) from None
    return found


def fields(new: NewTask, now: datetime, anchor: datetime | None = None) -> dict[str, Any]:
    """The column values of `new`, whose schedule is sound and fires after `now` (naive UTC); else Refused.

    `anchor`: from when on it counts, if that is not now.
    """
    found = schedule(new, now)
    if anchor is not None:
        found = replace(found, anchor=anchor)
    else:
        needs_payload(new)
    kind = next(name for name in KINDS if getattr(new, name) is not None)
    due = first(found) if found.once else next_after(found, now)
    if due is None:
        raise Refused([("end_at" if new.end_at else kind, "never fires: no occurrence is left")])
    if due < now - OLDEST:
        raise Refused([(kind, "too old: it lies more than a year in the past")])
    return columns(new) | {"run_at": found.run_at}


def needs_payload(new: Work) -> None:
    """Refused if the handler cannot do without a payload and none was sent."""
    if new.handler == webhooks.HANDLER and "payload" not in new.model_fields_set:
        raise Refused([("payload", "is required by the handler http")])


def columns(new: NewTask) -> dict[str, Any]:
    """The column values of `new`, whatever its schedule; without what in_s becomes."""
    values = {name: value for name, value in new.__dict__.items() if name != "in_s"}
    exclude = compact(new.exclude) if new.exclude else None
    tags = ",".join(dict.fromkeys(new.tags))
    return values | {"exclude": exclude, "tags": tags, "payload": compact(new.payload)}


def answer(row: dict[str, Any], warnings: Sequence[str]) -> str:
    """The answer to a registration: the task's row as JSON, with these warnings and those of its schedule."""
    found = list(warnings)
    if row["next_run_at"] is not None:
        before = row["next_run_at"] - timedelta(seconds=row["jitter_s"], microseconds=1)
        found += cautions.warnings(schedule_of(row), before)
    return compact(task(row) | {"warnings": found})


def unserved(served: Mapping[str, Collection[str]], queue: str, handler: str) -> list[str]:
    """What somebody who registers a task for this queue and handler should know about the consumers."""
    if queue not in served:
        return [f"no consumer serves the queue {queue!r} at the moment: its runs wait until one does"]
    if handler not in served[queue]:
        return [f"no consumer of the queue {queue!r} knows the handler {handler!r} at the moment: runs would fail"]
    return []


def _words(error: Any) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "string_pattern_mismatch":
        return "expected letters, digits and " + ("_ - ." if error["loc"][0] == "queue" else "_ - . : /")
    known = {
        "missing": "is required",
        "extra_forbidden": "there is no such field",
        "int_type": "expected a whole number",
        "string_type": "expected a text",
        "bool_type": "expected true or false",
        "list_type": "expected a list",
        "dict_type": "expected an object",
        "string_unicode": "has half of a surrogate pair (\\ud800 to \\udfff)",
        "string_too_short": "must not be empty",
    }
    if kind in known:
        return known[kind]
    if kind == "literal_error":
        return f"expected {context['expected']}"
    if kind == "value_error":
        return str(context["error"])
    return str(error["msg"]).replace("Input should be", "expected a number", 1)
