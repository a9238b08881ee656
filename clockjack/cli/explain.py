"""`clockjack explain`: a task in sentences."""

from clockjack import explaining
from clockjack.cli import session, show
from clockjack.cli.session import Failed, Json, Namespace, TaskId
from clockjack.ledger import acceptance
from clockjack.ledger.history import history


def explain(task_id: TaskId, namespace: Namespace = "default", json: Json = False) -> None:
    """What a task is to do, how it stands, what comes next, and why its latest runs were skipped, late or failed."""
    with session.ledger() as database:
        told = acceptance.read(database, lambda c: history(c, namespace, task_id))
    if told is None:
        raise Failed(f"there is no task {task_id}")
    found = explaining.explain(told, session.warnings(told.task["queue"], told.task["handler"]))
    if json:
        show.as_json(found)
        return
    for name in ("schedule", "state"):
        print(name)
        for sentence in found[name]:
            print(f"  {show.cell(sentence)}")
        print()
    print("next")
    show.table((due | {"note": due["note"] or None} for due in found["next"]), ("local", "utc", "note"))
    print("\nlatest runs")
    show.table(found["recent"], ("run_id", "due_at", "state", "sentence"))
    for warning in found["warnings"]:
        show.complain(f"warning: {warning}")
