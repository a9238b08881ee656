"""What was acknowledged is there, to the byte; what was refused is not; and nothing is there that nobody asked for."""

from tests.chaos.checker.case import Case, Task, at, differs
from tests.chaos.checker.files import Op
from tests.chaos.checker.life import ABSENT, ends


def check(case: Case) -> None:
    """I12, also for runs by hand."""
    for task in case.tasks.values():
        _row(case, task)
        _by_hand(case, task)
    known = set(case.tasks)
    for row in case.files.tasks:
        if row["task_key"] not in known:
            case.report.add("invented", f"task {row['id']} with the key {row['task_key']!r:.80}: nobody registered it")


def _row(case: Case, task: Task) -> None:
    if task.row is None:
        if task.registered():
            case.report.add("lost", f"{task.key}: its registration was acknowledged, and it is not there")
        return
    if not any(op.f == "register" and op.result != "fail" for op in task.ops):
        case.report.add("invented", f"{task.key}: its registration was refused, and it is there")
        return
    for op in task.ops:
        if op.result == "ok" and op.task_id is not None and op.task_id != task.row["id"]:
            case.report.add(
                "lost", f"{task.key}: the answer to {op.f} said id {op.task_id}, its id is {task.row['id']}"
            )
    first = min(op.from_us for op in task.ops if op.f == "register" and op.result != "fail")
    if task.row["created_at"] < first - case.skew_us:
        case.report.add("invented", f"{task.key}: created {at(task.row['created_at'])}, first asked for {at(first)}")
    if task.life.lost:
        states = sorted(task.life.finals or ())
        words = [
            differs(state, task.life.definitions[state.number], task.row) for state in states if state.mode != ABSENT
        ]
        case.report.add("lost", f"{task.key}: its row is not what was acknowledged: {' or '.join(words)}")


def _by_hand(case: Case, task: Task) -> None:
    asked = [op for op in task.ops if op.f == "run_now" and op.result != "fail"]
    made = sorted(run["due_at"] for run in task.runs if run["origin"] == "manual")
    missing = []
    for op in sorted(asked, key=lambda op: (ends(op), op.result != "ok")):
        found = [due for due in made if op.from_us - case.skew_us <= due <= ends(op) + case.skew_us]
        if found:
            made.remove(found[0])
        elif op.result == "ok":
            missing.append(op)
    for op in missing:
        case.report.add("lost", f"{task.key}: the run asked for {_span(op)} was acknowledged, and is not there")
    for due in made:
        case.report.add("invented", f"{task.key}: a run by hand, due {at(due)}, that nobody asked for")


def _span(op: Op) -> str:
    return f"between {at(op.from_us)} and {at(op.to_us)}"
