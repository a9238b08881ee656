"""`python -m tests.bench [NAME …] [name=value …]`: scenarios, each printed as one JSON object on a line.

Without a name all run, in order of importance, and docs/performance.md is written: that is `make bench`. A value is an
argument of the named scenario's function, such as `python -m tests.bench steady rate=2000 seconds=60`. `--publish`
writes the page for named scenarios, too.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.bench import children, growth, idle, limits, load, report, side_by_side, waiting, webhooks
from tests.prove.stage import Stage

Figures = dict[str, Any]
FAST = ("clockjack", "bullmq", "bullmq-aof")  # the slow peers get fewer jobs, to stay within the time
LISTS = {"rates", "numbers", "in_flight"}  # by commas, also when there is one only
SLOW = ("clockjack", "celery", "dramatiq", "rq", "apscheduler")


def peers(stage: Stage, number: int = 10_000, slow_number: int = 3_000, rounds: int = 5, slow: int = 3) -> Figures:
    """Both side-by-side runs, and the medians of each system's rates; `stage` stays idle."""
    stage.end()
    fast, fast_sound = side_by_side.play(FAST, number, rounds)
    others, others_sound = side_by_side.play(SLOW, slow_number, slow)
    rounds_of = others | fast
    tables = [side_by_side.table(fast, number), side_by_side.table(others, slow_number)]
    medians = {name: statistics.median(r.rate_per_s for r in rs) for name, rs in rounds_of.items()}
    return {"table": "\n\n".join(tables), "medians": medians, "sound": fast_sound and others_sound} | {
        "rounds": {"fast": side_by_side.as_json(fast, fast), "slow": side_by_side.as_json(others, others)}
    }


def burst(stage: Stage, numbers: str = "1000,10000,20000,50000", **settings: Any) -> Figures:
    """Bursts of these sizes."""
    return {"bursts": [_fresh(stage, load.burst, number=int(n), **settings) for n in numbers.split(",")]}


def steady(stage: Stage, rates: str = "2000,8000", seconds: int = 60, search: int = 1) -> Figures:
    """These rates, and with `search` the highest that holds."""
    rated = [_fresh(stage, load.steady, rate=int(rate), seconds=seconds) for rate in rates.split(",")]
    if search and load.holds(rated[-1]):
        rated += _fresh(stage, load.highest, seconds=seconds)["tried"]
    return {"rates": rated}


def recurring(stage: Stage, rate: int = 4_000, seconds: int = 20) -> Figures:
    """Intervals and cron."""
    kinds = ("interval", "cron")
    return {"kinds": [_fresh(stage, load.recurring, kind=kind, rate=rate, seconds=seconds) for kind in kinds]}


SCENARIOS: dict[str, Callable[..., Figures]] = {
    "peers": peers,
    "burst": burst,
    "steady": steady,
    "entry": load.entry,
    "herd": load.herd,
    "idle": idle.idle,
    "webhooks": webhooks.webhooks,
    "waiting": waiting.waiting,
    "isolated": children.isolated,
    "recurring": recurring,
    "growth": growth.growth,
    "scale": load.scale,
    "limits": limits.limits,
}


def main(words: list[str]) -> int:
    """The scenarios were run; 0 only if each came to its end with every run executed exactly once."""
    values = dict(word.split("=", 1) for word in words if "=" in word)
    names = [word for word in words if "=" not in word and not word.startswith("-")]
    if unknown := set(names) - set(SCENARIOS):
        print(f"no scenario {', '.join(sorted(unknown))}; there are: {', '.join(SCENARIOS)}", file=sys.stderr)
        return 2
    if values and len(names) != 1:
        print("name=value belongs to one scenario: name it, and no other", file=sys.stderr)
        return 2
    given = {name: int(value) if value.isdigit() and name not in LISTS else value for name, value in values.items()}
    stage, sound = Stage(), True
    try:
        for name in names or SCENARIOS:
            begun = time.monotonic()
            try:
                figures = _fresh(stage, SCENARIOS[name], **given)
            except Exception as error:  # the others still count
                said = str(error).partition("\n")[0][:500]
                print(f"{name}: {type(error).__name__}: {said}", file=sys.stderr, flush=True)
                sound = False
                continue
            sound &= figures.get("sound", True)
            print(json.dumps({"scenario": name} | figures), flush=True)
            print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
            if not names or "--publish" in words:
                report.publish({name: figures})
    finally:
        stage.close()
    return 0 if sound else 1


def _fresh(stage: Stage, scenario: Callable[..., Figures], **values: Any) -> Figures:
    """What the scenario measured on emptied servers."""
    stage.empty()
    return scenario(stage, **values)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
