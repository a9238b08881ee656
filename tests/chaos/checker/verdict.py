"""The verdict: all checks, what would make them vacuous, and the figures."""

from typing import Any

from tests.chaos.checker import coverage, durable, effects, misfires, rows, starts
from tests.chaos.checker.case import Case, case
from tests.chaos.checker.files import EXPECTED, Files
from tests.chaos.checker.starts import Start

RECOVERED_MS = 1_000


def judge(files: Files) -> dict[str, Any]:
    """The verdict as CHAOS_JSON has it."""
    one = case(files)
    report = one.report
    durable.check(one)
    due = coverage.check(one)
    begun = starts.check(one)
    rows.check(one)
    windows = effects.check(one)
    some = {"caught_up": misfires.check(one)} if files.run.get("moved") else {}
    registered = [op for op in files.ops if op.f == "register"]
    counted: dict[str, int] = {name: int(files.counters.get(name, 0)) for name in EXPECTED}
    counted["lost_attempts"] = sum(attempt["outcome"] == "lost" for attempt in files.attempts)
    ok = sum(op.result == "ok" for op in registered)
    if files.counters["deadlocks"]:
        report.add("locking", f"{files.counters['deadlocks']} deadlocks", files.counters["deadlocks"])
    _vacuous(one, counted, registered_ok=ok, due=due, effects=len(files.effects), windows=windows, **some)
    faults = _faults(one, begun)
    late_us = [start.start_us - one.limits.begins(start.base_us) for start in begun]
    return {
        "verdict": not report.counts,
        "seed": files.run["seed"],
        "seconds": round((files.run["ended_us"] - files.run["started_us"]) / 1e6, 1),
        "registered_ok": ok,
        "registered_unknown": sum(op.result == "unknown" for op in registered),
        "lost": report.counts.get("lost", 0),
        "due": due,
        "missing": report.counts.get("missing", 0),
        "twice": report.counts.get("twice", 0),
        "early": report.counts.get("early", 0),
        "max_lateness_ms": round(max([0, *late_us]) / 1000, 3),
        "max_recovery_ms": max([0.0, *(fault["max_recovery_ms"] for fault in faults.values())]),
        "deadlocks": files.counters["deadlocks"],
        **{name: counted[name] for name in EXPECTED},
        "faults": faults,
        "violations": report.lines(),
    }


def _vacuous(one: Case, counted: dict[str, int], **some: int) -> None:
    for fault in one.files.faults:
        if not fault.fired:
            one.report.add("vacuous", f"the fault {fault.name} ({fault.target}) did not happen")
    for name, least in (one.files.run.get("expect") or {}).items():
        if counted[name] < least:
            one.report.add("vacuous", f"{name} is {counted[name]}, expected at least {least}")
    for name, many in some.items():
        if many <= 0:
            one.report.add("vacuous", f"{name} is 0: nothing was tried")


def _faults(one: Case, begun: list[Start]) -> dict[str, dict[str, Any]]:
    """By the fault's name: how often it happened, the latest run of its time, and how long lateness lasted after it.

    Recovery: from the heal to the start of the last run that fell due after it, before the next fault, and was late.
    """
    found: dict[str, dict[str, Any]] = {}
    begins = sorted({fault.from_us for fault in one.files.faults})
    for fault in one.files.faults:
        figures = found.setdefault(fault.name, {"fired": 0, "max_lateness_ms": 0.0, "max_recovery_ms": 0.0})
        figures["fired"] += fault.fired
        following = min([us for us in begins if us > fault.until_us], default=one.ended_us)
        for start in begun:
            late_ms = round((start.start_us - start.base_us) / 1000, 3)
            if start.base_us <= fault.until_us and start.start_us >= fault.from_us:
                figures["max_lateness_ms"] = max(figures["max_lateness_ms"], late_ms)
            if fault.until_us <= start.base_us < following and late_ms >= RECOVERED_MS:
                recovery_ms = round((start.start_us - fault.until_us) / 1000, 3)
                figures["max_recovery_ms"] = max(figures["max_recovery_ms"], recovery_ms)
    return found
