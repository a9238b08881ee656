"""What the API answers: for readers, for type checkers, and for its description (producer/shapes.py)."""

from typing import Annotated, Any, Generic, Literal, NotRequired, TypedDict, TypeVar

T = TypeVar("T")
# a pair in Annotated is what JSON Schema says besides
Moment = Annotated[str, ("format", "date-time")]
Clock = Annotated[str, ("format", "local-date-time")]  # of a wall clock, without an offset
Count = Annotated[int, ("minimum", 0)]
Id = Annotated[int, ("minimum", 1)]
State = Literal["active", "paused", "cancelled", "invalid"]
RunState = Literal["ready", "running", "succeeded", "failed", "cancelled", "skipped"]


class Task(TypedDict):
    """A task. Without its payload in lists, with warnings after a registration."""

    id: Id
    namespace: str
    task_key: str | None
    group_key: str | None
    offset_s: int | None
    name: str | None
    tags: list[str]
    handler: str
    queue: str
    payload: NotRequired[Any]
    timeout_s: int
    max_failures: int
    backoff_s: int
    backoff_max_s: int
    limit_key: str | None
    max_concurrent: int | None
    per_second: float | None
    run_at: Moment | None
    run_at_local: Clock | None
    cron: str | None
    every_s: int | None
    rrule: str | None
    start_at: Moment | None
    end_at: Moment | None
    max_runs: int | None
    exclude: list[str] | Any  # plain SQL may write anything
    timezone: str
    jitter_s: int
    dst_gap: str
    dst_fold: str
    misfire: str
    max_misfires: int
    max_lateness_s: int | None
    overlap: str
    pause_after_failures: int | None
    runs_claimed: Count
    state: State
    next_run_at: Moment | None
    missed_since: Moment | None
    schedule_version: Count
    version: Count
    error: str | None
    created_at: Moment
    updated_at: Moment
    warnings: NotRequired[list[str]]


class Attempt(TypedDict):
    """An attempt that did not succeed."""

    attempt: Count
    outcome: str
    worker: str | None
    started_at: Moment | None
    ended_at: Moment
    error: str | None


class TaskRun(TypedDict):
    """A run: one occurrence of a task. With its attempts where it is asked for alone."""

    id: Id
    run_key: str
    task_id: Id
    due_at: Moment
    state: RunState
    attempt: Count
    failures: Count
    origin: str
    queue: str
    worker: str | None
    schedule_version: Count
    task_version: Count
    claimed_at: Moment | None
    first_started_at: Moment | None
    started_at: Moment | None
    finished_at: Moment | None
    skipped_until: Moment | None
    result: Any
    error: str | None
    reason: str | None
    progress: Any
    cancel_asked_at: Moment | None
    lateness_ms: float | None
    attempts: NotRequired[list[Attempt]]


class Group(TypedDict):
    """One-time tasks at offsets from one moment, in the order of their times."""

    group_key: str
    anchor_at: Moment | None
    anchor_at_local: Clock | None
    timezone: str | None
    members: list[Task]
    warnings: list[str]


class Refusal(TypedDict):
    """A task, or run, that could not be changed."""

    id: Id
    why: str


class Retried(TypedDict):
    """What was done to the failed runs that match."""

    matched: Count
    retried: Count
    refused: list[Refusal]
    next_cursor: str | None


class Controlled(TypedDict):
    """What was done to all tasks that match."""

    matched: Count
    changed: Count
    refused: list[Refusal]
    next_cursor: NotRequired[str | None]


class Filled(TypedDict):
    """An occurrence in a dry run of a backfill: whether it would have a run, or why not."""

    due_at: Moment
    runs: bool
    why: str | None


# `from` is a word of Python
Backfilled = TypedDict(
    "Backfilled",
    {
        "task_id": Id,
        "from": Moment,
        "to": Moment,
        "per_s": Count,
        "dry_run": bool,
        "occurrences": Count,
        "runs": Count,
        "last_wake_at": Moment | None,
        "items": NotRequired[list[Filled]],
    },
)
Backfilled.__doc__ = "How many runs a span of the past was given."


class Registered(TypedDict):
    """A task of many that was registered."""

    index: Count
    status: Literal[200, 201]
    id: Id
    task_key: str | None
    version: Count
    next_run_at: Moment | None


class FieldError(TypedDict):
    """What is wrong: with a field of the body (an RFC 6901 pointer) or a parameter of the query."""

    pointer: NotRequired[str]
    parameter: NotRequired[str]
    detail: str


class Problem(TypedDict):
    """RFC 9457; `type` is where it is explained."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    errors: NotRequired[list[FieldError]]


class NotRegistered(TypedDict):
    """A task of many that could not be registered, and why."""

    index: Count
    problem: Problem


class RegisteredMany(TypedDict):
    """What became of many registrations, in the order of the request."""

    created: Count
    updated: Count
    refused: Count
    items: list[Registered | NotRegistered]
    warnings: list[str]


class Endpoint(TypedDict):
    """A receiver of webhooks. With its secret only where that was just made."""

    id: Id
    namespace: str
    name: str
    url: str
    header_names: list[str]
    success: str
    state: Literal["enabled", "disabled"]
    reason: str | None
    overlap_until: Moment | None
    version: Count
    created_at: Moment
    updated_at: Moment
    secret: NotRequired[str]


class Expectation(TypedDict):
    """What should be heard of at least every so often, and who is told when it is not."""

    namespace: str
    name: str
    task_id: int | None
    expect_every_s: int
    endpoint: str
    queue: str
    state: Literal["heard", "silent"]
    heard_at: Moment
    created_at: Moment


class Page(TypedDict, Generic[T]):
    """A part of a list, and where it goes on."""

    items: list[T]
    next_cursor: str | None
