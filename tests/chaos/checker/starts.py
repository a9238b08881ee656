"""Never early, on time, off is off: when runs began, by the database's clock and by the receiver's."""

from collections.abc import Iterator
from typing import NamedTuple

from tests.chaos.checker.case import TERMINAL, Case, Task, at
from tests.chaos.checker.files import Op, Row
from tests.chaos.checker.life import ends
from tests.chaos.checker.oracle import S

OFF_S = 2
RACE_S = 0.5  # a start has the time at which its statement began, which may see what was committed while it ran


class Start(NamedTuple):
    """The first start of a scheduled run: what it was due, from when on it counts, and when it came."""

    task: Task
    run: Row
    base_us: int
    start_us: int


def check(case: Case) -> list[Start]:
    """I4, I5 and I13; returns the first starts whose lateness counts."""
    found = []
    for task in case.tasks.values():
        for run in task.runs:
            _early(case, task, run)
        if not task.serial():
            found += list(_first_starts(case, task))
        for op in task.ops:
            if op.result == "ok" and op.f in ("pause", "cancel", "edit", "register"):
                _off(case, task, op)
    for effect in case.files.effects:
        if effect.at_us < effect.due_us - case.skew_us:
            text = f"{effect.task_key}: an effect of the run due {at(effect.due_us)} came {at(effect.at_us)}"
            case.report.add("early", text)
    return found


def _early(case: Case, task: Task, run: Row) -> None:
    starts = [run["first_started_at"], run["started_at"]]
    starts += [attempt["started_at"] for attempt in case.attempts.get(run["id"], ())]
    early = [start for start in starts if start is not None and start < run["due_at"]]
    if early:
        text = f"{task.key}, run {run['id']} due {at(run['due_at'])} started {at(min(early))}"
        case.report.add("early", text)


def _first_starts(case: Case, task: Task) -> Iterator[Start]:
    for run in task.runs:
        start, due = run["first_started_at"], run["due_at"]
        if run["origin"] == "backfill" or (start is None and run["state"] in TERMINAL):
            continue
        base = task.base(due, case.ended_us if start is None else start)
        limit = case.limits.deadline(base)
        what = f"{task.key}, run {run['id']} due {at(due)}"
        if start is None:
            if limit < case.ended_us:
                case.report.add("late", f"{what}: {run['state']} and never started, allowed until {at(limit)}")
            continue
        if start > limit:
            late_s = (start - base) / S
            text = f"{what}: first started {at(start)}, {late_s:.3f} s late, allowed until {at(limit)}"
            case.report.add("late", text)
        yield Start(task, run, base, start)


def _off(case: Case, task: Task, op: Op) -> None:
    """Nothing of the old schedule begins 2 s after the answer, until the next answer brings it back."""
    off_us = ends(op) + OFF_S * S + case.skew_us
    back = [o.from_us for o in task.ops if o is not op and o.result != "fail" and ends(o) > op.from_us]
    until_us = min([*back, case.ended_us]) - int(RACE_S * S)
    still = _still(task, op)
    if still is None:
        return
    for run in task.runs:
        if run["origin"] == "manual" and op.f != "cancel":
            continue
        if still and run["due_at"] in still:
            continue
        starts = [run["first_started_at"]]
        if op.f == "cancel":
            starts += [attempt["started_at"] for attempt in case.attempts.get(run["id"], ())]
        begun = [start for start in starts if start is not None and off_us < start < until_us]
        if begun:
            text = f"{task.key}, run {run['id']} due {at(run['due_at'])} started {at(begun[0])}, {op.f} by {op.client}"
            case.report.add("off", f"{text} was acknowledged {at(op.to_us)}")
        for effect in case.effects.get((run["task_id"], run["due_at"]), ()) if not begun else ():
            late = off_us < effect.at_us < until_us and effect.phase == "enter"
            fresh = not case.attempts.get(run["id"]) or op.f == "cancel"
            if late and fresh and not case.limits.touched(run["due_at"], effect.at_us):
                text = f"{task.key}: an effect of the run due {at(run['due_at'])} came {at(effect.at_us)}, {op.f} by"
                case.report.add("off", f"{text} {op.client} was acknowledged {at(op.to_us)}")


def _still(task: Task, op: Op) -> set[int] | None:
    """What may start after this operation: the new schedule's; None if it turns nothing off."""
    if op.f in ("pause", "cancel"):
        return set()
    states = task.life.at(ends(op), ends(op))
    if states is None:
        return None
    return {due for state, _ in task.definitions(states) for due in task.due(state.number)}
