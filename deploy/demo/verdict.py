"""What the lines of the handlers say about the guarantees: the figures, the verdict, the document and the table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from deploy.demo.doors import Acknowledged
from deploy.demo.effects import Effects, Entry
from deploy.demo.kills import CONSUMER, Kill, held_by
from deploy.demo.metrics import STAGES
from deploy.demo.plan import SLEEPERS

MAX_LATE_MS, UNTOUCHED_P99_MS = 10_000, 1_000
KILLED = 2


@dataclass(slots=True)
class Count:
    """Keys by what became of them; lateness in ms is that of the first entry of each key."""

    expected: int
    missing: set[str]
    twice: set[str]
    twice_excused: set[str]
    early: set[str]
    touched: set[str]
    concurrent_max: int
    lateness_ms: list[float]
    untouched_ms: list[float]

    @property
    def ran(self) -> int:
        """Occurrences that were entered as often as they had to be."""
        return self.expected - len(self.missing)


def count(acknowledged: Sequence[Acknowledged], effects: Effects, kills: Sequence[Kill]) -> Count:
    """The figures of everything that was acknowledged. Nothing here was read from the tables but what `kills` held."""
    fails = {key: a.wanted.fails for a in acknowledged for key in a.keys}
    ours = {str(a.task_id) for a in acknowledged}
    unexpected = {key for key in effects.by_key if key.split("-")[0] in ours and key not in fails}
    lost, dead = held_by(kills, "consumer"), {kill.pid for kill in kills if kill.process == CONSUMER}
    missing, twice, excused = set(), set(unexpected), set()
    for key, fail in fails.items():
        entries = effects.by_key.get(key, [])
        # an attempt that was lost with its consumer counts as the failure, also when its handler was never entered
        if len(entries) < (1 if key in lost else 1 + fail):
            missing.add(key)
        if more := len(entries) - (1 + fail):
            if more == 1 and key in lost and any(entry.pid in dead for entry in entries):
                excused.add(key)
            elif more > 0:
                twice.add(key)
    first = {key: min(e.now_us for e in effects.by_key[key]) - _due_us(key) for key in fails if key in effects.by_key}
    touched = (lost | held_by(kills, "dispatcher")) & fails.keys()
    return Count(
        expected=len(fails),
        missing=missing,
        twice=twice,
        twice_excused=excused,
        early={key for key in (*fails, *unexpected) for e in effects.by_key.get(key, ()) if e.now_us < e.due_us},
        touched=touched,
        concurrent_max=_concurrent(acknowledged, effects),
        lateness_ms=sorted(us / 1000 for us in first.values()),
        untouched_ms=sorted(us / 1000 for key, us in first.items() if key not in touched),
    )


def _due_us(key: str) -> int:
    return int(key.split("-")[1])


def _concurrent(acknowledged: Sequence[Acknowledged], effects: Effects) -> int:
    """How many handlers were inside at one moment, by their entries and how long each sleeps."""
    steps: list[tuple[int, int]] = []
    for a in acknowledged:
        if sleep_ms := int(a.wanted.payload.get("sleep_ms", 0)):
            entries: list[Entry] = [e for key in a.keys for e in effects.by_key.get(key, ())]
            steps += [(e.now_us, 1) for e in entries]
            steps += [(e.now_us + 1000 * sleep_ms, -1) for e in entries]
    most = now = 0
    for _, step in sorted(steps):
        now += step
        most = max(most, now)
    return most


def percentile(ordered: Sequence[float], q: float) -> float | None:
    """The smallest value that at least this share of the values does not exceed; None of nothing."""
    return ordered[math.ceil(q * len(ordered)) - 1] if ordered else None


def guarantees(c: Count, kills: Sequence[Kill], refused: int) -> dict[str, bool]:
    """Each guarantee that the demo puts to the test, and whether it held."""
    untouched = percentile(c.untouched_ms, 0.99)
    return {
        "accepted": not refused,
        "durable": not c.missing,
        "once_each": not c.twice,
        "never_early": not c.early,
        "on_time": bool(c.lateness_ms) and c.lateness_ms[-1] <= MAX_LATE_MS,
        "on_time_untouched": untouched is not None and untouched <= UNTOUCHED_P99_MS,
        "concurrent": c.concurrent_max >= SLEEPERS,
        "killed_and_back": sum(kill.back_after_ms is not None for kill in kills) == KILLED,
    }


def document(
    registered: int,
    c: Count,
    p99_ms: Mapping[str, float | None],
    kills: Sequence[Kill],
    servers: Mapping[str, str],
    held: Mapping[str, bool],
) -> dict[str, Any]:
    """What DEMO_JSON gets."""
    lateness = {"p50": percentile(c.lateness_ms, 0.5), "p99": percentile(c.lateness_ms, 0.99)}
    lateness |= {"max": percentile(c.lateness_ms, 1.0), "untouched_p99": percentile(c.untouched_ms, 0.99)}
    return {
        "registered": registered,
        "expected": c.expected,
        "ran": c.ran,
        "missing": len(c.missing),
        "twice": len(c.twice),
        "twice_excused": len(c.twice_excused),
        "touched": len(c.touched),
        "early": len(c.early),
        "concurrent_max": c.concurrent_max,
        "lateness_ms": {name: _rounded(value) for name, value in lateness.items()},
        "stages": {
            stage.name: {
                "promise_ms": stage.promise_ms,
                "p99_ms": _rounded(p99_ms[stage.name]),
                "held": _kept(p99_ms[stage.name], stage.promise_ms),
            }
            for stage in STAGES
            if not stage.extra
        },
        "killed": [
            {"process": kill.process, "pid": kill.pid, "back_after_ms": _rounded(kill.back_after_ms)} for kill in kills
        ],
        "servers": dict(servers),
        "guarantees": dict(held),
        "verdict": all(held.values()),
    }


def table(found: Mapping[str, Any], p99_ms: Mapping[str, float | None], kills: Sequence[Kill]) -> Table:
    """The document for people: each guarantee, the lateness, each stage's promise, who was killed."""
    late, held = found["lateness_ms"], found["guarantees"]
    out = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("guarantee", "promised", "measured", ""):
        out.add_column(title, no_wrap=title != "measured")
    for name, promised, measured in (
        ("accepted", "every registration", f"{found['registered']} registered through four doors"),
        ("durable", "0 missing", f"{found['missing']} missing: {found['ran']} of {found['expected']} ran"),
        (
            "once_each",
            "0 twice",
            f"{found['twice']} twice, {found['twice_excused']} again as their consumer was killed",
        ),
        ("never_early", "0 early", f"{found['early']} early"),
        ("on_time", f"≤ {MAX_LATE_MS / 1000:g} s", f"{_ms(late['max'])} at most, with the kills"),
        (
            "on_time_untouched",
            f"p99 ≤ {UNTOUCHED_P99_MS / 1000:g} s",
            f"{_ms(late['untouched_p99'])} where nobody died",
        ),
        ("concurrent", f"≥ {SLEEPERS} at once", f"{found['concurrent_max']} at once"),
        ("killed_and_back", f"{KILLED} processes", f"{sum(k.back_after_ms is not None for k in kills)} back at work"),
    ):
        out.add_row(name.replace("_", " "), promised, measured, _mark(held[name], "held", "BROKEN"))
    out.add_section()
    out.add_row(
        "lateness", "", f"p50 {_ms(late['p50'])} · p99 {_ms(late['p99'])} · max {_ms(late['max'])}"
        f" · untouched p99 {_ms(late['untouched_p99'])}", "",
    )  # fmt: skip
    out.add_section()
    for stage in STAGES:
        p99 = p99_ms[stage.name]
        kept = _mark(_kept(p99, stage.promise_ms), "kept", "missed")
        out.add_row(f"stage {stage.name}", f"p99 ≤ {_ms(stage.promise_ms)}", f"{_ms(p99)}: {stage.says}", kept)
    out.add_section()
    for kill in kills:
        back = "not back" if kill.back_after_ms is None else f"back after {_ms(kill.back_after_ms)}"
        out.add_row(f"killed {kill.process}", "", f"pid {kill.pid}, held {len(kill.held)} runs; {back}", "")
    return out


def _mark(good: bool, yes: str, no: str) -> Text:
    return Text(yes, style="green") if good else Text(no, style="bold red")


def _kept(p99_ms: float | None, promise_ms: float) -> bool:
    return p99_ms is not None and p99_ms <= promise_ms


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _ms(value: float | None) -> str:
    if value is None:
        return "nothing measured"
    return f"{value / 1000:.2f} s" if value >= 1000 else f"{value:.3g} ms" if value < 100 else f"{value:.0f} ms"
