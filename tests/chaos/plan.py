"""What will happen in a run: the faults and the load, drawn from the seed alone before anything starts."""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SCALE = {"producer": 2, "dispatcher": 3, "consumer": 3}
HTTP_CLIENTS, SQL_CLIENTS = 6, 3
WARM_S, GAP_S = 6.0, 1.5
# what a fault takes besides its seconds, at most, on a machine that is not too busy; all others end by themselves
TAKES_S = {"rolling_restart": 25, "disk_full": 40, "disk_slow": 12, "redis_failover": 10, "mysql_failover": 5}
MISFIRES: tuple[dict[str, Any], ...] = ({}, {"misfire": "skip"}, {"misfire": "all", "max_misfires": 5})
TAKES_S |= {
    "outage": 20,
    "handler_hang": 3,
    "handler_leak_memory": 5,
    "handler_leak_files": 5,
    "kill_threads": 7,
    "redis_copies": 6,
    "exhaust_connections": 3,
}


@dataclass
class Fault:
    """A fault: its name says which act of the nemesis, `options` are the act's. Begins at `at_s` or when it can."""

    name: str
    seconds: float
    options: dict[str, Any] = field(default_factory=dict)
    at_s: float = 0.0


@dataclass
class Step:
    """What a client does to one task. In `value`, run_in_s counts from that moment, start_at_s from the begin."""

    at_s: float
    client: str
    key: str
    f: str
    value: dict[str, Any] = field(default_factory=dict)


@dataclass
class Plan:
    """Everything that is decided before the run."""

    seed: int
    scenario: str
    load_s: float
    calm_s: float
    faults: list[Fault]
    steps: list[Step]
    needs: tuple[str, ...] = ()
    away_s: int = 0  # so far the database's clock jumps while everything stands still
    skew_us: int = 5_000

    def document(self) -> dict[str, Any]:
        """The plan as JSON."""
        return asdict(self)


def plan(scenario: str, seed: int, faults: Sequence[Fault], calm_s: float, rate: float = 1.0, away_s: int = 0) -> Plan:
    """The faults one after the other with gaps, and a load as long as they take and a little longer."""
    rng = random.Random(f"{seed}/times")
    at_s = WARM_S
    for fault in faults:
        fault.at_s = round(at_s, 1)
        at_s += fault.seconds + GAP_S * rng.uniform(0.7, 1.3)
    load_s = round(at_s + sum(TAKES_S.get(fault.name, 0.1) for fault in faults) + 6.0, 1)
    steps = load(random.Random(f"{seed}/load"), load_s, rate, away_s)
    return Plan(seed, scenario, load_s, calm_s, list(faults), steps, away_s=away_s)


def load(rng: random.Random, load_s: float, rate: float, away_s: int = 0) -> list[Step]:
    """The steps of all clients in the order of their times. No task is due after `load_s`; `away_s` are passed over."""
    clients = [f"http-{n}" for n in range(1, HTTP_CLIENTS + 1)] + [f"sql-{n}" for n in range(1, SQL_CLIENTS + 1)]
    steps: list[Step] = []
    for n in range(round(60 * rate)):
        steps += _recurring(rng, f"r{n}", rng.choice(clients), load_s, change=n % 5, away_s=away_s)
    at_s, n = 0.5, 0
    while at_s < load_s - 3:
        steps += _one_time(rng, f"o{n}", rng.choice(clients), at_s, load_s)
        at_s, n = at_s + rng.expovariate(16 * rate), n + 1
    return sorted(steps, key=lambda step: step.at_s)


def _recurring(rng: random.Random, key: str, client: str, load_s: float, change: int, away_s: int) -> list[Step]:
    """A task that comes every 1 to 5 s till the end of the load, and what is done to it meanwhile."""
    at_s = rng.uniform(0, 3) if rng.random() < 0.8 else rng.uniform(3, max(4, load_s / 2))
    value = _when(rng, at_s) | {"handler": "chaos", "payload": {"task_key": key}}
    value["end_at_s"] = load_s + away_s
    if away_s:  # what the outage misses is to be seen to in every way
        value |= rng.choice(MISFIRES)
    value |= {"timeout_s": 20, "backoff_s": 1, "max_failures": 5}
    steps = [Step(at_s, client, key, "register", value)]
    when = sorted(rng.uniform(at_s + 2, max(at_s + 4, load_s - 3)) for _ in range(4))
    if change == 1:
        steps += [Step(t, client, key, f) for t, f in zip(when, ("pause", "resume") * 2, strict=True)]
    elif change == 2:
        steps += [Step(t, client, key, "edit", _when(rng, t)) for t in when[:2]]
    elif change == 3 and rng.random() < 0.5:
        steps += [Step(when[-1], client, key, "cancel")]
    elif change == 4 and client.startswith("http"):
        steps += [Step(t, client, key, "run_now") for t in when[:2]]
    return steps


def _when(rng: random.Random, at_s: float) -> dict[str, Any]:
    """A schedule of a second's grain."""
    period = rng.choice((1, 2, 2, 3, 3, 4, 5))
    if rng.random() < 0.5:
        zone = rng.choice(("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"))
        return {"cron": f"*/{period} * * * * *", "timezone": zone}
    return {"every_s": period, "start_at_s": round(at_s + rng.uniform(0, 2), 3)}


def _one_time(rng: random.Random, key: str, client: str, at_s: float, load_s: float) -> list[Step]:
    """A one-time task: plain, slow, failing at first, with a result that is too large, moved, edited or cancelled."""
    kind = rng.choices(
        ("plain", "slow", "fails", "dies", "big", "moved", "edited", "cancelled", "paused"),
        (65, 11, 7, 1, 1, 4, 4, 4, 3),
    )[0]
    wait_s = 0.0 if rng.random() < 0.2 else rng.uniform(0.5, 12)
    changed = kind in ("moved", "edited", "cancelled", "paused")
    if changed:
        wait_s = rng.uniform(9, 14)
    if at_s + wait_s > load_s - 2:
        kind, wait_s, changed = "plain", 0.0, False
    payload: dict[str, Any] = {"task_key": key}
    payload |= {
        "slow": {"sleep_ms": rng.randrange(1000, 7000)},
        "fails": {"fail": rng.randint(1, 3)},
        "dies": {"fail": 9},
        "big": {"bytes": 1_000_000},
    }.get(kind, {})
    value = {"handler": "chaos", "payload": payload, "run_in_s": round(wait_s, 3), "timeout_s": 20, "backoff_s": 1}
    value["max_failures"] = 2 if kind in ("dies", "big") else 5
    steps = [Step(at_s, client, key, "register", value)]
    then_s = at_s + rng.uniform(1, 3)
    if kind == "moved":
        steps.append(Step(then_s, client, key, "edit", {"run_in_s": round(rng.uniform(4, 10), 3)}))
    elif kind == "edited":
        steps.append(Step(then_s, client, key, "edit", {"payload": {**payload, "edition": 2}}))
    elif kind == "cancelled":
        steps.append(Step(then_s, client, key, "cancel"))
    elif kind == "paused":
        steps += [Step(then_s, client, key, "pause"), Step(then_s + rng.uniform(1, 3), client, key, "resume")]
    return steps
