"""What the API tells of schedules, load, promise, keys and queues; for who reads clockjack/answers.py, too."""

from typing import Literal, TypedDict

from clockjack.answers import Count, Id, Moment, RunState


class Coming(TypedDict):
    """An occurrence that comes next, in UTC and by the zone's clocks."""

    utc: Moment
    local: Moment
    note: str


class Became(TypedDict):
    """What became of a run, in a sentence."""

    run_id: Id
    due_at: Moment
    state: RunState
    sentence: str


class Explanation(TypedDict):
    """A task in sentences."""

    task_id: Id
    schedule: list[str]
    state: list[str]
    next: list[Coming]
    recent: list[Became]
    warnings: list[str]


class Bucket(TypedDict):
    """How many tasks are due next in the second or minute that begins then."""

    at: Moment
    due: Count


Forecast = TypedDict(
    "Forecast",
    {
        "bucket": Literal["1s", "1m"],
        "from": Moment,
        "counts": str,
        "buckets": list[Bucket],
        "busiest": Bucket | None,
        "overdue": Count,
        "truncated": bool,
    },
)
Forecast.__doc__ = "The coming load."


class Figures(TypedDict):
    """What so many are not above; null where there are none."""

    p50_ms: float | None
    p99_ms: float | None
    worst_ms: float | None


class Stages(TypedDict):
    """The parts of the lateness."""

    claim: Figures
    start: Figures


Slo = TypedDict(
    "Slo",
    {
        "from": Moment,
        "to": Moment,
        "promise_s": float,
        "runs": Count,
        "on_time": Count,
        "share_on_time": float | None,
        "waiting_late": Count,
        "lateness": Figures,
        "stages": Stages,
        "truncated": bool,
    },
)
Slo.__doc__ = "How the promise was kept."


class Occurrence(TypedDict):
    """An occurrence in UTC and by the zone's clocks."""

    utc: Moment
    local: Moment
    weekday: str


class Previewed(TypedDict):
    """What a schedule means."""

    words: str
    timezone: str
    next: list[Occurrence]
    warnings: list[str]


class Fate(TypedDict):
    """What would become of an occurrence, or of several up to before `until`."""

    local: Moment
    utc: Moment
    until: Moment | None
    occurrences: Count
    stands_for: Count
    what: Literal["runs", "runs late", "waits, runs", "replaced", "skipped"]
    starts_at: Moment | None
    ends_at: Moment | None
    reason: str | None
    why: str


Simulated = TypedDict(
    "Simulated",
    {"words": str, "timezone": str, "from": Moment, "to": Moment, "rows": list[Fate], "summary": str},
)
Simulated.__doc__ = "What would become of a schedule's occurrences."


class Key(TypedDict):
    """An API key, without what could be used to sign in. From `revoked_at` on, which may be ahead, it opens nothing."""

    key_prefix: str
    namespace: str
    name: str
    scope: Literal["read", "write", "admin"]
    per_second: float | None
    burst: int | None
    created_at: Moment
    revoked_at: Moment | None
    last_used_at: Moment | None  # exact to a minute


class MadeKey(Key):
    """A new API key: `api_key` is shown this once."""

    api_key: str


class RotatedKey(MadeKey):
    """A new API key, and the one whose place it takes."""

    former: Key


class Namespace(TypedDict):
    """What there is of a namespace: tasks of any state, counted up to 100,000, valid keys; and the key that asks."""

    namespace: str
    tasks: Count
    keys: Count
    endpoints: Count
    expectations: Count
    key: Key


class QueueState(TypedDict):
    """A queue, which all namespaces share, and what is in it. `consumers`: null if Redis cannot be asked."""

    queue: str
    state: Literal["active", "paused"]
    paused_at: Moment | None
    paused_by: str | None
    due: Count
    waiting: Count
    staged: Count
    running: Count
    oldest_due_at: Moment | None
    consumers: Count | None


class QueueStates(TypedDict):
    """The queues; `truncated`: there was more than was counted."""

    items: list[QueueState]
    truncated: bool
