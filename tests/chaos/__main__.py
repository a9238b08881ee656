"""`python -m tests.chaos [short|chaos|long] [--only NAME,…] [--seed N] [--seconds S] [--json FILE] [--out DIR]`

One run: a world is built, the load and the faults of the plan come, everything heals, and the checker judges what is
left. The exit code is the checker's.
"""

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.chaos import scenarios
from tests.chaos.clients import Client, History, Http, Sql, now_us
from tests.chaos.evidence import counters, dump
from tests.chaos.nemesis import Nemesis
from tests.chaos.plan import HTTP_CLIENTS, SQL_CLIENTS, Plan
from tests.chaos.timeline import draw
from tests.chaos.world import World
from tests.prove.stage import ROOT, until

SETTLED_S = 60.0
SKEW_US = 5_000
EXPECTED = {
    "redeliveries": ("flushall", "redis_empty"),
    "lost_attempts": ("kill_consumer", "handler_crash", "freeze_consumer", "stall_past_lease"),
    "fenced_writes": ("freeze_consumer", "stall_past_lease"),
    "unknown_commits": ("commit_",),
}


def play(plan: Plan, out: Path) -> None:
    """The plan was played; `out` has the evidence."""
    (out / "plan.json").write_text(json.dumps(plan.document(), indent=1))
    print(f"chaos: {plan.scenario}, seed {plan.seed}: {len(plan.faults)} faults, {len(plan.steps)} steps,"
          f" about {plan.load_s + plan.calm_s:.0f} s; {out}", flush=True)  # fmt: skip
    world = World(out)
    try:
        world.start()
        history = History(out / "history.jsonl")
        ports = [place.port for place in world.places.values() if place.kind == "producer"]
        clients = {
            f"http-{n}": Client(f"http-{n}", history, Http(ports, world.api_key)) for n in range(1, HTTP_CLIENTS + 1)
        }
        for n in range(1, SQL_CLIENTS + 1):
            clients[f"sql-{n}"] = Client(f"sql-{n}", history, Sql(world.ports[f"sql-{n}>mysql"]))
        stop: list[bool] = []
        begin_us = now_us()
        threads = [
            threading.Thread(
                target=client.run,
                args=([s for s in plan.steps if s.client == name], begin_us, lambda: bool(stop)),
                daemon=True,
            )
            for name, client in clients.items()
        ]
        for thread in threads:
            thread.start()
        nemesis = Nemesis(
            world, Client("nemesis", history, Http(ports, world.api_key)), out / "faults.jsonl", plan.seed
        )
        nemesis.run(plan.faults, begin_us)
        calm_us = now_us()
        dump(world, out / "tables_calm", ("runs",))
        until(lambda: now_us() >= begin_us + int(plan.load_s * 1e6), plan.load_s + 1)
        for thread in threads:
            thread.join(SETTLED_S)
        live = "SELECT COUNT(*) FROM runs WHERE wake_at IS NOT NULL"
        due = "SELECT COUNT(*) FROM tasks WHERE next_run_at IS NOT NULL AND next_run_at < UTC_TIMESTAMP(6)"
        settled = until(lambda: not world.sql(live)[0][0] and not world.sql(due)[0][0], SETTLED_S, 0.5)
        time.sleep(max(0.0, calm_us / 1e6 + plan.calm_s - time.time()))
        stop.append(True)
        ended_us = now_us()
        dump(world, out / "tables")
        counted = counters(world)
        (out / "counters.json").write_text(json.dumps(counted, indent=1))
        run = {
            "seed": plan.seed, "scenario": plan.scenario, "expect": expected(plan), "skew_us": SKEW_US,
            "started_us": begin_us, "calm_us": calm_us, "ended_us": ended_us, "limits": {"late_ms": 10_000},
        }  # fmt: skip
        (out / "run.json").write_text(json.dumps(run, indent=1))
        print(f"chaos: {history.results}\nchaos: {counted}\nchaos: settled: {settled}", flush=True)
    finally:
        world.close()


def expected(plan: Plan) -> dict[str, int]:
    """The least counts without which the run would prove nothing."""
    names = [fault.name for fault in plan.faults]
    return {
        what: 1
        for what, causes in EXPECTED.items()
        if any(name.startswith(cause) for name in names for cause in causes)
    }


def judge(out: Path, copy: Path | None) -> int:
    """The checker's exit code; its verdict is printed, one line a figure."""
    if not (ROOT / "tests" / "chaos" / "checker").exists() and not (ROOT / "tests" / "chaos" / "checker.py").exists():
        print("chaos: there is no checker: nothing is proven", file=sys.stderr)
        return 3
    code = subprocess.run([sys.executable, "-m", "tests.chaos.checker", str(out)], cwd=ROOT).returncode
    found = out / "verdict.json"
    if not found.exists():
        return code or 3
    verdict: dict[str, Any] = json.loads(found.read_text())
    for name, value in verdict.items():
        if name not in ("violations", "faults"):
            print(f"{name:20} {json.dumps(value)}")
    for name, figures in verdict.get("faults", {}).items():
        print(f"fault {name:30} {json.dumps(figures)}")
    if copy:
        shutil.copy(found, copy)
    return code


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Clockjack under faults.")
    parser.add_argument("scenario", nargs="?", default="short", choices=("short", "chaos", "long"))
    parser.add_argument("--only", help="instead: these faults, separated by commas")
    parser.add_argument("--seconds", type=float, default=45, help="with --only: how long about (45)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where the verdict is copied to")
    parser.add_argument("--out", type=Path, help="where the evidence is kept (.local/chaos/SCENARIO-SEED)")
    options = parser.parse_args()
    if options.only:
        names = tuple(options.only.split(","))
        if unknown := [name for name in names if name not in scenarios.MAKERS]:
            parser.error(f"no fault {', '.join(unknown)}; there are {', '.join(sorted(scenarios.MAKERS))}")
        plan = scenarios.only(names, options.seed, options.seconds)
    else:
        plan = getattr(scenarios, options.scenario)(options.seed)
    out = options.out or ROOT / ".local" / "chaos" / f"{plan.scenario}-{plan.seed}"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    out = out.resolve()
    play(plan, out)
    print(f"chaos: {draw(out)}", flush=True)
    return judge(out, options.json)


if __name__ == "__main__":
    sys.exit(main())
