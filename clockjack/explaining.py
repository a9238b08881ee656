"""A task in sentences: what it is to do, how it stands, what comes next, what became of its latest runs. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

from clockjack import cautions, moments, phrases, recounting, shifts, zones
from clockjack.ledger.history import History
from clockjack.ledger.tasks import done_by_sql, schedule_of
from clockjack.phrases import SECOND, at, number, span
from clockjack.schedules import Schedule, ScheduleError, is_occurrence, occurrences, validate
from clockjack.timing import wall_rule
from clockjack.wallclock import TICK
from clockjack.wording import words

NEXT = 5
Row = Mapping[str, Any]
MISFIRE = {
    "once": "Of occurrences that were missed (claimed more than 10 s after they were due), the first one runs, late;"
    " the others are skipped",
    "skip": "Occurrences that were missed (claimed more than 10 s after they were due) are skipped",
    "all": "Occurrences that were missed (claimed more than 10 s after they were due) all run, late, up to {most} in a"
    " row; the others are skipped",
}
OVERLAP = {
    "allow": "Its runs may overlap",
    "skip": "A run that is to begin while another has not ended is skipped",
    "queue_one": "A run that is to begin while another has not ended waits for it; one waits, any more are skipped",
    "replace": "A run that is to begin while another has not ended cancels the other",
}
WHO = {"sql": "plain SQL", "dispatcher": "a dispatcher"}


def explain(history: History, warnings: Sequence[str] = ()) -> dict[str, Any]:
    """The sentences about the task, as JSON; `warnings` come before those of its schedule."""
    task, now = history.task, history.now
    schedule, wrong = _sound(task)
    told = list(warnings) if task["state"] in ("active", "paused") else []
    if history.queue_paused and task["state"] == "active":
        told.append(f"the queue {task['queue']!r} is paused: nothing of it starts until it is resumed")
    if schedule and task["state"] == "active" and task["next_run_at"]:
        told += cautions.warnings(schedule, min(now, task["next_run_at"] - TICK))
    return {
        "task_id": task["id"],
        "schedule": [_sentence(text) for text in _schedule(task, schedule, wrong)],
        "state": [_sentence(text) for text in _state(history, schedule)],
        "next": list(_next(task, schedule, now)) if schedule else [],
        "recent": recounting.recount(history, schedule),
        "warnings": told,
    }


def _sound(task: Row) -> tuple[Schedule | None, str]:
    try:
        schedule = schedule_of(task)
        validate(schedule)
    except ScheduleError as error:
        return None, f"{error.field}: {error}"
    return schedule, ""


def _schedule(task: Row, schedule: Schedule | None, wrong: str) -> Iterator[str]:
    if schedule is None:
        yield f"Its schedule cannot be used: {wrong}"
        return
    yield words(schedule)
    rule = wall_rule(schedule)
    if rule and rule[1].fixed and zones.next_change(schedule.timezone, task["updated_at"]):
        gap = {"run_after": "runs right after it", "skip": "is left out"}[schedule.dst_gap]
        fold = {"first": "the first time", "last": "the second time", "both": "both times"}[schedule.dst_fold]
        yield f"When clocks change, what falls into a skipped hour {gap}; what falls into a repeated one runs {fold}"
    if schedule.once:
        yield _missed_once(task)
    else:
        yield MISFIRE[task["misfire"]].format(most=task["max_misfires"])
        if task["max_lateness_s"] is not None:
            yield f"One that would begin more than {span(task['max_lateness_s'] * SECOND)} late is skipped"
        yield OVERLAP[task["overlap"]]
    if task["max_runs"] is not None:
        yield f"At most {number(task['max_runs'], 'occurrence')} run; {task['runs_claimed']:,} had a run so far"
    if task["pause_after_failures"] is not None:
        yield f"After {number(task['pause_after_failures'], 'failed run')} in a row it pauses by itself"
    if task["limit_key"] is not None:
        bounds = [f"{task['max_concurrent']:,} at once"] if task["max_concurrent"] else []
        bounds += [f"{task['per_second']:g} a second"] if task["per_second"] else []
        yield f"Of all runs of the limit {task['limit_key']!r} at most {' and '.join(bounds)} begin; the others wait"
    if task["group_key"] is not None:
        offset = span(abs(task["offset_s"]) * SECOND)
        side = "at" if not task["offset_s"] else f"{offset} {'before' if task['offset_s'] < 0 else 'after'}"
        yield f"It belongs to the group {task['group_key']!r}, {side} its anchor"


def _missed_once(task: Row) -> str:
    if task["misfire"] == "skip":
        return "If it is claimed more than 10 s after it was due, it is skipped"
    if task["max_lateness_s"] is not None:
        return f"If it would begin more than {span(task['max_lateness_s'] * SECOND)} late, it is skipped"
    return "If it cannot run in time, it runs late, however late that is"


def _state(history: History, schedule: Schedule | None) -> Iterator[str]:
    task, now, unseen = history.task, history.now, done_by_sql(history.task)
    if task["version"] == 0:
        yield "It came by plain SQL, and no dispatcher has seen it yet"
    elif unseen:
        yield f"It was {phrases.listed(unseen)} by plain SQL, and no dispatcher has seen that yet"
    yield _standing(task, history.events) + (f": {phrases.first_line(task['error'], 1000)}" if task["error"] else "")
    if task["missed_since"] is not None and schedule:
        missed = number(shifts.count(schedule, task["missed_since"], now), "occurrence", shifts.MAX_COUNTED)
        if task["state"] == "paused":
            yield f"Since then it has missed {missed}, the first at {at(task['missed_since'])}"
        elif task["next_run_at"] == task["missed_since"]:
            yield f"It is to catch up with what it missed while it was paused: {missed}"
    yield _due(task, schedule, now)


def _standing(task: Row, events: Sequence[Row]) -> str:
    state = task["state"]
    actions = ("resumed", "edited", "registered") if state == "active" else (state,)
    event = next((event for event in events if event["action"] in actions), None)
    if event is None or task["seen_state"] != state:
        return f"It is {state}"
    by = at(event["at"])
    if event["actor"] != "clockjack":  # then the task's error says it
        by += f" by {WHO.get(event['actor'], event['actor'])}"
    if state == "active":
        return f"It is active, {event['action']} at {by}"
    return f"It was cancelled at {by}" if state == "cancelled" else f"It has been {state} since {by}"


def _due(task: Row, schedule: Schedule | None, now: datetime) -> str:
    """When somebody looks at the task next, or why nobody does."""
    due = task["next_run_at"]
    if due is None:
        return f"It is not due any more: {_over(task, schedule)}"
    if task["state"] in ("cancelled", "invalid"):
        return f"A dispatcher looks at it at {at(due)} for the last time"
    fires = schedule is not None and is_occurrence(schedule, due)
    if due < now - SECOND:
        text = f"It was due at {at(due)}, {span(now - due)} ago, and is not claimed yet"
        reasons = "no dispatcher works, the database was away, its row is locked, or its queue does not keep up"
        return f"{text}: {reasons}" if fires else f"A dispatcher was to look at it at {at(due)} and has not yet"
    if not fires:
        return f"A dispatcher looks at it at {at(due)} and then finds its next occurrence"
    if task["state"] == "paused":
        return f"The occurrence at {at(due)} is skipped unless it is resumed before"
    return f"It is due next at {at(due)}, in {span(due - now)}"


def _over(task: Row, schedule: Schedule | None) -> str:
    if task["state"] in ("cancelled", "invalid"):
        return f"it is {task['state']}"
    if task["max_runs"] is not None and task["runs_claimed"] >= task["max_runs"]:
        return f"max_runs = {task['max_runs']:,} is used up"
    if task["state"] == "paused":
        return "it is paused, and is looked at again when it is resumed"
    if schedule and schedule.once:
        return "it was for one time, which has been claimed or skipped"
    return "end_at has passed" if task["end_at"] else "the schedule has no occurrence left"


def _next(task: Row, schedule: Schedule, now: datetime) -> Iterator[dict[str, str]]:
    """The occurrences that come next; for a paused task those that would, if it were resumed now."""
    due, state, left = task["next_run_at"], task["state"], NEXT
    resumes = state == "paused" and (not schedule.once or task["missed_since"] is not None)
    if state in ("cancelled", "invalid") or (due is None and not resumes):
        return
    if task["max_runs"] is not None:
        left = min(left, max(0, task["max_runs"] - task["runs_claimed"]))
    if schedule.once:
        after = moments.FIRST - TICK
    elif due is None or state == "paused":
        after = now
    else:
        after = due - TICK if is_occurrence(schedule, due) else due
    for found in islice(occurrences(schedule, after), left):
        notes = shifts.notes(schedule, found, after)
        if found < now:
            notes.insert(0, f"due {span(now - found)} ago")
        if state == "paused":
            notes.insert(0, "only if it is resumed before" if found >= now else "if it is resumed")
        local = phrases.zoned(schedule.timezone, found)
        yield {"utc": moments.text(found), "local": local.isoformat(), "note": "; ".join(notes)}
        after = found


def _sentence(text: str) -> str:
    return text if text.endswith(("…", ".")) else f"{text}."
