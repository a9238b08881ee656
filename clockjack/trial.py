"""A simulation as it is asked for, and its answer as JSON and in words. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from clockjack import described as says
from clockjack import moments, phrases, registration, shifts
from clockjack.ledger.decide import ON_TIME
from clockjack.ledger.tasks import SCHEDULE, schedule_of
from clockjack.registration import Moment, Refused, When
from clockjack.schedules import Schedule
from clockjack.simulation import Fate, Outage, TooMany, simulate
from clockjack.wording import words

DAY = timedelta(days=1)
LATE = timedelta(seconds=1)
MAX_COUNTED = 10_000
POLICIES = ("misfire", "max_misfires", "max_lateness_s", "overlap", "max_runs")


class Away(BaseModel):
    """A time in which no dispatcher can work."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    begin: Annotated[Moment, Field(alias="from")]
    end: Annotated[Moment, Field(alias="to")]


class Window(BaseModel):
    """From when to when is simulated, and what is out in between; `duration_s` is how long each run takes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    begin: Annotated[Moment | None, Field(alias="from")] = None
    end: Annotated[Moment | None, Field(alias="to")] = None
    outages: Annotated[list[Away], Field(max_length=100)] = []
    duration_s: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = 0.0


class Trial(When, Window):
    """A schedule with its policies, and the window; the seed is the task's id."""

    model_config = ConfigDict(
        json_schema_extra=says.ONE_KIND
        | {"examples": [{"every_s": 60, "from": says.MOMENT, "to": "2030-01-31T08:40:00Z", "overlap": "skip"}]}
    )

    seed: Annotated[str, StringConstraints(max_length=200)] = ""
    misfire: Literal["skip", "once", "all"] = "once"
    max_misfires: Annotated[int, Field(ge=1, le=10_000), says.WHOLE] = 100
    max_lateness_s: Annotated[int, Field(ge=1, le=31_536_000), says.WHOLE] | None = None
    overlap: Literal["allow", "skip", "queue_one", "replace"] = "allow"
    max_runs: Annotated[int, Field(ge=1, le=4_294_967_295), says.WHOLE] | None = None


def of_schedule(trial: Trial, now: datetime, most: int) -> dict[str, Any]:
    """The answer for a schedule that no task has; `now` is the default of `from`. Refused if it cannot be used."""
    begin = trial.begin or now
    found = registration.schedule(trial, begin)
    task = {name: getattr(trial, name) for name in (*SCHEDULE, *POLICIES)}
    task |= {"run_at": found.run_at, "id": trial.seed, "created_at": begin, "runs_claimed": 0}
    return of_task(task, trial, now, most)


def of_task(task: Mapping[str, Any], window: Window, now: datetime, most: int) -> dict[str, Any]:
    """The answer for a task with these columns, taken as active; `now` is the default of `from`."""
    begin = window.begin or now
    end = window.end or begin + DAY
    if end <= begin:
        raise Refused([("to", "must be later than from")])
    outages = [(outage.begin, outage.end) for outage in window.outages]
    if any(last <= first for first, last in outages):
        raise Refused([("outages", "an outage must end later than it begins")])
    lasts = timedelta(seconds=window.duration_s)
    try:
        fates = simulate(task, begin, end, outages=outages, lasts=lasts, most=most)
    except TooMany as error:
        raise Refused([("to", str(error))]) from None
    schedule = schedule_of(task)
    rows, after = [], begin
    for fate in fates:
        rows.append(_row(schedule, task, fate, after))
        after = fate.due_at
    return {
        "words": words(schedule),
        "timezone": schedule.timezone,
        "from": moments.text(begin),
        "to": moments.text(end),
        "rows": rows,
        "summary": _summary(rows, outages),
    }


def _row(schedule: Schedule, task: Mapping[str, Any], fate: Fate, after: datetime) -> dict[str, Any]:
    alone = fate.until is None
    occurrences = 1 if alone else shifts.count(schedule, fate.due_at, fate.until or fate.due_at, MAX_COUNTED)
    shift = shifts.of_clocks(schedule, fate.due_at)
    return {
        "local": phrases.zoned(schedule.timezone, fate.due_at).isoformat(),
        "utc": moments.text(fate.due_at),
        "until": fate.until and moments.text(fate.until),
        "occurrences": occurrences,
        "stands_for": shift.stands_for if shift else 0,
        "what": _what(fate),
        "starts_at": fate.starts_at and moments.text(fate.starts_at),
        "ends_at": fate.ends_at and moments.text(fate.ends_at),
        "reason": fate.reason,
        "why": "; ".join([*_why(schedule, task, fate, occurrences), *shifts.notes(schedule, fate.due_at, after)]),
    }


def _what(fate: Fate) -> str:
    if fate.state == "skipped":
        return "skipped"
    if fate.reason == "replaced":
        return "replaced"
    if fate.waited:
        return "waits, runs"
    return "runs late" if fate.starts_at and fate.starts_at - fate.due_at > LATE else "runs"


def _why(schedule: Schedule, task: Mapping[str, Any], fate: Fate, occurrences: int) -> list[str]:
    def clock(moment: datetime) -> str:
        there, here = (phrases.zoned(schedule.timezone, at) for at in (moment, fate.due_at))
        return phrases.clock(there) if there.date() == here.date() else f"{there:%Y-%m-%d} {phrases.clock(there)}"

    found, missed = [], fate.claimed_at - fate.due_at > ON_TIME
    late = fate.starts_at - fate.due_at if fate.starts_at else timedelta(0)
    policy = f"misfire = {task['misfire']}"
    if fate.reason == "misfire":
        many = phrases.number(occurrences, "occurrence", MAX_COUNTED)
        to = f", to before {clock(fate.until)}" if fate.until and occurrences > 1 else ""
        found.append(f"{many}{to}, missed until {clock(fate.claimed_at)} ({policy})")
    elif fate.reason == "too_late":
        to = f", to before {clock(fate.until)}" if fate.until and occurrences > 1 else ""
        many = phrases.number(occurrences, "occurrence", MAX_COUNTED)
        found.append(f"{many}{to}, later than max_lateness_s = {task['max_lateness_s']}")
    elif fate.other and fate.reason == "overlap":
        found.append(f"the run due {clock(fate.other.due_at)} has not ended (overlap = {task['overlap']})")
    elif fate.other and fate.reason == "replaced" and fate.ends_at:
        found.append(f"cancelled at {clock(fate.ends_at)}, when the run due {clock(fate.other.due_at)} begins")
    elif late > LATE and fate.starts_at:
        how = f"begins at {clock(fate.starts_at)}, {phrases.span(late)} late"
        if fate.other:
            how += f": waits for the run due {clock(fate.other.due_at)} to end (overlap = {task['overlap']})"
        elif missed:
            how += f": missed until then ({policy})"
        else:
            how += ": claimed only then" if fate.claimed_at > fate.due_at else ": claimed before the outage"
        found.append(how)
    return found


def _summary(rows: Sequence[Mapping[str, Any]], outages: Sequence[Outage]) -> str:
    total = sum(row["occurrences"] for row in rows)
    whats = Counter(row["what"] for row in rows if row["what"] != "skipped")
    reasons: Counter[str] = Counter()
    for row in rows:
        if row["what"] == "skipped":
            reasons[row["reason"]] += row["occurrences"]
    names = {"runs": "on time", "runs late": "late", "waits, runs": "after another", "replaced": "replaced"}
    parts = [f"{whats[what]:,} {name}" for what, name in names.items() if whats[what]]
    ran = f"{sum(whats.values()):,} run" + (f" ({', '.join(parts)})" if parts else "")
    left = ", ".join(f"{n:,} {reason}" for reason, n in reasons.most_common())
    text = f"{phrases.number(total, 'occurrence')}: {ran}"
    text += f", {sum(reasons.values()):,} skipped ({left})" if left else ", none is skipped"
    if merged := sum(row["stands_for"] > 1 for row in rows):
        text += f"; {merged:,} merged by a clock change"
    return text + (f"; {phrases.number(len(outages), 'outage')}" if outages else "")
