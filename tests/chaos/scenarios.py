"""Which faults each scenario has, in an order and with targets and lengths drawn from the seed."""

import random
import signal
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from tests.chaos.plan import SCALE, Fault, Plan, plan

AWAY_S = 3_600
CLAIM, START = "INSERT INTO runs", "UPDATE runs FORCE INDEX (PRIMARY) SET state = 'running'"
Maker = Callable[[random.Random], Fault]


def _one(rng: random.Random, kind: str) -> str:
    return f"{kind}.{rng.randint(1, SCALE[kind])}"


def _place(name: str, act: str, kind: str, low: float, high: float, **options: Any) -> Maker:
    """A fault of one process of this kind."""

    def make(rng: random.Random) -> Fault:
        at = _one(rng, kind)
        return Fault(name, round(rng.uniform(low, high), 1), {"act": act, "at": at, **options})

    return make


def _server(name: str, act: str, at: str, low: float, high: float, **options: Any) -> Maker:
    return lambda rng: Fault(name, round(rng.uniform(low, high), 1), {"act": act, "at": at, **options})


def _edge(kind: str, server: str, mode: str, low: float, high: float, name: str = "") -> Maker:
    def make(rng: random.Random) -> Fault:
        at = f"{_one(rng, kind)}>{server}"
        options = {"act": "edge", "edge": at, "mode": mode}
        return Fault(name or f"edge_{mode}_{kind}_{server}", round(rng.triangular(low, high, low), 1), options)

    return make


def _commits(kind: str, where: str) -> Maker:
    def make(rng: random.Random) -> Fault:
        options = {"act": "commits", "edge": f"{_one(rng, kind)}>mysql", "where": where, "count": rng.randint(2, 4)}
        return Fault(f"commit_{where}_{kind}", 1.5, options)

    return make


def _handler(name: str, seconds: float, payload: dict[str, Any], **options: Any) -> Maker:
    return lambda rng: Fault(name, seconds, {"act": "handler", "payload": payload, "at": "handler"} | options)


def _sized(name: str, low: float, high: float) -> Maker:
    def make(rng: random.Random) -> Fault:
        seconds = round(rng.uniform(low, high), 1)
        return Fault(name, seconds, {"at": "mysqld"})

    return make


def _threads(rng: random.Random) -> Fault:
    return Fault("kill_threads", 1.0, {"at": "mysqld", "for_s": round(rng.uniform(5, 8), 1)})


STOP, KILL = int(signal.SIGSTOP), int(signal.SIGKILL)
MAKERS: dict[str, Maker] = {
    "kill_dispatcher": _place("kill_dispatcher", "kill", "dispatcher", 1, 4),
    "kill_consumer": _place("kill_consumer", "kill", "consumer", 1, 4),
    "kill_producer": _place("kill_producer", "kill", "producer", 1, 4),
    "kill_mysqld": _server("kill_mysqld", "server_killed", "mysqld", 0.5, 3),
    "kill_redis": _server("kill_redis", "server_killed", "redis", 0.5, 3),
    "redis_empty": _server("redis_empty", "server_killed", "redis", 0.5, 3, empty=True),
    "freeze_dispatcher": _place("freeze_dispatcher", "freeze", "dispatcher", 8, 14),
    "freeze_consumer": _place("freeze_consumer", "freeze", "consumer", 24, 26),
    "freeze_producer": _place("freeze_producer", "freeze", "producer", 5, 8),
    "freeze_mysqld": _server("freeze_mysqld", "server_frozen", "mysqld", 5, 8),
    "freeze_redis": _server("freeze_redis", "server_frozen", "redis", 3, 6),
    "freeze_in_claim": _place("freeze_in_claim", "trip", "dispatcher", 6, 9, signal=STOP, statement=CLAIM),
    "kill_in_claim": _place("kill_in_claim", "trip", "dispatcher", 1, 2, signal=KILL, statement=CLAIM),
    "freeze_in_start": _place("freeze_in_start", "trip", "consumer", 6, 9, signal=STOP, statement=START),
    "kill_in_start": _place("kill_in_start", "trip", "consumer", 1, 2, signal=KILL, statement=START),
    "flushall": lambda rng: Fault("flushall", 1.0, {"at": "redis"}),
    "redis_copies": lambda rng: Fault("redis_copies", 0.5, {"at": "redis", "for_s": round(rng.uniform(4, 6), 1)}),
    "kill_threads": _threads,
    "exhaust_connections": _sized("exhaust_connections", 4, 6),
    "rolling_restart": lambda rng: Fault("rolling_restart", 0.1, {"at": "all"}),
    "handler_crash": _handler("handler_crash", 5.0, {"crash": 1}),
    "handler_hang": _handler("handler_hang", 14.0, {"hang": 1}, timeout_s=2),
    "handler_leak_memory": _handler("handler_leak_memory", 4.0, {"leak_mb": 400}, act="leak", at="leak"),
    "handler_leak_files": _handler("handler_leak_files", 4.0, {"leak_files": 3700}, act="leak", at="leak"),
    "handler_big": _handler("handler_big", 5.0, {"bytes": 1_000_000}, max_failures=2),
}
for _kind in SCALE:
    for _mode in ("cut", "stall", "up", "down", "slow"):
        for _to in ("mysql", "redis"):
            MAKERS[f"edge_{_mode}_{_kind}_{_to}"] = _edge(_kind, _to, _mode, 2, 7)
    for _where in ("before", "after"):
        MAKERS[f"commit_{_where}_{_kind}"] = _commits(_kind, _where)
MAKERS["stall_past_lease"] = _edge("consumer", "mysql", "stall", 24, 26, "stall_past_lease")

SHORT = ("kill_dispatcher", "kill_consumer", "kill_mysqld", "kill_redis", "flushall")
SHORT += tuple(f"commit_{where}_{kind}" for where in ("before", "after") for kind in SCALE)
CHAOS = tuple(name for name in MAKERS)
# short enough, or long enough, for the mutants alone
MAKERS["stuck_in_claim"] = _place("stuck_in_claim", "trip", "dispatcher", 20, 21, signal=STOP, statement=CLAIM)
MAKERS["freeze_full_hands"] = _place("freeze_full_hands", "freeze_full_hands", "consumer", 8, 8.5)


def short(seed: int) -> list[Plan]:
    """What CI runs: 90 seconds in all."""
    return [plan("short", seed, _drawn(SHORT, seed), calm_s=20)]


def chaos(seed: int) -> list[Plan]:
    """Every fault of processes, Redis, edges and COMMITs, once each."""
    return [plan("chaos", seed, _drawn(CHAOS, seed), calm_s=30)]


def only(names: tuple[str, ...], seed: int, seconds: float) -> Plan:
    """These faults again and again, so many times as go into `seconds`; once at least."""
    rng = random.Random(f"{seed}/faults")
    faults = [MAKERS[name](rng) for name in names]
    once = any(name.endswith("failover") or name == "outage" for name in names)  # there is one replica, one hour
    away_s = AWAY_S if "outage" in names else 0
    while True:
        more = [MAKERS[name](rng) for name in names]
        made = plan("+".join(names), seed, [*faults, *more], calm_s=10)
        if once or made.load_s + made.calm_s > seconds:
            made = plan("+".join(names), seed, faults, calm_s=40 if away_s else 10, away_s=away_s)
            made.needs = needs(names)
            if "clock_mysqld" in names:
                made.skew_us = 5_100_000
            return made
        faults += more


def _drawn(names: tuple[str, ...], seed: int) -> list[Fault]:
    rng = random.Random(f"{seed}/faults")
    faults = [MAKERS[name](rng) for name in names]
    rng.shuffle(faults)
    return faults


def _clock(kind: str, offset_s: int) -> Maker:
    options = {"act": "clock", "offset_s": offset_s}
    return lambda rng: Fault(f"clock_{kind}", round(rng.uniform(4, 6), 1), {**options, "at": _one(rng, kind)})


SEVERE: dict[str, Maker] = {
    f"clock_{_kind}{_offset:+d}": _clock(_kind, _offset) for _kind in SCALE for _offset in (5, -5, 3600, -3600)
}
SEVERE |= {
    "disk_slow": lambda rng: Fault("disk_slow", 0.1, {"at": "mysqld", "for_s": 10.0, "exempt": False}),
    "disk_full": lambda rng: Fault("disk_full", round(rng.uniform(6, 9), 1), {"at": "mysqld"}),
    "redis_failover": lambda rng: Fault("redis_failover", 3.0, {"at": "redis"}),
    "mysql_failover": lambda rng: Fault("mysql_failover", 1.5, {"at": "mysqld"}),
    "outage": lambda rng: Fault("outage", round(rng.uniform(1.5, 3), 1), {"by_s": AWAY_S, "at": "all", "exempt": True}),
    "clock_mysqld": lambda rng: Fault("clock_mysqld", 10.0, {"act": "clock", "offset_s": 5, "at": "mysqld"}),
}
NEEDS = {
    "outage": "database_clock",
    "clock_mysqld": "database_clock",
    "clock_": "clocks",
    "disk_full": "disk",
    "mysql_failover": "pair",
}
MAKERS |= SEVERE
MIXED = 24  # pairs
LASTING = (
    "rolling_restart",
    "handler_hang",
    "handler_leak_memory",
    "handler_leak_files",
    "freeze_consumer",
    "stall_past_lease",
    *SEVERE,
)


def needs(names: tuple[str, ...]) -> tuple[str, ...]:
    """What the world must be prepared for."""
    found = {next((need for start, need in NEEDS.items() if name.startswith(start)), "") for name in names}
    return tuple(sorted(found - {""}))


def long(seed: int) -> list[Plan]:
    """Disks, clocks of processes, Redis failing over; MySQL failing over; its clock; many times two faults at once."""
    names = tuple(name for name in SEVERE if name not in ("clock_mysqld", "mysql_failover", "outage"))
    servers = plan("servers", seed, _drawn((*names, "rolling_restart"), seed), calm_s=30)
    servers.needs = needs(names)
    # a full disk can leave MariaDB half an event in its log, which its replica then never acknowledges: not here
    before = ("disk_slow", "kill_mysqld", "kill_redis", "kill_dispatcher", *(f"commit_after_{kind}" for kind in SCALE))
    failover = plan("failover", seed, [*_drawn(before, seed), *_drawn(("mysql_failover",), seed)], calm_s=30)
    failover.needs = ("pair",)
    # calm for so long that the receiver, whose clock did not jump, can be asked about what was due
    clock = plan("clock", seed, _drawn(("clock_mysqld", "kill_dispatcher", "kill_consumer"), seed), calm_s=50)
    clock.needs, clock.skew_us = ("database_clock",), 5_100_000
    away = plan("outage", seed, _drawn(("outage",), seed), calm_s=40, away_s=AWAY_S)
    away.needs = ("database_clock",)
    return [servers, failover, clock, away, plan("mixed", seed, _mixed(seed), calm_s=30)]


def _mixed(seed: int) -> list[Fault]:
    """Pairs of faults that hit different places."""
    rng, pairs = random.Random(f"{seed}/mixed"), list[Fault]()
    names = [name for name in CHAOS if name not in LASTING]
    while len(pairs) < MIXED:
        one, other = (MAKERS[name](rng) for name in rng.sample(names, 2))
        where = [str(f.options.get("edge", f.options.get("at", ""))).partition(">")[0] for f in (one, other)]
        if where[0] != where[1]:
            seconds = max(one.seconds, other.seconds)
            options = {"act": "both", "at": "two", "faults": [asdict(one), asdict(other)]}
            pairs.append(Fault("mixed", seconds, options))
    return pairs
