"""Locks under full load: 2 dispatchers and 4 consumers on 20,000 due tasks, against one dispatcher alone.

How the comparison is made. Tasks that are due at once are registered evenly, 667 a second in every round, so that one
dispatcher's claims are as large as the larger ones of two. Each dispatcher tells how long every claim took that claimed
something (the whole transaction, as its process sees it). Three kinds of rounds by turns, five of each:

* alone: one dispatcher, no consumers, nothing else of ours on this machine;
* beside: the same, while another dispatcher and four consumers work on servers of their own, on three quarters of the
  loaded round's tasks (the dispatcher's own work is the last quarter): it has its tables, locks and log to itself, and
  the processors are as busy as in the loaded round;
* loaded: 2 dispatchers and 4 consumers on one database.

The limit is about loaded against alone. Loaded against beside tells how much of the difference is locking and sharing,
and not waiting for a processor, which on two of them can be most of it. The medians of the rounds' p99 are compared.
Deadlocks, time-outs and lock waits are the database server's own counters over the loaded rounds.
"""

import math
import statistics
import threading
import time
from collections.abc import Sequence

from tests.prove.counting import Count, Effects, count, settled
from tests.prove.stage import Process, Stage, until

ROUNDS = 5
EACH, BESIDE, ALONE = 4_000, 3_000, 2_000
A_SECOND = 667
FEED_EVERY_S = 0.05
LIMIT = 1.5
COUNTERS = "SELECT NAME, COUNT FROM information_schema.INNODB_METRICS WHERE NAME IN ('lock_deadlocks', 'lock_timeouts')"
WAITS = "SHOW GLOBAL STATUS WHERE Variable_name IN ('Innodb_row_lock_waits', 'Innodb_row_lock_time')"
Times = list[float]


def full_load(stage: Stage) -> tuple[str, bool]:
    """20,000 tasks ran once each without deadlock or lock-wait time-out, and claims took hardly longer than alone."""
    alone: list[Times] = []
    beside: list[Times] = []
    loaded: list[Times] = []
    counts: list[Count] = []
    grown: dict[str, int] = {}
    logged, quiet, other = 0, True, Stage()
    try:
        for _ in range(ROUNDS):
            alone.append(_one_dispatcher(stage, ALONE))
            beside.append(_beside(stage, other))
            stage.empty()
            before = _counters(stage)
            times, done, ended = _loaded(stage)
            grown = {name: grown.get(name, 0) + value - before[name] for name, value in _counters(stage).items()}
            loaded.append(times)
            counts.append(done)
            quiet &= ended
            logged += sum(p.log.read_text().count('"action": "tx_again"') for p in stage.processes)
    finally:
        other.close()
    alone_ms, beside_ms, loaded_ms = (statistics.median(map(p99, rounds)) for rounds in (alone, beside, loaded))
    ran, twice, missing = (sum(getattr(c, name) for c in counts) for name in ("ran", "twice", "missing"))
    figure = (
        f"{ran} distinct runs, missing {missing}, twice {twice}, {grown['lock_deadlocks']} deadlocks,"
        f" {grown['lock_timeouts']} lock-wait time-outs, {logged} transactions run again,"
        f" {grown['Innodb_row_lock_waits']} row lock waits of {grown['Innodb_row_lock_time']} ms in all; claim p99"
        f" {loaded_ms:.0f} ms = {loaded_ms / alone_ms:.2f} × the {alone_ms:.0f} ms alone ({loaded_ms / beside_ms:.2f} ×"
        f" the {beside_ms:.0f} ms with the processors as busy by others; rounds {_show(loaded)}, {_show(alone)},"
        f" {_show(beside)}; p50 {_p50(loaded):.0f}, {_p50(alone):.0f}, {_p50(beside):.0f})"
    )
    exact = quiet and all(c.once_each for c in counts) and ran >= 20_000
    locks = grown["lock_deadlocks"] + grown["lock_timeouts"] + logged
    return figure, exact and not locks and loaded_ms <= LIMIT * alone_ms


def p99(values: Sequence[float]) -> float:
    """The value that 99 of 100 do not exceed."""
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]


def _one_dispatcher(stage: Stage, number: int) -> Times:
    stage.empty()
    dispatcher = stage.start("dispatcher", ("time-claims",))
    _feed(stage, number)
    until(lambda: not stage.one("SELECT COUNT(*) FROM tasks WHERE next_run_at IS NOT NULL"), 30, 0.5)
    return _times(dispatcher)


def _beside(stage: Stage, other: Stage) -> Times:
    other.empty()
    other.cast(dispatcher=1, consumer=4)
    load = threading.Thread(target=_feed, args=(other, BESIDE, A_SECOND * BESIDE / EACH))
    load.start()
    times = _one_dispatcher(stage, EACH)
    load.join()
    other.end()
    return times


def _loaded(stage: Stage) -> tuple[Times, Count, bool]:
    dispatchers = [stage.start("dispatcher", ("time-claims",), wait=False) for _ in range(2)]
    stage.cast(consumer=4)
    for dispatcher in dispatchers:
        stage.ready(dispatcher)
    expected = _feed(stage, EACH)
    effects = Effects(stage.effects)
    effects.wait(expected, 60, 0.5)
    quiet = settled(stage.live, 30)
    return [ms for d in dispatchers for ms in _times(d)], count(effects, expected), quiet


def _feed(stage: Stage, number: int, a_second: float = A_SECOND) -> dict[str, int]:
    """So many tasks were registered, so many a second, each due at once."""
    expected: dict[str, int] = {}
    begun = time.monotonic()
    while len(expected) < number:
        share = min(number, math.ceil(a_second * (time.monotonic() - begun + FEED_EVERY_S)))
        now_us = stage.clock.now_us()
        expected |= stage.register([now_us] * (share - len(expected)))
        time.sleep(FEED_EVERY_S)
    return expected


def _times(dispatcher: Process) -> Times:
    """The claims' durations in ms, without the first, which opens the connection and fills the caches."""
    return [int(line.split()[1]) / 1e3 for line in dispatcher.said("claim ")][1:]


def _counters(stage: Stage) -> dict[str, int]:
    return {name: int(value) for name, value in (*stage.sql(COUNTERS), *stage.sql(WAITS))}


def _p50(rounds: list[Times]) -> float:
    return statistics.median(value for values in rounds for value in values)


def _show(rounds: list[Times]) -> str:
    return "/".join(f"{p99(values):.0f}" for values in rounds)
