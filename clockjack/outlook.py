"""What the API tells of schedules, of the load and of the promise; for the same readers as clockjack/answers.py."""

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
