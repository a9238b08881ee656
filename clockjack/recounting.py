"""What became of a task's latest runs, one sentence each. Pure."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from clockjack import documents, phrases, shifts
from clockjack.ledger.advance import LOOK_AGAIN
from clockjack.ledger.decide import ON_TIME
from clockjack.ledger.history import History
from clockjack.phrases import SECOND, at, number, span
from clockjack.schedules import Schedule

LATE = SECOND
Row = Mapping[str, Any]
CANCELLED = {
    "edited": "the schedule was edited before it began",
    "cancelled": "the task was cancelled before it began",
    "run_cancelled": "by hand, this run alone",
    "invalid": "the task is invalid",
    "deleted": "the task is gone",
}
ENDED = {"timeout": "it took longer than timeout_s", "lost": "its consumer was lost"}


def recount(history: History, schedule: Schedule | None) -> list[dict[str, Any]]:
    """The latest runs as JSON, the latest due first. `schedule`: None if it cannot be used."""
    return [
        {
            "run_id": run["id"],
            "due_at": documents.moment(run["due_at"]),
            "state": run["state"],
            "sentence": _sentence(run, history, schedule),
        }
        for run in history.runs
    ]


def _sentence(run: Row, history: History, schedule: Schedule | None) -> str:
    if run["state"] == "skipped":
        text = _skipped(run, history, schedule)
    elif run["state"] == "cancelled":
        text = _cancelled(run, history)
    elif run["state"] == "ready":
        text = _ready(run, history)
    else:
        text = _begun(run, history.now)
    origin = {"manual": "By hand", "backfill": "Backfill"}.get(run["origin"])
    text = f"{origin}: {text}" if origin else text[0].upper() + text[1:]
    if late := _late(run, history):
        text += f"; it began {late}"
    return text if text.endswith("…") else f"{text}."


def _begun(run: Row, now: datetime) -> str:
    attempt = f" (attempt {run['attempt']})" if run["attempt"] > 1 else ""
    if run["state"] == "succeeded":
        took = f" in {span(run['finished_at'] - run['started_at'])}" if run["started_at"] else ""
        again = f", after {number(run['failures'], 'failed attempt')}" if run["failures"] else ""
        return f"succeeded{took}{again}"
    if run["state"] == "failed":
        why = f" ({ENDED[run['reason']]})" if run["reason"] in ENDED else ""
        return f"failed for good after {number(run['failures'], 'failed attempt')}{why}{_error(run)}"
    text = f"running for {span(now - run['started_at'])}{attempt} on {run['worker']}"
    if run["lease_until"] is not None and run["lease_until"] < now:
        text += ", whose lease is over: the attempt is lost"
    return text


def _error(run: Row) -> str:
    return f": {phrases.first_line(run['error'])}" if run["error"] else ""


def _skipped(run: Row, history: History, schedule: Schedule | None) -> str:
    reason = run["reason"]
    if reason == "overlap":
        other = _other(run, history, run["finished_at"])
        since = f" at {at(other['first_started_at'])}" if other else ""
        return f"skipped (overlap): {_name(other)} had begun{since} and not ended"
    many = _many(run, history, schedule)
    if reason == "misfire":
        return f"skipped (misfire): {many} missed: claimed only at {at(run['claimed_at'] or run['finished_at'])}"
    if reason == "too_late":
        return f"skipped (too_late): {many} later than max_lateness_s when looked at ({at(run['finished_at'])})"
    if reason == "paused":
        still = ", and the pause lasts" if run["due_at"] == history.task["missed_since"] else ""
        return f"skipped (paused): {many} due while the task was paused{still}"
    return f"skipped ({reason})"


def _many(run: Row, history: History, schedule: Schedule | None) -> str:
    """The occurrences that the row stands for, as the subject of a sentence about the past."""
    until = run["skipped_until"]
    lasts = run["due_at"] == history.task["missed_since"]
    if until is None and not lasts:
        return "it was"
    until = until or history.now
    if schedule is None or run["schedule_version"] != history.task["schedule_version"]:
        return f"what an earlier schedule had from {at(run['due_at'])} to before {at(until)} was"
    count = shifts.count(schedule, run["due_at"], until)
    if count <= 1:
        return "it was"
    return f"{number(count, 'occurrence', shifts.MAX_COUNTED)}, from {at(run['due_at'])} to before {at(until)}, were"


def _cancelled(run: Row, history: History) -> str:
    if run["reason"] == "discarded":
        return f"discarded by its handler{_error(run)}"
    if run["reason"] == "cancelled" and run["first_started_at"]:
        return "cancelled: the task was cancelled after it had begun"
    if run["reason"] != "replaced":
        return f"cancelled: {CANCELLED.get(run['reason'], run['reason'])}"
    other = _other(run, history, run["finished_at"])
    lasted = f" after {span(run['finished_at'] - run['started_at'])}" if run["started_at"] else ""
    return f"cancelled{lasted}: {_name(other)} replaced it (overlap)"


def _ready(run: Row, history: History) -> str:
    now, wakes = history.now, run["wake_at"]
    when = f"at {at(wakes)}, in {span(wakes - now)}" if wakes > now else "now"
    if run["failures"]:
        what = f"failed {number(run['failures'], 'time')}; the next attempt is {when}"
        return what + (f" (last: {phrases.first_line(run['error'])})" if run["error"] else "")
    if run["first_started_at"] and run["lease_until"] and wakes > now and history.task["state"] != "paused":
        return f"put off by its handler: it comes again {when}"
    if run["reason"] == "limit" and not run["first_started_at"]:
        key = history.task["limit_key"]
        return f"waits for the limit {key!r}" if key else "is looked at again " + when
    if run["due_at"] > now:
        return f"claimed, and begins when it is due, in {span(run['due_at'] - now)}"
    if history.task["state"] == "paused" and run["first_started_at"]:
        return "waits for the task to be resumed"
    if run["live_task_id"] is not None and run["attempt"] and not run["first_started_at"]:
        return f"waits for {_name(_other(run, history, now))} to end (overlap)"
    if run["origin"] == "backfill" and wakes > now and not run["attempt"]:
        return f"waits for its turn {when}"
    text = f"has waited for {span(now - run['due_at'])} in the queue {run['queue']!r} for a consumer"
    ends = {"paused": "it is skipped then", "cancelled": "it is cancelled then", "invalid": "it is cancelled then"}
    state = history.task["state"]
    if run["origin"] != "schedule" or run["first_started_at"]:
        return text
    if state in ends:
        return f"{text}; {ends[state]}, because the task is {state}"
    edited = run["schedule_version"] != history.task["schedule_version"]
    return f"{text}; it is cancelled then, because the schedule was edited" if edited else text


def _other(run: Row, history: History, moment: datetime) -> Row | None:
    """The run that was in the way at the moment, or that began then: the last to begin of those that had not ended."""
    there = [
        other
        for other in history.neighbours
        if other["id"] != run["id"]
        and other["first_started_at"] <= moment
        and (other["finished_at"] is None or other["finished_at"] > moment)
    ]
    return max(there, key=lambda other: other["first_started_at"], default=None)


def _name(other: Row | None) -> str:
    return f"run {other['id']}, due {at(other['due_at'])}," if other else "another run of the task"


def _late(run: Row, history: History) -> str:
    """How late it began and what made it so; "" if it was in time, did not begin, or had no time to keep."""
    due, claimed, began = run["due_at"], run["claimed_at"], run["first_started_at"]
    if began is None or run["state"] not in ("running", "succeeded", "failed", "ready", "cancelled"):
        return ""
    late = began - due
    if run["origin"] == "backfill":
        return ""
    if late <= LATE:
        return f"{span(max(late, timedelta(0)))} after it was due" if run["state"] == "succeeded" else ""
    text = f"{span(late)} late: "
    waited = began - max(due, claimed or due)
    stages = []
    if claimed is not None and claimed - due > LATE:
        stages.append(f"claimed {span(claimed - due)} after it was due, {_why_claimed_late(run, history)}")
    if waited > LATE:
        stages.append(_why_started_late(run, history, waited))
    return text + ("; ".join(stages) or f"{span(waited)} of it in the queue {run['queue']!r}")


def _why_claimed_late(run: Row, history: History) -> str:
    due, claimed = run["due_at"], run["claimed_at"]
    if due < history.task["created_at"] <= claimed:
        return f"because the task was registered only at {at(history.task['created_at'])}"
    for event in history.events:
        if event["action"] in ("resumed", "edited") and due < event["at"] <= claimed:
            return f"because the task was {event['action']} only at {at(event['at'])}"
    if claimed - due > ON_TIME:
        return "because no dispatcher worked, the database was away or its queue did not keep up"
    return "because no dispatcher worked or the database was away"


def _why_started_late(run: Row, history: History, waited: timedelta) -> str:
    text = f"waited {span(waited)} in the queue {run['queue']!r} for a consumer"
    put_off = run["attempt"] - run["failures"] - (run["state"] in ("running", "succeeded"))
    if put_off > 0 and history.task["overlap"] != "allow" and run["origin"] != "manual":
        return f"waited {span(waited)} for another run of the task to end, or for a consumer"
    if put_off > 0:
        return f"{text}, and was handed back {number(put_off, 'time')}"
    if waited > LOOK_AGAIN:
        return f"{text}, or its message was lost and it was pushed again"
    return text
