"""What the API answers, for readers and type checkers: the documents of docs/api.md. Moments are RFC 3339 texts."""

from typing import Any, Generic, NotRequired, TypedDict, TypeVar

T = TypeVar("T")


class Task(TypedDict):
    """A task. Without its payload in lists, with warnings after a registration."""

    id: int
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
    run_at: str | None
    run_at_local: str | None
    cron: str | None
    every_s: int | None
    rrule: str | None
    start_at: str | None
    end_at: str | None
    max_runs: int | None
    exclude: list[str] | None
    timezone: str
    jitter_s: int
    dst_gap: str
    dst_fold: str
    misfire: str
    max_misfires: int
    max_lateness_s: int | None
    overlap: str
    pause_after_failures: int | None
    runs_claimed: int
    state: str
    next_run_at: str | None
    missed_since: str | None
    schedule_version: int
    version: int
    error: str | None
    created_at: str
    updated_at: str
    warnings: NotRequired[list[str]]


class Attempt(TypedDict):
    """An attempt that did not succeed."""

    attempt: int
    outcome: str
    worker: str | None
    started_at: str | None
    ended_at: str
    error: str | None


class TaskRun(TypedDict):
    """A run: one occurrence of a task. With its attempts where it is asked for alone."""

    id: int
    run_key: str
    task_id: int
    due_at: str
    state: str
    attempt: int
    failures: int
    origin: str
    queue: str
    worker: str | None
    schedule_version: int
    task_version: int
    claimed_at: str | None
    first_started_at: str | None
    started_at: str | None
    finished_at: str | None
    skipped_until: str | None
    result: Any
    error: str | None
    reason: str | None
    progress: Any
    cancel_asked_at: str | None
    lateness_ms: float | None
    attempts: NotRequired[list[Attempt]]


class Group(TypedDict):
    """One-time tasks at offsets from one moment, in the order of their times."""

    group_key: str
    anchor_at: str | None
    anchor_at_local: str | None
    timezone: str
    members: list[Task]
    warnings: list[str]


class Explanation(TypedDict):
    """A task in sentences."""

    task_id: int
    schedule: list[str]
    state: list[str]
    next: list[Any]
    recent: list[Any]
    warnings: list[str]


class Refusal(TypedDict):
    """A task that could not be changed."""

    id: int
    why: str


class Controlled(TypedDict):
    """What was done to all tasks that match."""

    matched: int
    changed: int
    refused: list[Refusal]
    next_cursor: NotRequired[str | None]


class Backfilled(TypedDict):
    """How many runs a span of the past was given."""

    task_id: int
    to: str
    per_s: int
    dry_run: bool
    occurrences: int
    runs: int
    last_wake_at: str | None
    items: NotRequired[list[Any]]


class Forecast(TypedDict):
    """The coming load."""

    bucket: str
    counts: str
    buckets: list[dict[str, Any]]
    busiest: dict[str, Any] | None
    overdue: int
    truncated: bool


class Page(TypedDict, Generic[T]):
    """A part of a list, and where it goes on."""

    items: list[T]
    next_cursor: str | None
