"""One chaos run, put together: each task with its life, its row and its runs; what the checks share."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tests.chaos.checker import oracle
from tests.chaos.checker.files import Effect, Files, Op, Row
from tests.chaos.checker.life import ABSENT, Life, State, ends, live
from tests.chaos.checker.limits import LOOKAHEAD_S, Limits, limits
from tests.chaos.checker.oracle import S

TERMINAL = ("succeeded", "failed", "cancelled", "skipped")
SHOWN = 10
AHEAD_US = LOOKAHEAD_S * S
ONCE = ("run_at",)
COMPARED = (
    *("handler", "queue", "run_at", "cron", "every_s", "timezone", "start_at", "end_at", "max_runs", "misfire"),
    *("max_misfires", "max_lateness_s", "overlap", "pause_after_failures", "timeout_s", "max_failures", "backoff_s"),
    *("backoff_max_s", "dst_gap", "dst_fold", "name"),
)


class Report:
    """The violations: every one is counted by its kind, the first ones of a kind are shown."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = defaultdict(int)
        self._shown: dict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, text: str, count: int = 1) -> None:
        """One more violation."""
        self.counts[kind] += count
        if len(self._shown[kind]) < SHOWN:
            self._shown[kind].append(f"{kind}: {text}")

    def lines(self) -> list[str]:
        """One line a violation; of many of one kind, the first ones and how many more there are."""
        found = []
        for kind, shown in self._shown.items():
            found += shown
            if (more := self.counts[kind] - len(shown)) > 0:
                found.append(f"{kind}: and {more} more")
        return found


@dataclass
class Task:
    """One task_key: what the clients know of it, and what the tables say."""

    key: str
    life: Life
    row: Row | None
    runs: list[Row]
    until_us: int
    _due: dict[int, dict[int, None]] = field(default_factory=dict)

    @property
    def ops(self) -> list[Op]:
        """What the clients asked for."""
        return self.life.ops

    def registered(self) -> bool:
        """Whether a registration was acknowledged."""
        return any(op.f == "register" and op.result == "ok" for op in self.ops)

    def definitions(self, states: frozenset[State]) -> Iterator[tuple[State, dict[str, Any]]]:
        """The states that have a definition, each with it."""
        return ((state, self.life.definitions[state.number]) for state in states if state.mode != ABSENT)

    def due(self, number: int) -> dict[int, None]:
        """Every occurrence of this definition in order, whatever becomes of the task; none if nobody can read it."""
        if number not in self._due:
            definition = self.life.definitions[number]
            low = 0 if once(definition) else min(op.from_us for op in self.ops) - 10 * AHEAD_US
            try:
                created = self.row["created_at"] if self.row else None
                self._due[number] = dict.fromkeys(oracle.due(definition, low, self.until_us, created))
            except oracle.Unreadable:
                self._due[number] = {}
        return self._due[number]

    @cached_property
    def own(self) -> dict[int, Row]:
        """The row of each occurrence that has one of its own."""
        return {run["due_at"]: run for run in reversed(self.runs) if run["origin"] != "manual"}

    @cached_property
    def ranges(self) -> list[Row]:
        """The rows that stand for more than one occurrence: those with an end, then that of a pause which goes on.

        A run that was claimed before the pause and skipped at its start has no end either, and stands for itself.
        """
        ended = [run for run in self.runs if run["skipped_until"] is not None]
        if not self.row or self.row["state"] != "paused":
            return ended
        return ended + [
            run
            for run in self.runs
            if run["reason"] == "paused" and run["skipped_until"] is None and not run["attempt"]
        ]

    def base(self, due_us: int, before_us: int) -> int:
        """From when on its lateness counts: from due, or from the answer that made it due only then."""
        makes_due = (op for op in self.ops if op.f not in ("pause", "cancel") and op.result != "fail")
        late = [ends(op) for op in makes_due if op.from_us <= before_us and ends(op) > due_us]
        return max([due_us, *(end for end in late)])

    def serial(self) -> bool:
        """Whether its runs may have to wait for one another."""
        return any(definition.get("overlap", "allow") != "allow" for definition in self.life.definitions)


@dataclass
class Case:
    """Everything that the checks ask for."""

    files: Files
    limits: Limits
    tasks: dict[str, Task]
    attempts: dict[int, list[Row]]
    effects: dict[tuple[int, int], list[Effect]]
    report: Report
    skew_us: int

    @property
    def ended_us(self) -> int:
        """When the tables were read."""
        return int(self.files.run["ended_us"])


def case(files: Files) -> Case:
    """The run as the checks need it."""
    by_key: dict[str, list[Op]] = defaultdict(list)
    for op in files.ops:
        by_key[op.key].append(op)
    rows = {row["task_key"]: row for row in files.tasks if row["task_key"] is not None}
    runs: dict[int, list[Row]] = defaultdict(list)
    for run in sorted(files.runs, key=lambda run: (run["due_at"], run["id"])):
        runs[run["task_id"]].append(run)
    attempts: dict[int, list[Row]] = defaultdict(list)
    for attempt in sorted(files.attempts, key=lambda row: (row["run_id"], row["attempt"])):
        attempts[attempt["run_id"]].append(attempt)
    effects: dict[tuple[int, int], list[Effect]] = defaultdict(list)
    for effect in files.effects:
        effects[effect.task_id, effect.due_us].append(effect)
    until_us = files.run["ended_us"] + 2 * AHEAD_US
    tasks = {}
    for key, ops in by_key.items():
        row = rows.get(key)
        life = live(key, ops, until_us, lambda state, value, row=row: fits(state, value, row))  # type: ignore[misc]
        tasks[key] = Task(key, life, row, runs.get(row["id"], []) if row else [], until_us)
    skew_us = int(files.run.get("skew_us", 0))
    return Case(files, limits(files), tasks, attempts, effects, Report(), skew_us)


def once(definition: Mapping[str, Any]) -> bool:
    """Whether it runs once, also when its time is past."""
    return any(definition.get(kind) is not None for kind in ONCE)


def fits(state: State, definition: Mapping[str, Any], row: Row | None) -> bool:
    """Whether the task's final row is what this state says."""
    if row is None or state.mode == ABSENT:
        return row is None and state.mode == ABSENT
    return not differs(state, definition, row)


def differs(state: State, definition: Mapping[str, Any], row: Row) -> str:
    """In words, in what the row differs from this state; "" when it does not."""
    modes = {state.mode}
    if state.mode == "active" and definition.get("pause_after_failures"):
        modes.add("paused")
    if not readable(definition):
        modes.add("invalid")
    if row["state"] not in modes:
        return f"state is {row['state']}, not {state.mode}"
    for name in COMPARED:
        if definition.get(name) is None or name not in row:
            continue
        wanted, found = definition[name], row[name]
        if name in ("run_at", "start_at", "end_at") and readable(definition):
            wanted = oracle.micros(wanted)
        if wanted != found:
            return f"{name} is {found!r:.60}, not {wanted!r:.60}"
    if "payload" in definition and row["payload"] not in texts(definition["payload"]):
        return "payload is another one"
    return ""


def readable(definition: Mapping[str, Any]) -> bool:
    """Whether there is a schedule in it."""
    try:
        oracle.due(definition, 0, 0)
    except oracle.Unreadable:
        return False
    return True


def texts(value: Any) -> set[str]:
    """The texts as which this payload may be stored: as it came by SQL, or as the API writes JSON."""
    found = {json.dumps(value), json.dumps(value, ensure_ascii=False, separators=(",", ":"))}
    return found | {value} if isinstance(value, str) else found


def at(us: int | None) -> str:
    """A moment for people: seconds and µs of the day in UTC."""
    if us is None:
        return "never"
    seconds = us // S % 86_400
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{us % S:06}"
