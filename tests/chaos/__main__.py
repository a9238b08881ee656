"""`python -m tests.chaos [short|chaos|long] [--only NAME,…] [--seed N] [--seconds S] [--json FILE] [--out DIR]`

One run: a world is built, the load and the faults of the plan come, everything heals, and the checker judges what is
left. The exit code is the checker's.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.chaos import scenarios, severe
from tests.chaos.clients import AHEAD, Client, History, Http, Sql, now_us
from tests.chaos.evidence import counters, dump, waited_us
from tests.chaos.nemesis import Nemesis
from tests.chaos.plan import HTTP_CLIENTS, SQL_CLIENTS, Plan
from tests.chaos.timeline import draw
from tests.chaos.world import World
from tests.prove.stage import ROOT, until

SETTLED_S = 60.0
EXPECTED = {
    "redeliveries": ("flushall", "redis_empty", "redis_copies"),
    "lost_attempts": ("kill_consumer", "handler_crash", "freeze_consumer", "stall_past_lease"),
    "fenced_writes": ("freeze_consumer", "stall_past_lease"),
    "unknown_commits": ("commit_",),
}


def play(plan: Plan, out: Path) -> None:
    """The plan was played; `out` has the evidence."""
    (out / "plan.json").write_text(json.dumps(plan.document(), indent=1))
    print(f"chaos: {plan.scenario}, seed {plan.seed}: {len(plan.faults)} faults, {len(plan.steps)} steps,"
          f" about {plan.load_s + plan.calm_s:.0f} s; {out}", flush=True)  # fmt: skip
    world = World(out, severe.DISK_BYTES if "disk" in plan.needs else 0)
    try:
        severe.prepare(world, plan.needs)
        world.start()
        history = History(out / "history.jsonl")
        ports = [place.port for place in world.places.values() if place.kind == "producer"]
        clients = {
            f"http-{n}": Client(f"http-{n}", history, Http(ports, world.api_key)) for n in range(1, HTTP_CLIENTS + 1)
        }
        for n in range(1, SQL_CLIENTS + 1):
            clients[f"sql-{n}"] = Client(f"sql-{n}", history, Sql(world.ports[f"sql-{n}>mysql"]))
        stop: list[bool] = []
        begin_us, before_us = now_us(), waited_us()
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
        nemesis.run(plan.faults, begin_us, plan.load_s)
        calm_us, calm_s = now_us(), time.monotonic()
        dump(world, out / "tables_calm", ("runs",))
        until(lambda: now_us() >= begin_us + int(plan.load_s * 1e6), plan.load_s + 1)
        for thread in threads:
            thread.join(SETTLED_S)
        live = "SELECT COUNT(*) FROM runs WHERE wake_at IS NOT NULL"
        due = "SELECT COUNT(*) FROM tasks WHERE next_run_at IS NOT NULL AND next_run_at < UTC_TIMESTAMP(6)"
        settled = until(lambda: not world.sql(live)[0][0] and not world.sql(due)[0][0], SETTLED_S, 0.5)
        time.sleep(max(0.0, calm_s + plan.calm_s - time.monotonic()))
        stop.append(True)
        ended_us = now_us()
        dump(world, out / "tables")
        counted = counters(world)
        busy = (waited_us() - before_us) / max(1, ended_us - begin_us)
        (out / "counters.json").write_text(json.dumps(counted, indent=1))
        run = {
            "seed": plan.seed, "scenario": plan.scenario, "expect": expected(plan), "skew_us": plan.skew_us,
            "started_us": begin_us, "calm_us": calm_us, "ended_us": ended_us, "limits": {"late_ms": 10_000},
        }  # fmt: skip
        if world.moved:
            run["moved"] = world.moved
        (out / "run.json").write_text(json.dumps(run, indent=1))
        print(
            f"chaos: {history.results}\nchaos: {counted}\nchaos: settled: {settled}; something waited"
            f" for a processor {busy:.0%} of the time, this process {world.starved_s:.2f} s at most",
            flush=True,
        )
    finally:
        world.close()
        AHEAD.by_us = 0


def expected(plan: Plan) -> dict[str, int]:
    """The least counts without which the run would prove nothing."""
    names = [fault.name for fault in plan.faults]
    return {
        what: 1
        for what, causes in EXPECTED.items()
        if any(name.startswith(cause) for name in names for cause in causes)
    }


def judge(out: Path) -> tuple[int, dict[str, Any]]:
    """The checker's exit code and verdict."""
    if not (ROOT / "tests" / "chaos" / "checker").exists():
        print("chaos: there is no checker: nothing is proven", file=sys.stderr)
        return 3, {}
    argv = [sys.executable, "-m", "tests.chaos.checker", str(out)]
    code = subprocess.run(argv, cwd=ROOT, stdout=subprocess.DEVNULL).returncode
    found = out / "verdict.json"
    return code, json.loads(found.read_text()) if found.exists() else {}


def joined(verdicts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The verdict on all parts of a run: good if each is; counts are summed, what begins with max_ is the largest."""
    whole: dict[str, Any] = {}
    for part, verdict in verdicts.items():
        for name, value in verdict.items():
            if name == "violations":
                whole[name] = [*whole.get(name, []), *(f"{part}: {line}" for line in value)]
            elif name == "faults":
                whole[name] = whole.get(name, {}) | {f"{part} {fault}": figures for fault, figures in value.items()}
            elif name == "verdict":
                whole[name] = whole.get(name, True) and value
            elif name == "seed":
                whole[name] = value
            else:
                whole[name] = max(whole.get(name, 0), value) if name.startswith("max_") else whole.get(name, 0) + value
    return whole


def tell(verdict: dict[str, Any]) -> None:
    """The verdict is printed, one line a figure."""
    for name, value in verdict.items():
        if name not in ("violations", "faults"):
            print(f"{name:20} {json.dumps(value)}")
    for name, figures in verdict.get("faults", {}).items():
        print(f"fault {name:30} {json.dumps(figures)}")
    for line in verdict.get("violations", []):
        print(f"VIOLATION {line}")


def plans(scenario: str, only: str | None, seed: int, seconds: float) -> list[Plan]:
    """What is to be played, one after the other; ValueError names a fault that there is none of."""
    if only is None:
        return {"short": scenarios.short, "chaos": scenarios.chaos, "long": scenarios.long}[scenario](seed)
    names = tuple(only.split(","))
    if unknown := [name for name in names if name not in scenarios.MAKERS]:
        raise ValueError(f"no fault {', '.join(unknown)}; there are {', '.join(sorted(scenarios.MAKERS))}")
    return [scenarios.only(names, seed, seconds)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Clockjack under faults.")
    parser.add_argument("scenario", nargs="?", default="short", choices=("short", "chaos", "long"))
    parser.add_argument("--only", help="instead: these faults, separated by commas")
    parser.add_argument("--seconds", type=float, default=45, help="with --only: how long about (45)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where the verdict is written to as well")
    parser.add_argument("--out", type=Path, help="where the evidence is kept (.local/chaos/SCENARIO-SEED)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave no server and no mount behind
    try:
        parts = plans(options.scenario, options.only, options.seed, options.seconds)
    except ValueError as error:
        parser.error(str(error))
    named = options.scenario if options.only is None else parts[0].scenario
    home: Path = (options.out or ROOT / ".local" / "chaos" / f"{named}-{options.seed}").resolve()
    shutil.rmtree(home, ignore_errors=True)
    worst, verdicts = 0, {}
    for part in parts:
        out = home / part.scenario if len(parts) > 1 else home
        out.mkdir(parents=True)
        play(part, out)
        print(f"chaos: {draw(out)}", flush=True)
        code, verdicts[part.scenario] = judge(out)
        worst = max(worst, code)
    verdict = verdicts[parts[0].scenario] if len(parts) == 1 else joined(verdicts)
    tell(verdict)
    if options.json:
        options.json.write_text(json.dumps(verdict, indent=1) + "\n")
    return worst


if __name__ == "__main__":
    sys.exit(main())
