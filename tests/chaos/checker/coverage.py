"""Every occurrence that was in force is covered by a row with a reason that holds, and no other has a row."""

from collections import Counter

from tests.chaos.checker.case import AHEAD_US, Case, Task, at, once
from tests.chaos.checker.files import Row
from tests.chaos.checker.life import ABSENT, ends

UNSEEN = ("edit", "register", "cancel", "resume")  # what plain SQL passes over by these leaves no row of its own


def check(case: Case) -> int:
    """I1, I2, I3 and I11; returns how many occurrences were owed."""
    total = 0
    for task in case.tasks.values():
        if task.registered() and task.row is not None:
            due = owed(case, task)
            total += len(due)
            for due_us, since_us in due.items():
                _covered(case, task, due_us, since_us)
            for due_us in owed(case, task, "paused"):
                if due_us not in due and _row_of(task, due_us) is None:
                    case.report.add("silent", f"{task.key}, due {at(due_us)}: it was paused, and no row says so")
        for run in task.runs:
            _asked_for(case, task, run)
    ids = {row["id"] for row in case.files.tasks}
    for run in case.files.runs:
        if run["task_id"] not in ids:
            case.report.add("invented", f"run {run['id']} due {at(run['due_at'])}: there is no task {run['task_id']}")
    for (task_id, due_us), many in Counter((run["task_id"], run["due_at"]) for run in case.files.runs).items():
        if many > 1:
            case.report.add("twice", f"task {task_id} due {at(due_us)} has {many} rows", many - 1)
    return total


def owed(case: Case, task: Task, mode: str = "active") -> dict[int, int]:
    """The occurrences that must have a row, each with the moment from when on: due, or the answer that came later.

    They fell due while the task certainly was in this mode.
    """
    found: dict[int, int] = {}
    for segment in task.life.segments:
        states = segment.states
        if not states or any(state.mode != mode for state in states):
            continue
        low, high = segment.from_us + case.skew_us, min(segment.until_us - case.skew_us, case.ended_us)
        common: dict[int, int] | None = None
        for state, definition in task.definitions(states):
            late = low if once(definition) else 0
            dues = {due: max(due, late) for due in task.due(state.number) if low <= max(due, late) < high}
            common = dues if common is None else {due: since for due, since in common.items() if due in dues}
        for due, since in (common or {}).items():
            if case.limits.deadline(since) <= case.ended_us and not _passed_over(case, task, since):
                found.setdefault(due, since)
    return found


def _passed_over(case: Case, task: Task, since_us: int) -> bool:
    """Plain SQL may have moved the task on before a dispatcher had seen that it was due."""
    by_sql = [op for op in task.ops if op.client.startswith("sql") and op.f in UNSEEN and op.result != "fail"]
    return any(since_us < op.from_us <= case.limits.deadline(since_us) for op in by_sql)


def _covered(case: Case, task: Task, due_us: int, since_us: int) -> None:
    run = _row_of(task, due_us)
    if run is None:
        if not _used_up(task, due_us):
            case.report.add("missing", f"{task.key}, due {at(due_us)}: it was in force, and no row covers it")
        return
    if run["state"] in ("skipped", "cancelled") and not _excused(case, task, run, due_us, since_us):
        text = f"{task.key}, due {at(due_us)}: {run['state']} as {run['reason']}, and nothing in the history says so"
        case.report.add("missing", text)


def _row_of(task: Task, due_us: int) -> Row | None:
    """The row that covers this occurrence: its own, or a range."""
    if own := task.own.get(due_us):
        return own
    ranges = (run for run in task.ranges if run["due_at"] < due_us)
    return next((run for run in ranges if run["skipped_until"] is None or due_us < run["skipped_until"]), None)


def _excused(case: Case, task: Task, run: Row, due_us: int, since_us: int) -> bool:
    reason, over_us = run["reason"], (run["finished_at"] or case.ended_us) + case.skew_us
    later = [op for op in task.ops if ends(op) > since_us and op.from_us <= over_us and op.result != "fail"]
    if reason in ("misfire", "too_late"):
        policy = reason == "misfire" or any(d.get("max_lateness_s") for d in task.life.definitions)
        late = since_us > due_us or case.limits.strained(due_us - AHEAD_US, due_us + case.limits.late_us)
        return policy and late
    if reason == "paused":
        states = task.life.at(since_us, over_us)
        own = any(d.get("pause_after_failures") for d in task.life.definitions)
        return own or states is None or any(state.mode == "paused" for state in states)
    if reason == "edited":
        return any(op.f in ("edit", "register") for op in later)
    if reason == "cancelled":
        return any(op.f == "cancel" for op in later)
    return reason in ("overlap", "replaced") and task.serial()


def _most(task: Task) -> list[int]:
    return [d["max_runs"] for d in task.life.definitions if isinstance(d.get("max_runs"), int)]


def _used_up(task: Task, due_us: int) -> bool:
    """Whether its max_runs were reached before this occurrence."""
    limits = _most(task)
    return bool(limits) and max(_counted(task, due_us).values(), default=0) >= max(limits)


def _counted(task: Task, before_us: int) -> Counter[int]:
    """How many of max_runs each version of the schedule has used."""
    return Counter(
        run["schedule_version"]
        for run in task.runs
        if run["origin"] == "schedule" and run["due_at"] < before_us
        if run["attempt"] > 0 or run["state"] not in ("skipped", "cancelled")
    )


def _asked_for(case: Case, task: Task, run: Row) -> None:
    what = f"{task.key}, run {run['id']} due {at(run['due_at'])}"
    if run["state"] in ("skipped", "cancelled") and not run["reason"]:
        case.report.add("missing", f"{what}: {run['state']} without a reason")
    if run["origin"] == "manual":
        return
    due_us = run["due_at"]
    states = task.life.at(due_us - AHEAD_US - case.skew_us, due_us + case.skew_us)
    whole = task.life.at(0, task.until_us)
    if states is None or whole is None:
        return
    late = {state for state, definition in task.definitions(whole) if once(definition)}
    possible = {state for state in states if state.mode not in (ABSENT, "cancelled")} | late
    if not any(due_us in task.due(state.number) for state in possible):
        case.report.add("invented", f"{what}: no schedule that was in force then has this occurrence")
    limits = _most(task)
    if limits and len(limits) == len(task.life.definitions):
        counted = _counted(task, due_us + 1)[run["schedule_version"]]
        if counted > max(limits) and (run["attempt"] > 0 or run["state"] not in ("skipped", "cancelled")):
            case.report.add("invented", f"{what}: it is number {counted} of at most {max(limits)}")
