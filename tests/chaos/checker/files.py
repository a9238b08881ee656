"""The files of one chaos run, read and judged: what is garbage raises `Garbage` with the file, the line and why."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, Any]
VERBS = ("register", "edit", "pause", "resume", "cancel", "run_now")
RESULTS = ("ok", "fail", "unknown")
EXPECTED = ("redeliveries", "lost_attempts", "fenced_writes", "unknown_commits")
HOUR_US = 3_600_000_000
LATEST_US = 7_258_118_400_000_000  # 2200


class Garbage(Exception):
    """A file that cannot be judged."""


class Op(NamedTuple):
    """What a client asked for, and what it saw."""

    op: int
    client: str
    f: str
    key: str
    value: Row
    from_us: int
    to_us: int | None
    result: str
    task_id: int | None


class Fault(NamedTuple):
    """What was broken, and when. `exempt` (optional in the file) overrules what its target says."""

    name: str
    target: str
    from_us: int
    until_us: int
    fired: bool
    exempt: bool | None


class Effect(NamedTuple):
    """What the receiver saw."""

    at_us: int
    task_id: int
    due_us: int
    attempt: int
    task_key: str
    phase: str


class Files(NamedTuple):
    """Everything that is known of one chaos run."""

    run: Row
    ops: list[Op]
    faults: list[Fault]
    effects: list[Effect]
    tasks: list[Row]
    runs: list[Row]
    attempts: list[Row]
    events: list[Row]
    calm: list[Row]
    counters: dict[str, int]


WHOLE, MAYBE, TEXT, WORD = "a whole number", "a whole number or null", "a text", "a text or null"
TASK = {
    **dict.fromkeys(("id", "created_at", "timeout_s"), WHOLE),
    "task_key": WORD,
    "state": TEXT,
    "payload": TEXT,
    "next_run_at": MAYBE,
}
RUN = {
    **dict.fromkeys(("id", "task_id", "due_at", "attempt", "failures", "schedule_version"), WHOLE),
    **dict.fromkeys(("wake_at", "claimed_at", "first_started_at", "started_at", "finished_at"), MAYBE),
    **dict.fromkeys(("skipped_until", "live_task_id"), MAYBE),
    **dict.fromkeys(("state", "origin"), TEXT),
    **dict.fromkeys(("reason", "worker"), WORD),
}
ATTEMPT = {
    **dict.fromkeys(("run_id", "due_at", "attempt", "ended_at"), WHOLE),
    "started_at": MAYBE,
    "outcome": TEXT,
    "worker": WORD,
}
EVENT = {"task_id": WHOLE, "at": WHOLE, "action": TEXT}
OP = {
    "op": WHOLE,
    "client": TEXT,
    "f": TEXT,
    "key": TEXT,
    "from_us": WHOLE,
    "to_us": MAYBE,
    "result": TEXT,
    "task_id": MAYBE,
}
FAULT = {"name": TEXT, "target": TEXT, "from_us": WHOLE, "until_us": WHOLE}
EFFECT = {"at_us": WHOLE, "run_key": TEXT, "attempt": WHOLE, "task_key": TEXT, "phase": TEXT}


def load(folder: Path) -> Files:
    """All files of the folder."""
    run = _run(_document(folder / "run.json"))
    later = _later(run)
    run |= {name: later(run[name]) for name in ("calm_us", "ended_us")}
    ops = sorted(
        _lines(folder / "history.jsonl", OP, lambda row: _moved(_op(row), later, "from_us", "to_us")),
        key=lambda op: (op.from_us, op.op),
    )
    for op in ops:
        if not run["started_us"] - HOUR_US <= op.from_us <= run["ended_us"] + HOUR_US:
            raise Garbage(f"history.jsonl: operation {op.op} was not sent within an hour of the run")
    return Files(
        run=run,
        ops=ops,
        faults=sorted(
            _lines(folder / "faults.jsonl", FAULT, lambda row: _moved(_fault(row), later, "from_us", "until_us")),
            key=lambda fault: fault.from_us,
        ),
        effects=sorted(_lines(folder / "effects.jsonl", EFFECT, lambda row: _moved(_effect(row), later, "at_us"))),
        tasks=_lines(folder / "tables/tasks.jsonl", TASK, dict),
        runs=_lines(folder / "tables/runs.jsonl", RUN, dict),
        attempts=_lines(folder / "tables/attempts.jsonl", ATTEMPT, dict),
        events=_lines(folder / "tables/task_events.jsonl", EVENT, dict),
        calm=_lines(folder / "tables_calm/runs.jsonl", RUN, dict),
        counters=_counters(_document(folder / "counters.json")),
    )


def _later(run: Row) -> Callable[[int], int]:
    """What a stamp of the harness or the receiver is on the database's clock, which was moved for good at `at_us`."""
    moved = run.get("moved") or {"at_us": 0, "by_us": 0}
    if not isinstance(moved, dict) or not all(isinstance(moved.get(name), int) for name in ("at_us", "by_us")):
        raise Garbage("run.json: moved says at_us and by_us")
    at_us, by_us = moved["at_us"], moved["by_us"]
    return lambda us: us + by_us if us >= at_us else us


def _moved(line: Any, later: Callable[[int], int], *fields: str) -> Any:
    return line._replace(**{name: later(us) for name in fields if (us := getattr(line, name)) is not None})


def _document(path: Path) -> Row:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Garbage(f"{path.name}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise Garbage(f"{path.name}: {error}") from None
    if not isinstance(value, dict):
        raise Garbage(f"{path.name}: expected one object")
    return value


def _lines(path: Path, wanted: Mapping[str, str], make: Callable[[Row], Any]) -> list[Any]:
    name = f"{path.parent.name}/{path.name}" if path.parent.name.startswith("tables") else path.name
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise Garbage(f"{name}: {error.strerror}") from None
    except ValueError as error:
        raise Garbage(f"{name}: {error}") from None
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise Garbage("expected an object")
            _judge(row, wanted)
            found.append(make(row))
        except (Garbage, ValueError, RecursionError) as error:
            raise Garbage(f"{name}, line {number}: {error}") from None
    return found


def _judge(row: Row, wanted: Mapping[str, str]) -> None:
    for field, kind in wanted.items():
        if field not in row:
            raise Garbage(f"{field} is missing")
        value, words = row[field], {WHOLE: int, MAYBE: (int, type(None)), TEXT: str, WORD: (str, type(None))}
        if not isinstance(value, words[kind]) or isinstance(value, bool):  # type: ignore[arg-type]
            raise Garbage(f"{field} is {value!r:.60}, expected {kind}")
        if isinstance(value, int) and (value < 0 or (field.endswith(("_us", "_at", "at")) and value > LATEST_US)):
            raise Garbage(f"{field} is {value}, which cannot be")


def _one_of(row: Row, field: str, words: Sequence[str]) -> None:
    if row[field] not in words:
        raise Garbage(f"{field} is {row[field]!r:.60}, expected one of {', '.join(words)}")


def _op(row: Row) -> Op:
    _one_of(row, "f", VERBS)
    _one_of(row, "result", RESULTS)
    value = row.get("value") or {}
    if not isinstance(value, dict):
        raise Garbage("value is no object")
    if row["result"] == "ok" and row["to_us"] is None:
        raise Garbage("to_us is null although the answer was ok")
    if row["to_us"] is not None and row["to_us"] < row["from_us"]:
        raise Garbage("to_us is before from_us")
    return Op(**{name: row[name] for name in Op._fields if name != "value"}, value=value)


def _fault(row: Row) -> Fault:
    exempt = row.get("exempt")
    if not isinstance(row.get("fired"), bool) or not (exempt is None or isinstance(exempt, bool)):
        raise Garbage("fired and exempt are true or false")
    if row["until_us"] < row["from_us"]:
        raise Garbage("until_us is before from_us")
    return Fault(row["name"], row["target"], row["from_us"], row["until_us"], row["fired"], exempt)


def _effect(row: Row) -> Effect:
    _one_of(row, "phase", ("enter", "leave"))
    task, dash, due = row["run_key"].partition("-")
    if not (dash and task.isascii() and task.isdigit() and due.isascii() and due.isdigit()):
        raise Garbage(f"run_key is {row['run_key']!r:.60}, expected task_id-due")
    return Effect(row["at_us"], int(task), int(due), row["attempt"], row["task_key"], row["phase"])


def _run(row: Row) -> Row:
    try:
        _judge(row, {"scenario": TEXT, "seed": WHOLE} | dict.fromkeys(("started_us", "calm_us", "ended_us"), WHOLE))
    except Garbage as error:
        raise Garbage(f"run.json: {error}") from None
    if not row["started_us"] <= row["calm_us"] <= row["ended_us"]:
        raise Garbage("run.json: started_us, calm_us and ended_us are not in order")
    if row["ended_us"] - row["started_us"] > 24 * HOUR_US:
        raise Garbage("run.json: it took more than a day")
    expect, limits = row.get("expect") or {}, row.get("limits") or {}
    if not isinstance(expect, dict) or not isinstance(limits, dict):
        raise Garbage("run.json: expect and limits are objects")
    processes = row.get("processes") or {}
    if not isinstance(processes, dict) or not all(isinstance(n, int) and 0 < n < 100 for n in processes.values()):
        raise Garbage("run.json: processes says how many dispatchers and consumers there are")
    if unknown := set(expect) - set(EXPECTED):
        raise Garbage(f"run.json: expect has {min(unknown)!r}, which nobody counts")
    for name, value in (
        *expect.items(),
        ("late_ms", limits.get("late_ms", 10_000)),
        ("skew_us", row.get("skew_us", 0)),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise Garbage(f"run.json: {name} is {value!r:.60}, expected {WHOLE}")
    return row


def _counters(row: Row) -> dict[str, int]:
    for name in ("deadlocks", *EXPECTED):
        if name != "lost_attempts" and not isinstance(row.get(name), int):
            raise Garbage(f"counters.json: {name} is {row.get(name)!r:.60}, expected {WHOLE}")
    return row
