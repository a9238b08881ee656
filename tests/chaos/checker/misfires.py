"""What an outage missed ran as `misfire` says: the first of it, none of it, or as much as max_misfires allows."""

from tests.chaos.checker.case import Case, Task, once
from tests.chaos.checker.files import Row
from tests.chaos.checker.oracle import S

MISSED_S = 10  # what is claimed so long after it was due was missed
BEFORE_S, SETTLED_S = 4, 30


def check(case: Case) -> int:
    """Returns how many tasks were judged; 0 where the clock was not moved."""
    moved, judged = case.files.run.get("moved"), 0
    if not moved:
        return 0
    back_us = moved["at_us"] + moved["by_us"]
    for task in case.tasks.values():
        wanted = _wanted(task, moved["at_us"], back_us)
        if wanted is None:
            continue
        judged += 1
        claims = [run["claimed_at"] for run in task.runs if (run["claimed_at"] or 0) >= back_us]
        ran = [run for run in task.runs if _caught_up(run, back_us, min(claims, default=0))]
        if len(ran) != wanted[1]:
            text = f"{task.key}: misfire is {wanted[0]}, and {len(ran)} of what the outage missed ran, not {wanted[1]}"
            case.report.add("missing", text)
    return judged


def _wanted(task: Task, from_us: int, back_us: int) -> tuple[str, int] | None:
    """Its misfire, and how many runs of what it missed there must be; None if that cannot be told."""
    states = task.life.at(from_us - BEFORE_S * S, back_us + SETTLED_S * S)
    if not task.registered() or task.serial() or not states or len(states) != 1:
        return None
    for state, definition in task.definitions(states):
        most = int(definition.get("max_misfires", 100))
        missed = sum(from_us < due < back_us - MISSED_S * S for due in task.due(state.number))
        if state.mode != "active" or once(definition) or definition.get("max_runs") or missed < 2 * most:
            return None
        misfire = definition.get("misfire", "once")
        return misfire, {"once": 1, "skip": 0, "all": most}[misfire]
    return None


def _caught_up(run: Row, back_us: int, seen_us: int) -> bool:
    """It was missed when its task was seen again, and ran."""
    late = run["due_at"] < seen_us - MISSED_S * S and (run["claimed_at"] or 0) >= back_us
    return run["origin"] == "schedule" and late and run["first_started_at"] is not None
