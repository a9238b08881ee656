"""What the receiver saw: against the rows, and blindly against the due windows, as if there were no tables."""

import heapq
from collections import Counter, defaultdict

from tests.chaos.checker.case import AHEAD_US, Case, Task, at
from tests.chaos.checker.coverage import owed
from tests.chaos.checker.files import Row
from tests.chaos.checker.limits import LOST_S
from tests.chaos.checker.oracle import S


def check(case: Case) -> int:
    """I9 and I10, and the blind match; returns how many windows that had."""
    names = {task.row["id"]: task for task in case.tasks.values() if task.row}
    rows = {(run["task_id"], run["due_at"]): run for run in case.files.runs}
    for run in case.files.runs:
        task = names.get(run["task_id"])
        _of_run(case, task.key if task else str(run["task_id"]), run)
    for (task_id, due_us), effects in case.effects.items():
        owner = names.get(task_id)
        if (task_id, due_us) not in rows:
            case.report.add("invented", f"{effects[0].task_key}: an effect of a run due {at(due_us)}, which has no row")
        elif owner is not None and any(effect.task_key != owner.key for effect in effects):
            case.report.add("invented", f"{owner.key}: its run due {at(due_us)} had the payload of another task")
    return blind(case)


def _of_run(case: Case, key: str, run: Row) -> None:
    name = f"{key}, run {run['id']} due {at(run['due_at'])}"
    entered = [e for e in case.effects.get((run["task_id"], run["due_at"]), ()) if e.phase == "enter"]
    attempts = case.attempts.get(run["id"], [])
    if run["state"] == "succeeded" and not entered:
        case.report.add("effects", f"{name}: it succeeded, and had no effect")
    for number, many in Counter(effect.attempt for effect in entered).items():
        if many > 1:
            case.report.add("twice", f"{name}: attempt {number} entered its handler {many} times", many - 1)
    known = {attempt["attempt"] for attempt in attempts}
    if run["state"] in ("succeeded", "running", "cancelled"):
        known.add(run["attempt"])
    for effect in entered:
        if effect.attempt not in known:
            case.report.add("twice", f"{name}: an effect of attempt {effect.attempt}, which no row tells of")


def blind(case: Case) -> int:
    """Each window [due, due + 10 s + skew] of a task has one effect of its own; knows neither rows nor run keys."""
    moments: dict[str, list[int]] = defaultdict(list)
    for effect in case.files.effects:
        if effect.phase == "enter":
            moments[effect.task_key].append(effect.at_us)
    many = 0
    for task in case.tasks.values():
        spans = windows(case, task)
        many += len(spans)
        for due_us in unmatched(spans, sorted(moments.get(task.key, ()))):
            text = f"{task.key}, due {at(due_us + case.skew_us)}: no effect of its own in its window"
            case.report.add("missing", text)
    return many


def windows(case: Case, task: Task) -> list[tuple[int, int]]:
    """The windows in which an effect must come, whatever the rows say: [first moment, last moment]."""
    definitions = task.life.definitions
    if not task.registered() or task.serial() or any(d.get("max_runs") for d in definitions):
        return []
    found = []
    for due_us, since_us in owed(case, task).items():
        limit = case.limits.deadline(since_us)
        misses = since_us > due_us or case.limits.strained(due_us - AHEAD_US, limit)
        lax = all(d.get("run_at") is not None and not d.get("max_lateness_s") for d in definitions)
        if misses and not lax and any(d.get("misfire", "once") != "all" or d.get("max_misfires") for d in definitions):
            continue  # what is missed may be skipped
        if any(op.result != "fail" and op.f != "run_now" and since_us <= op.from_us <= limit for op in task.ops):
            continue  # what is late may be turned off meanwhile
        if case.limits.touched(since_us - AHEAD_US, limit):
            limit += LOST_S * S
        if limit + case.skew_us <= case.ended_us:
            found.append((due_us - case.skew_us, limit + case.skew_us))
    return sorted(found)


def unmatched(spans: list[tuple[int, int]], moments: list[int]) -> list[int]:
    """The beginnings of the windows that get no moment of their own when as many as possible do.

    Earliest end first is best for moments in windows.
    """
    waiting: list[tuple[int, int]] = []
    missed, index = [], 0
    for moment in moments:
        while index < len(spans) and spans[index][0] <= moment:
            heapq.heappush(waiting, (spans[index][1], spans[index][0]))
            index += 1
        while waiting and waiting[0][0] < moment:
            missed.append(heapq.heappop(waiting)[1])
        if waiting:
            heapq.heappop(waiting)
    return sorted([*missed, *(begin for _, begin in waiting), *(begin for begin, _ in spans[index:])])
