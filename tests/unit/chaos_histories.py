"""A small chaos run in which every guarantee held, made up without servers: the checker must find nothing in it.

Its tests spoil one thing at a time. `good()` is a pipeline that is on time but for an outage of MySQL and the death of
one consumer; `write()` makes the files of it.
"""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

S = 1_000_000
BEGIN = 1_900_000_000 * S  # a full minute: 2030-03-17 17:46:40 UTC
ENDED = 150
OUTAGE = (60.0, 68.0)
DEATH = 30.0
Row = dict[str, Any]


def us(seconds: float) -> int:
    """The moment so many seconds after the begin."""
    return BEGIN + round(seconds * S)


class World:
    """The files, being written."""

    def __init__(self) -> None:
        self.run: Row = {
            "seed": 7, "scenario": "made up", "started_us": us(0), "calm_us": us(90), "ended_us": us(ENDED),
            "expect": {"redeliveries": 1, "lost_attempts": 1, "fenced_writes": 1, "unknown_commits": 1},
            "skew_us": 2_000, "limits": {"late_ms": 10_000},
        }  # fmt: skip
        self.history: list[Row] = []
        self.faults: list[Row] = []
        self.effects: list[Row] = []
        self.tasks: list[Row] = []
        self.runs: list[Row] = []
        self.attempts: list[Row] = []
        self.events: list[Row] = []
        self.calm: list[Row] = []
        self.counters: Row = {
            "deadlocks": 0, "lock_timeouts": 0, "redeliveries": 3, "fenced_writes": 2, "unknown_commits": 2
        }  # fmt: skip

    def op(self, key: str, f: str, at_s: float, value: Row | None = None, **other: Any) -> Row:
        """A client asked, and was answered 20 ms later."""
        task = next((task for task in self.tasks if task["task_key"] == key), None)
        line = {
            "op": len(self.history) + 1, "client": "http-1", "f": f, "key": key, "value": value or {},
            "from_us": us(at_s), "to_us": us(at_s + 0.02), "result": "ok", "task_id": task["id"] if task else None,
        }  # fmt: skip
        self.history.append(line | other)
        return self.history[-1]

    def task(self, key: str, at_s: float, client: str = "http-1", **value: Any) -> Row:
        """A registration that was acknowledged, and its row."""
        value = {"task_key": key, "handler": "chaos", "timeout_s": 20, "payload": {"task_key": key}} | value
        row = {
            "id": len(self.tasks) + 1, "state": "active", "next_run_at": None, "created_at": us(at_s + 0.01),
            **dict.fromkeys(("run_at", "cron", "every_s", "start_at", "end_at", "max_runs", "max_lateness_s")),
            **value, "payload": json.dumps(value["payload"], separators=(",", ":")),
        }  # fmt: skip
        self.tasks.append(row)
        self.op(key, "register", at_s, value, client=client)
        return row

    def ran(self, task: Row, due_us: int, start_s: float | None = None, **other: Any) -> Row:
        """A run that began on time (or when it is told) and succeeded 50 ms later."""
        start = due_us + 4_000 if start_s is None else us(start_s)
        run = {
            "id": len(self.runs) + 1, "task_id": task["id"], "due_at": due_us, "state": "succeeded", "attempt": 1,
            "failures": 0, "wake_at": None, "claimed_at": due_us - 4 * S, "first_started_at": start,
            "started_at": start, "finished_at": start + 50_000, "skipped_until": None, "live_task_id": None,
            "origin": "schedule", "reason": None, "worker": "host-1", "result": "null", "schedule_version": 1,
        } | other  # fmt: skip
        self.runs.append(run)
        if run["state"] == "succeeded":
            self.effect(task, run, run["attempt"], run["started_at"] + 1_000)
        return run

    def effect(self, task: Row, run: Row, attempt: int, at_us: int, leaves: bool = True) -> None:
        """The receiver heard of this attempt."""
        line = {"run_key": f"{task['id']}-{run['due_at']}", "attempt": attempt, "task_key": task["task_key"]}
        self.effects.append({"at_us": at_us, "phase": "enter", **line})
        if leaves:
            self.effects.append({"at_us": at_us + 30_000, "phase": "leave", **line})

    def not_run(self, task: Row, due_us: int, state: str, reason: str, until_us: int | None = None) -> Row:
        """A row that says why this occurrence did not run."""
        return self.ran(
            task, due_us, state=state, reason=reason, attempt=0, skipped_until=until_us, first_started_at=None,
            started_at=None, finished_at=due_us + 1_000, worker=None, result=None, claimed_at=due_us - 1_000,
        )  # fmt: skip

    def attempt(self, run: Row, number: int, outcome: str, start_us: int, end_us: int) -> None:
        """An attempt that did not succeed."""
        row = {"run_id": run["id"], "due_at": run["due_at"], "attempt": number, "outcome": outcome}
        self.attempts.append(row | {"started_at": start_us, "ended_at": end_us, "worker": "host-1"})

    def fault(self, name: str, target: str, from_s: float, until_s: float) -> None:
        """A fault that was seen to happen."""
        span = {"from_us": us(from_s), "until_us": us(until_s)}
        self.faults.append({"name": name, "target": target, **span, "fired": True, "detail": ""})


def good() -> World:
    """Nothing is wrong here."""
    world = World()
    world.fault("kill_consumer", "consumer.2", DEATH, DEATH + 2)
    world.fault("kill_mysqld", "mysqld", *OUTAGE)
    _every(world)
    _cron(world)
    _once(world)
    _changed(world)
    world.op("refused", "register", 5, {"handler": "chaos", "cron": "61 * * * *"}, result="fail")
    nobody = {"handler": "chaos", "run_at": us(50), "payload": {"task_key": "nobody"}}
    world.op("nobody", "register", 40, nobody, result="unknown", to_us=None)
    world.calm = deepcopy([run for run in world.runs if run["finished_at"] and run["finished_at"] < us(90)])
    return world


def _every(world: World) -> None:
    """Every 4 s until the end; the outage makes one late and skips one."""
    task = world.task("every", 1, every_s=4, start_at=us(2), end_at=us(100))
    for n in range(25):
        due = us(2 + 4 * n)
        if due == us(62):
            run = world.ran(task, due, 69.5)
            run["claimed_at"] = us(69)
        elif due == us(66):
            world.not_run(task, due, "skipped", "misfire", us(70))
        else:
            world.ran(task, due)


def _cron(world: World) -> None:
    """Each half minute in New York, registered by plain SQL; one run is lost with its consumer."""
    value = {"cron": "10,40 * * * * *", "timezone": "America/New_York", "end_at": us(99)}
    task = world.task("cron", 3, client="sql-1", **value)
    for due in (us(30), us(60), us(90)):  # the begin is 40 s after a full minute
        if due == us(30):
            run = world.ran(task, due, attempt=2, failures=1, started_at=us(52), finished_at=us(52.05))
            world.attempt(run, 1, "lost", us(30.004), us(51))
            world.effect(task, run, 1, us(30.005), leaves=False)
        else:
            world.ran(task, due, 69 if due == us(60) else None)


def _once(world: World) -> None:
    """One-time tasks: plain ones, one that is due at once, one that fails twice."""
    for n in range(10):
        due = us(10 + n)
        world.ran(world.task(f"once-{n}", 4 + n / 10, run_at=due), due)
    past = world.task("past", 20, run_at=us(19.999))
    world.ran(past, us(19.999), 20.015)
    fails = world.task("fails", 21, run_at=us(25), backoff_s=1, payload={"task_key": "fails", "fail": 2})
    run = world.ran(fails, us(25), attempt=3, failures=2, started_at=us(28), finished_at=us(28.04))
    for number, start in ((1, us(25.004)), (2, us(26.5))):
        world.attempt(run, number, "failed", start, start + 20_000)
        world.effect(fails, run, number, start + 1_000, leaves=False)
    hand = world.task("hand", 5, cron="0 0 1 1 *")
    world.op("hand", "run_now", 33)
    world.ran(hand, us(33.01), 33.02, origin="manual")


def _changed(world: World) -> None:
    """Tasks that are paused and resumed, edited, cancelled; by both doors."""
    task = world.task("paused", 1.5, every_s=5, start_at=us(5), end_at=us(55))
    world.op("paused", "pause", 17)
    world.op("paused", "resume", 33)
    for due in range(5, 60, 5):
        if due == 20:
            world.not_run(task, us(20), "skipped", "paused", us(35))
        elif not 20 < due < 35:
            world.ran(task, us(due))
    for door in ("http", "sql"):
        value = {"every_s": 10, "start_at": us(10), "end_at": us(58)}
        task = world.task(f"edited-{door}", 2, client=f"{door}-1", **value)
        world.ran(task, us(10))
        world.ran(task, us(20))
        if door == "http":
            world.not_run(task, us(30), "cancelled", "edited")["finished_at"] = us(30.6)
        new = {"every_s": 7, "start_at": us(32), "end_at": us(58)}
        changed = {"task_key": task["task_key"], "handler": "chaos", "timeout_s": 20, **new}
        changed["payload"] = {"task_key": task["task_key"]}
        world.op(task["task_key"], "edit", 30.5 if door == "http" else 26, changed, client=f"{door}-1")
        task.update(new)
        for due in (32, 39, 46, 53):
            world.ran(task, us(due), schedule_version=2)
        task = world.task(f"cancelled-{door}", 2.2, client=f"{door}-1", run_at=us(47))
        world.op(task["task_key"], "cancel", 44, client=f"{door}-1")
        world.not_run(task, us(47), "cancelled", "cancelled")
        task["state"] = "cancelled"


def write(world: World, folder: Path) -> Path:
    """The files of the world are in the folder."""
    for name in ("tables", "tables_calm"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(world.run))
    (folder / "counters.json").write_text(json.dumps(world.counters))
    lines = {
        "history": world.history, "faults": world.faults, "effects": world.effects, "tables/tasks": world.tasks,
        "tables/runs": world.runs, "tables/attempts": world.attempts, "tables/task_events": world.events,
        "tables_calm/runs": world.calm,
    }  # fmt: skip
    for name, rows in lines.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
