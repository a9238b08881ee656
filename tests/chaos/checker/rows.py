"""What the rows say of themselves: leases, the fence, terminal states that stay, and columns that agree."""

import re

from tests.chaos.checker.case import TERMINAL, Case, Task, at, once
from tests.chaos.checker.files import Row
from tests.chaos.checker.oracle import S

FIRST_LEASE_S, SLACK_S = 6, 1
SETTLED_S = 30
REVIVED = ("paused", "edited", "cancelled", "invalid")
STOPPED = re.compile(r"stopped after ([\d.]+) s$|the handler was stopped$")
TOLD = ("fail", "crash", "hang", "bytes")  # what a payload of the load says to make its handler fail
KEPT = ("state", "attempt", "failures", "finished_at", "result", "error", "reason", "worker", "first_started_at")


def check(case: Case) -> None:
    """I6, I7, I8, I11 and the rows' own laws."""
    names = {task.row["id"]: task.key for task in case.tasks.values() if task.row}
    told = {task.row["id"] for task in case.tasks.values() if task.row and _told_to_fail(task)}
    timeouts = {row["id"]: row["timeout_s"] for row in case.files.tasks}
    runs = {run["id"] for run in case.files.runs}
    for run in case.files.runs:
        name = f"{names.get(run['task_id'], run['task_id'])}, run {run['id']} due {at(run['due_at'])}"
        attempts = case.attempts.get(run["id"], [])
        _leases(case, name, run, attempts)
        _fence(case, name, run, attempts)
        for attempt in attempts if run["task_id"] not in told else ():
            _stopped(case, name, attempt)
        _agree(case, name, run)
        _over(case, name, run, timeouts.get(run["task_id"], 60))
    for run_id in set(case.attempts) - runs:
        case.report.add("rows", f"there are attempts of run {run_id}, which is not there")
    _stays(case, names)
    _tasks(case)


def _leases(case: Case, name: str, run: Row, attempts: list[Row]) -> None:
    spans = [(a["attempt"], a["started_at"], a["ended_at"]) for a in attempts]
    if run["state"] in ("running", "succeeded") and run["attempt"] not in {a["attempt"] for a in attempts}:
        spans.append((run["attempt"], run["started_at"], run["finished_at"]))
    for number, started, _ in spans:
        for other, _, ended in spans:
            if other < number and started is not None and ended is not None and started < ended:
                text = f"{name}: attempt {number} started {at(started)}, attempt {other} ended {at(ended)}"
                case.report.add("leases", text)
    for attempt in attempts:
        held_us = attempt["ended_at"] - (attempt["started_at"] or 0)
        if attempt["outcome"] == "lost" and attempt["started_at"] is not None and held_us < FIRST_LEASE_S * S:
            text = f"{name}: attempt {attempt['attempt']} was declared lost after {held_us / S:.3f} s, in its lease"
            case.report.add("leases", text)
        # the rows' times are the database's, the faults' the harness's: they may differ by so much
        begun_us, ended_us = (attempt["started_at"] or 0) - case.skew_us, attempt["ended_at"] + case.skew_us
        if attempt["outcome"] == "lost" and not case.limits.touched(begun_us, ended_us):
            text = (
                f"{name}: attempt {attempt['attempt']} was lost {at(attempt['ended_at'])}, and no consumer was touched"
            )
            case.report.add("twice", text)


def _fence(case: Case, name: str, run: Row, attempts: list[Row]) -> None:
    numbers = [attempt["attempt"] for attempt in attempts]
    if len(set(numbers)) < len(numbers):
        case.report.add("fence", f"{name}: two attempts have one number")
    if numbers and max(numbers) > run["attempt"]:
        case.report.add("fence", f"{name}: it is at attempt {run['attempt']}, and there is attempt {max(numbers)}")
    if run["failures"] != len(attempts):
        case.report.add("fence", f"{name}: it counts {run['failures']} failures, and there are {len(attempts)}")
    if run["state"] == "succeeded" and run["attempt"] in numbers:
        case.report.add("fence", f"{name}: attempt {run['attempt']} succeeded, and ended otherwise as well")
    if run["state"] == "failed" and run["attempt"] not in numbers:
        case.report.add("fence", f"{name}: it failed, and not by its attempt {run['attempt']}")
    if run["state"] == "succeeded":
        _holder(case, name, run)
    for attempt in attempts:
        if attempt["outcome"] == "failed":
            _failed_itself(case, name, run, attempt)


def _told_to_fail(task: Task) -> bool:
    payloads = [definition.get("payload") for definition in task.life.definitions]
    return any(not isinstance(payload, dict) or any(payload.get(word) for word in TOLD) for payload in payloads)


def _stopped(case: Case, name: str, attempt: Row) -> None:
    """A handler that nothing tells to fail does so only when it is stopped: after its lease, and not within it.

    Its consumer counts the lease from when it sent the start, the row from when the server had it: where something may
    have held the statement in between, an attempt may say that it was stopped, after no longer than it lasted.
    """
    spent_us = attempt["ended_at"] - (attempt["started_at"] or 0)
    if attempt["outcome"] == "failed" and spent_us < FIRST_LEASE_S * S:
        said = STOPPED.match(attempt.get("error") or "")
        sent_us = attempt["ended_at"] - (FIRST_LEASE_S + SLACK_S) * S - case.skew_us
        own = said is not None and float(said[1] or 0) * S <= spent_us + SLACK_S * S
        if own and case.limits.touched(sent_us, attempt["ended_at"] + case.skew_us):
            return
        text = f"{name}: attempt {attempt['attempt']} failed after {spent_us / S:.3f} s, and nothing told it to"
        case.report.add("fence", text)


def _failed_itself(case: Case, name: str, run: Row, attempt: Row) -> None:
    """A failure is written after its own attempt's effects: it was no other's."""
    effects = case.effects.get((run["task_id"], run["due_at"]), ())
    last = max((effect.at_us for effect in effects if effect.attempt == attempt["attempt"]), default=0)
    if last > attempt["ended_at"] + case.skew_us:
        text = f"{name}: attempt {attempt['attempt']} failed {at(attempt['ended_at'])}, and was at work {at(last)}"
        case.report.add("fence", text)


def _holder(case: Case, name: str, run: Row) -> None:
    """A success is written after its own attempt's effects, by the one who had them."""
    effects = case.effects.get((run["task_id"], run["due_at"]), ())
    own = [effect for effect in effects if effect.attempt == run["attempt"]]
    if not any(effect.phase == "enter" for effect in own):
        if effects:
            case.report.add("fence", f"{name}: attempt {run['attempt']} succeeded, and had no effect of its own")
        return
    last = max(effect.at_us for effect in own)
    if run["finished_at"] is not None and last > run["finished_at"] + case.skew_us:
        text = f"{name}: it succeeded {at(run['finished_at'])}, and attempt {run['attempt']} was at work {at(last)}"
        case.report.add("fence", text)


def _agree(case: Case, name: str, run: Row) -> None:
    terminal = run["state"] in TERMINAL
    if not terminal and run["state"] not in ("ready", "running"):
        case.report.add("rows", f"{name}: there is no state {run['state']!r:.40}")
    if terminal != (run["wake_at"] is None):
        case.report.add("rows", f"{name}: {run['state']}, and wake_at is {at(run['wake_at'])}")
    if terminal and run["finished_at"] is None:
        case.report.add("rows", f"{name}: {run['state']}, and never finished")
    if terminal and run["live_task_id"] is not None:
        case.report.add("rows", f"{name}: {run['state']}, and still in its task's way")
    if run["state"] in ("succeeded", "failed", "running") and run["started_at"] is None:
        case.report.add("rows", f"{name}: {run['state']}, and never started")


def _over(case: Case, name: str, run: Row, timeout_s: int) -> None:
    """What was started is over in the end (I9), and what waits is looked at."""
    if run["state"] in TERMINAL:
        return
    slack = case.limits.late_us
    if run["wake_at"] is not None and run["wake_at"] + slack < case.ended_us:
        case.report.add("unfinished", f"{name}: {run['state']}, to be looked at {at(run['wake_at'])}, and nobody did")
    began = run["started_at"] if run["state"] == "running" else None
    if began is not None and began + (timeout_s + SETTLED_S) * S < case.ended_us:
        case.report.add("unfinished", f"{name}: running since {at(began)} with a timeout of {timeout_s} s")


def _stays(case: Case, names: dict[int, str]) -> None:
    after = {run["id"]: run for run in case.files.runs}
    for before in case.files.calm:
        if before["state"] not in TERMINAL:
            continue
        name = f"{names.get(before['task_id'], before['task_id'])}, run {before['id']} due {at(before['due_at'])}"
        run = after.get(before["id"])
        if run is None:
            case.report.add("terminal", f"{name}: it was {before['state']}, and is gone")
            continue
        if before["reason"] in REVIVED and before["state"] in ("skipped", "cancelled"):
            continue
        changed = [field for field in KEPT if before.get(field) != run.get(field)]
        if changed:
            text = f"{changed[0]} was {before.get(changed[0])!r:.60}, and is {run.get(changed[0])!r:.60}"
            case.report.add("terminal", f"{name}: it was over, then {text}")


def _tasks(case: Case) -> None:
    for task in case.tasks.values():
        row = task.row
        if row is None:
            continue
        if row["next_run_at"] is not None and case.limits.deadline(row["next_run_at"]) < case.ended_us:
            case.report.add("rows", f"{task.key}: it is to be looked at {at(row['next_run_at'])}, and nobody did")
        finals = task.life.finals or frozenset()
        definitions = [definition for _, definition in task.definitions(finals)]
        if definitions and all(once(d) for d in definitions) and row["next_run_at"] is not None:
            begun = {run["due_at"] for run in task.runs if run["first_started_at"] is not None}
            if all(begun & set(task.due(state.number)) for state, _ in task.definitions(finals)):
                text = f"{task.key}: it ran once, and is due again {at(row['next_run_at'])}"
                case.report.add("rows", text)
