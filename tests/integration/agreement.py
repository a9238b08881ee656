"""What must hold of a world at rest, whatever has happened in it."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from clockjack.ledger.database import Connection, rows
from tests.integration.world import OVER, RUNS, TASKS, Begun, World, said

EVENTS = "SELECT task_id, action, version FROM task_events ORDER BY id"
ATTEMPTS = "SELECT run_id, attempt, run_token, outcome FROM attempts ORDER BY run_id, attempt"


def check(world: World) -> list[str]:
    """What does not hold of a world at rest, in words; [] when all holds."""

    def body(connection: Connection) -> list[list[dict[str, Any]]]:
        return [rows(connection, statement) for statement in (TASKS, EVENTS, RUNS, ATTEMPTS)]

    tasks, events, runs, attempts = world.database.transaction(body)
    world.compare(runs)
    found = [*world.troubles, *(f"error {number}" for number in world.points.locking)]
    for task in tasks:
        found += of_task(task, [event for event in events if event["task_id"] == task["id"]])
        found += covered_once([run for run in runs if run["task_id"] == task["id"]])
    for run in runs:
        mine = [one for one in attempts if one["run_id"] == run["id"]]
        found += of_run(run, mine, [one for one in world.begun if one.row["id"] == run["id"]])
    return found


def of_task(task: Mapping[str, Any], events: list[dict[str, Any]]) -> list[str]:
    """Its trail has a version for every change, and says what the row says."""
    found = []
    changes = [event for event in events if event["action"] != "run_now"]
    if [event["version"] for event in changes] != list(range(1, len(changes) + 1)) or task["version"] != len(changes):
        found.append(f"task at version {task['version']} has the trail {[(e['action'], e['version']) for e in events]}")
    state = "active"
    for event in changes:
        reopened = event["action"] in ("registered", "edited") and state == "cancelled"
        state = {"paused": "paused", "resumed": "active", "cancelled": "cancelled"}.get(
            event["action"], "active" if reopened else state
        )
    if task["state"] != state:
        found.append(f"the task is {task['state']}, its trail says {state}")
    if task["state"] == "cancelled" and task["next_run_at"] is not None:
        found.append("a cancelled task has a next_run_at")
    return found


def covered_once(runs: list[dict[str, Any]]) -> list[str]:
    """No occurrence has two rows, or a row and a place in a range of skipped ones."""
    found = []
    planned = sorted((run for run in runs if run["origin"] == "schedule"), key=lambda run: run["due_at"])
    for run, after in pairwise(planned):
        until = run["skipped_until"] if after["schedule_version"] == run["schedule_version"] else None
        if after["due_at"] == run["due_at"] or (until is not None and after["due_at"] < until):
            found.append(f"{after['due_at']} is covered twice, by runs {run['id']} and {after['id']}")
    return found


def of_run(run: Mapping[str, Any], attempts: list[dict[str, Any]], begun: list[Begun]) -> list[str]:
    """Only holders wrote about it, and nothing was executed more often than its attempts tell."""
    found = []
    name = f"run {run['id']} ({run['state']} {run['reason'] or ''})"
    by_attempt = {one.row["attempt"]: one for one in begun}
    if (run["wake_at"] is None) != (run["state"] in OVER):
        found.append(f"{name} has the wake_at {run['wake_at']}")
    if run["failures"] != len(attempts):
        found.append(f"{name} has {run['failures']} failures and {len(attempts)} recorded attempts")
    if run["state"] == "succeeded":
        holder = by_attempt.get(run["attempt"])
        if holder is None:
            found.append(f"{name} was executed by nobody")
        elif (run["run_token"], run["result"]) != (
            holder.row["token"],
            f'"{said(holder.worker, run["attempt"])}"',
        ):
            found.append(f"{name} has the outcome {run['result']} of somebody else than {holder.worker}")
    for one in attempts:
        holder = by_attempt.get(one["attempt"])
        if one["outcome"] != "lost" and (holder is None or one["run_token"] != holder.row["token"]):
            found.append(f"{name}: attempt {one['attempt']} ({one['outcome']}) is nobody's")
        elif holder is not None and holder.again_s is not None:
            early = [n for n, other in by_attempt.items() if n > one["attempt"] and other.sent_s < holder.again_s]
            if early and one["outcome"] == "failed":
                found.append(
                    f"{name}: attempt {early[0]} began before the back-off of attempt {one['attempt']} was over"
                )
    ended = {one["attempt"] for one in attempts}
    if run["state"] == "succeeded" or run["reason"] == "replaced":
        ended.add(run["attempt"])
    if again := sorted(set(by_attempt) - ended):
        found.append(f"{name}: attempts {again} began and nothing tells of them")
    return found
