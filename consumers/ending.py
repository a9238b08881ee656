"""How an attempt ended: what its handler returned or raised, as the outcome that is written."""

from typing import TYPE_CHECKING, Any

from clockjack.endings import Discard, Ending, Fail, InvalidPayload, Retry, Snooze
from clockjack.ledger.finish import Outcome
from clockjack.ledger.wake import backoff_s
from consumers.handling import as_json, described

if TYPE_CHECKING:
    from consumers.execution import Job

WORDS: dict[str, type[Ending]] = {
    "retry": Retry,
    "snooze": Snooze,
    "discard": Discard,
    "invalid_payload": InvalidPayload,
    "fail": Fail,
}


class Stopped(BaseException):
    """Raised inside a handler that ran into its timeout, lost its lease or was told to stop."""


def of_value(job: "Job", value: Any) -> Outcome:
    """The handler returned this; ValueError or TypeError when it cannot be stored."""
    if isinstance(value, Ending):
        return _of_ending(job, value)
    return Outcome(job.held, "succeeded", result=as_json(value))


def of_error(job: "Job", error: BaseException, spent_s: float) -> Outcome:
    """The handler raised this, `spent_s` after it had begun."""
    if job.why is not None or isinstance(error, Stopped):
        return failed(job, job.why or "stopped", f"stopped after {spent_s:.1f} s")
    if isinstance(error, Ending):
        return _of_ending(job, error)
    return failed(job, "failed", described(error))


def failed(job: "Job", why: str, error: str, after_s: float | None = None) -> Outcome:
    """A failure: tried again after the task's back-off, or after `after_s`, unless its budget is used up.

    Of a run that was asked to stop it is the end.
    """
    if job.cancelled:
        return Outcome(job.held, "cancelled", error=error)
    row = job.row
    failures = row["failures"] + 1
    retry_in_s = None
    if failures < row["max_failures"]:
        retry_in_s = backoff_s(failures, row["backoff_s"], row["backoff_max_s"]) if after_s is None else after_s
    kind = "timeout" if why == "timeout" else "failed"
    return Outcome(job.held, kind, error=error, retry_in_s=retry_in_s)


def _of_ending(job: "Job", ending: Ending) -> Outcome:
    error = described(ending) if ending.why else type(ending).__name__
    if job.cancelled:
        return Outcome(job.held, "cancelled", error=error)
    if isinstance(ending, Snooze):
        return Outcome(job.held, "snoozed", error=error, retry_in_s=ending.after_s)
    if isinstance(ending, Retry):
        return failed(job, "failed", error, ending.after_s)
    return Outcome(job.held, "discarded" if isinstance(ending, Discard) else "failed", error=error)


def told(ending: Ending) -> tuple[str, dict[str, Any]]:
    """The ending as a child tells it: a word, and what JSON says of it."""
    word = next(word for word, kind in WORDS.items() if isinstance(ending, kind))
    value: dict[str, Any] = {"after_s": ending.after_s} if isinstance(ending, (Retry, Snooze)) else {}
    return word, value | {"why": ending.why}


def heard(word: str, value: dict[str, Any]) -> Ending:
    """The ending that a child told; ValueError, TypeError or KeyError when it is none."""
    return WORDS[word](**value)
