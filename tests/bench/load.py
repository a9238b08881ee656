"""Clockjack under load: each function is one scenario on an empty stage and answers its figures, ready for JSON.

Lateness is from due to the handler's entry, of every run; each scenario checks that every run was executed once, none
early, and is finished in the database (Broken otherwise).
"""

import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from clockjack.ledger.database import from_us
from tests.bench.clockjack_side import (
    SECOND,
    ahead,
    cast,
    figures,
    finished,
    pids,
    register_recurring,
    sleep_until,
    wait_for,
)
from tests.bench.measure import Meter, lateness
from tests.prove.counting import Effects
from tests.prove.stage import Stage

Figures = dict[str, Any]
HANDLER = "bench.mark"
PATIENCE_S = 120.0
LEAD_S = 8.0  # all is claimed 5 s ahead: a longer lead changes nothing after due
A_SECOND = 20_000  # registrations, at the least


def burst(stage: Stage, number: int = 10_000, dispatchers: int = 1, consumers: int = 2, **settings: Any) -> Figures:
    """All due at one instant. µs of processor a run: from registered on, and from due on."""
    stage.begin()
    who = pids(stage, cast(stage, dispatchers, consumers, **settings))
    due_us = ahead(LEAD_S + number / A_SECOND)
    expected = stage.register([due_us] * number, handler=HANDLER)
    whole = Meter(who)
    sleep_until(due_us)
    after = Meter(who)
    wait_for(stage, number, due_us, PATIENCE_S)
    after_us, whole_us = after.us_per_run(number), whole.us_per_run(number)
    effects, done = finished(stage, expected)
    stage.end()
    return {
        "number": number,
        "dispatchers": dispatchers,
        "consumers": consumers,
        "rate_per_s": round(number / done.late_s, 1),
        "lateness_ms": figures(effects)._asdict(),
        "cpu_us_per_run": whole_us,
        "cpu_us_per_run_after_due": after_us,
    }


def steady(stage: Stage, rate: int = 2_000, seconds: int = 60, dispatchers: int = 1, consumers: int = 2) -> Figures:
    """One-time tasks evenly due, `rate` a second. Backlog: what was due and had not begun, half-way and at the end."""
    stage.begin()
    who = pids(stage, cast(stage, dispatchers, consumers))
    begin_us, number = ahead(LEAD_S + rate * seconds / A_SECOND), rate * seconds
    dues = [begin_us + i * SECOND // rate for i in range(number)]
    expected = stage.register(dues, handler=HANDLER)
    sleep_until(begin_us)
    meter = Meter(who)
    time.sleep(seconds)
    percent, per_run = meter.percent(), meter.us_per_run(number)
    wait_for(stage, number, dues[-1], PATIENCE_S)
    effects, _ = finished(stage, expected)
    stage.end()
    begun = sorted(entry.now_us for entry in effects.all)
    return {
        "rate": rate,
        "seconds": seconds,
        "lateness_ms": figures(effects)._asdict(),
        "backlog_half_way": _backlog(dues, begun, begin_us + seconds * SECOND // 2),
        "backlog_at_the_end": _backlog(dues, begun, begin_us + seconds * SECOND),
        "cpu_percent": percent,
        "cpu_us_per_run": per_run,
    }


def highest(stage: Stage, rates: Sequence[int] = (12_000, 10_000), seconds: int = 60) -> Figures:
    """The highest of the rates that holds: they are tried from the highest down, until one does."""
    tried: list[Figures] = []
    for rate in rates:
        tried.append(one := steady(stage, rate, seconds))
        stage.empty()
        if holds(one):
            break
    return {"highest": max((one["rate"] for one in tried if holds(one)), default=0), "tried": tried}


def holds(one: Figures) -> bool:
    """Whether this rate can go on: p99 at most 1 s, and at the end no more waits than half-way, or 0.1 s' worth."""
    allowed = max(one["backlog_half_way"], one["rate"] / 10)
    return bool(one["lateness_ms"]["p99"] <= 1000 and one["backlog_at_the_end"] <= allowed)


def herd(stage: Stage, number: int = 10_000, rate: int = 1_000, minutes: int = 2) -> Figures:
    """`number` cron tasks at :00 of each minute, over a steady rate of another namespace: what either of them feels."""
    stage.begin()
    who = pids(stage, cast(stage))
    before_s, lead_s = 10, LEAD_S + (number + rate * minutes * 60) / A_SECOND
    first_us = -(-ahead(lead_s + before_s) // (60 * SECOND)) * 60 * SECOND  # :00
    last_us = first_us + (minutes - 1) * 60 * SECOND
    bounds = {"start_at": from_us(first_us), "end_at": from_us(last_us + SECOND)}
    row = {"handler": HANDLER, "payload": "{}", "namespace": "herd", "cron": "* * * * *", **bounds}
    many = register_recurring(stage, [row] * number, 60, last_us)
    begin_us = first_us - before_s * SECOND
    dues = [begin_us + i * SECOND // rate for i in range(rate * (minutes * 60 - 30))]
    calm = stage.register(dues, handler=HANDLER, namespace="calm")
    sleep_until(begin_us)
    meter = Meter(who)
    wait_for(stage, len(many) + len(calm), max(dues[-1], last_us), PATIENCE_S)
    percent = meter.percent()
    effects, _ = finished(stage, many | calm)
    stage.end()

    def felt(expected: Mapping[str, int]) -> dict[str, float]:
        return lateness(e.now_us - e.due_us for e in effects.all if e.key in expected)._asdict()

    return {"number": number, "rate": rate, "minutes": minutes, "calm_ms": felt(calm), "herd_ms": felt(many)} | {
        "cpu_percent": percent
    }


def recurring(stage: Stage, kind: str = "interval", rate: int = 4_000, seconds: int = 30) -> Figures:
    """`rate` occurrences a second of recurring tasks: `interval`, every 5 s and evenly spread; `cron`, each second."""
    stage.begin()
    who = pids(stage, cast(stage))
    every_s = 5 if kind == "interval" else 1
    number = rate * every_s
    first_us = ahead(LEAD_S + number / 5_000)
    last_us = first_us + seconds * SECOND - 1
    how = {"every_s": 5} if kind == "interval" else {"cron": "* * * * * *"}
    step_us = every_s * SECOND // number if kind == "interval" else 0
    rows = [
        {"handler": HANDLER, "payload": "{}", **how, "start_at": from_us(first_us + i * step_us)}
        | {"end_at": from_us(last_us)}
        for i in range(number)
    ]
    expected = register_recurring(stage, rows, every_s, last_us)
    sleep_until(first_us)
    meter = Meter(who)
    wait_for(stage, len(expected), last_us, PATIENCE_S)
    percent = meter.percent()
    effects, _ = finished(stage, expected)
    stage.end()
    return {
        "kind": kind,
        "rate": rate,
        "seconds": seconds,
        "tasks": number,
        "lateness_ms": figures(effects)._asdict(),
    } | {"cpu_percent": percent}


def entry(stage: Stage, number: int = 5_000, waits_ms: Sequence[int] = (0, 2, 10)) -> Figures:
    """From started_at to the handler's entry, by the size of the batch that was started together."""
    answer = []
    for wait_ms in waits_ms:
        stage.empty()
        cast(stage)
        due_us = ahead(LEAD_S + number / A_SECOND)
        expected = stage.register([due_us] * number, f'{{"ms": {wait_ms}}}', "bench.wait" if wait_ms else HANDLER)
        sleep_until(due_us)
        wait_for(stage, number, due_us, PATIENCE_S + number * wait_ms / 50_000)
        effects, _ = finished(stage, expected)
        stage.end()
        answer.append({"handler_ms": wait_ms} | _entries(stage, effects))
    return {"number": number, "handlers": answer}


def _entries(stage: Stage, effects: Effects) -> Figures:
    started: dict[str, int] = {}
    together: defaultdict[tuple[int, str], list[str]] = defaultdict(list)
    sql = "SELECT task_id, TIMESTAMPDIFF(MICROSECOND, '1970-01-01', due_at), worker, TIMESTAMPDIFF(MICROSECOND,"
    for task, due, worker, at in stage.sql(sql + " '1970-01-01', started_at) FROM runs"):
        started[f"{task}-{due}"] = at
        together[at, worker].append(f"{task}-{due}")
    after_us = {e.key: e.now_us - started[e.key] for e in effects.all}
    by_size: defaultdict[str, list[int]] = defaultdict(list)
    for keys in together.values():
        size = next(top for top in (1, 10, 50, 100, 200, 500, 1_000_000) if len(keys) <= top)
        by_size[f"<= {size}"] += [after_us[key] for key in keys]
    return {
        "all_ms": lateness(after_us.values())._asdict(),
        "by_batch_ms": {
            size: {"runs": len(us)} | lateness(us)._asdict()
            for size, us in sorted(by_size.items(), key=lambda item: int(item[0][3:]))
        },
    }


def scale(stage: Stage, number: int = 10_000) -> Figures:
    """The same burst by 1, 2, 4 dispatchers and by 1 to 6 consumers."""
    answer = []
    for dispatchers, consumers in [(1, 2), (2, 2), (4, 2), (1, 1), (1, 3), (1, 4), (1, 6)]:
        stage.empty()
        answer.append(burst(stage, number, dispatchers, consumers))
    return {"bursts": answer}


def _backlog(dues: Sequence[int], begun: Sequence[int], at_us: int) -> int:
    """How many were due and had not begun at that moment."""
    return bisect_right(dues, at_us) - bisect_right(begun, at_us)
