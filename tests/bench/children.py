"""Handlers of isolated queues: a child for each run, and warm children."""

import os
import statistics
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from clockjack.handlers import Run
from clockjack.settings import Settings
from consumers.isolation import Children
from tests.bench.measure import percentile
from tests.prove.stage import Stage

CALLERS = 2
Call = Callable[[Run], float]


def isolated(stage: Stage, number: int = 2_000, forks: int = 100, rounds: int = 5) -> dict[str, Any]:
    """Short handlers from two callers at once, by turns: runs a second, and from the call to the handler's entry."""
    stage.begin()
    settings = Settings(database_url="", redis_url="", handlers=("tests.bench.handlers",), builtin=())
    each, warm = Children(settings, 0, runs=1), Children(settings, CALLERS)
    kinds: dict[str, tuple[Call, int]] = {
        "a child a run": (lambda run: float(each.call(run, 0, lambda child: True)), forks),
        "warm children": (lambda run: float(warm.call(run, 0, lambda child: True)), number),
    }
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind, (call, times) in kinds.items():
            found[kind].append(_round(call, times))
    warm.close()
    rows = [
        {"kind": kind} | {name: round(statistics.median(one[name] for one in some), 3) for name in some[0]}
        for kind, some in found.items()
    ]
    for row in rows:
        row["ratio"] = round(row["rate_per_s"] / rows[0]["rate_per_s"], 1)
    return {"rounds": rounds, "callers": CALLERS, "load_average": os.getloadavg()[0], "kinds": rows}


def _round(call: Call, number: int) -> dict[str, float]:
    late_ms: list[float] = []
    run = Run(1, "1-1", 1, "default", None, "bench.entered", None, datetime.now(UTC), 1, 0, 60)

    def calls() -> None:
        for _ in range(number // CALLERS):
            before_s = time.monotonic()
            late_ms.append((call(run) - before_s) * 1000)

    threads = [threading.Thread(target=calls) for _ in range(CALLERS)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent_s = time.perf_counter() - begun
    late_ms.sort()
    entry = {"entry_p50_ms": percentile(late_ms, 0.5), "entry_p99_ms": percentile(late_ms, 0.99)}
    return {"rate_per_s": len(late_ms) / spent_s} | entry
