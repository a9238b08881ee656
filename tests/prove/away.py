"""Redis cannot be reached for a minute and a half, first hanging and then refusing, while work of every kind is due."""

import random
import time
from itertools import pairwise

from clockjack.ledger.database import from_us, to_us
from tests.prove.counting import Effects, count, settled
from tests.prove.stage import Stage, until

AWAY_S, BEFORE_S, AFTER_S = 90, 5, 10
ONCE_PER_S, RETRIED_PER_S, EVERY_SECOND, ALONE = 65, 10, 15, 4
SLEEP_MS = 1_500


def redis_away(stage: Stage) -> tuple[str, bool]:
    """About 100 runs a second: one-time, recurring, failing once, and of tasks whose runs must not overlap.

    Counted is what the handlers wrote; of the tasks whose runs must not overlap, each occurrence is in it or has a row
    that says `overlap`, and two entries are as far apart as the handler takes.
    """
    stage.cast(dispatcher=2, consumer=2)
    first_us = (stage.now_us() // 1_000_000 + 3) * 1_000_000
    last_us = first_us + (BEFORE_S + AWAY_S + AFTER_S) * 1_000_000
    dues = range(first_us, last_us + 1, 1_000_000)
    recurring = {f"{i}-{due}": due for i in _every_second(stage, EVERY_SECOND, first_us, last_us) for due in dues}
    alone = _every_second(stage, ALONE, first_us, last_us, payload=f'{{"sleep_ms": {SLEEP_MS}}}', overlap="skip")
    expected, retried = dict(recurring), dict[str, int]()
    begun, away_us = time.monotonic(), [0, 0]
    for n in range(2 * (BEFORE_S + AWAY_S + AFTER_S)):
        if n == 2 * BEFORE_S:
            stage.redis.suspend()
            away_us[0] = stage.now_us()
        elif n == 2 * BEFORE_S + AWAY_S:
            stage.redis.kill()
        elif n == 2 * (BEFORE_S + AWAY_S):
            away_us[1] = stage.now_us()
            stage.redis.start()
        now_us = stage.now_us()
        dues_us = [now_us + random.randrange(7_000_000) for _ in range((ONCE_PER_S + RETRIED_PER_S) // 2)]
        expected |= stage.register(dues_us[RETRIED_PER_S // 2 :])
        retried |= stage.register(dues_us[: RETRIED_PER_S // 2], '{"fail": 1}', backoff_s=2)
        time.sleep(max(0.0, begun + (n + 1) / 2 - time.monotonic()))
    expected |= retried
    effects = Effects(stage.effects)
    effects.wait(expected, 30)
    quiet = settled(stage.live, 40)
    until(lambda: all(len(effects.read().by_key[key]) >= 2 for key in retried), 10)
    ran = {f"{i}-{due}": due for i in alone for due in dues if f"{i}-{due}" in effects.by_key}
    skipped = stage.sql("SELECT task_id, due_at FROM runs WHERE reason = 'overlap' AND task_id IN :ids", ids=alone)
    covered = {*ran, *(f"{i}-{to_us(due)}" for i, due in skipped)}
    uncovered = sum(f"{i}-{due}" not in covered for i in alone for due in dues)
    close = sum(_too_close(effects, i) for i in alone)
    done = count(effects, expected | ran, dict.fromkeys(retried, 2))
    again = sum(len(effects.by_key[key]) == 2 for key in retried)
    meanwhile = [e for e in effects.all if away_us[0] + 3_000_000 < e.now_us < away_us[1]]
    late_s = max((e.now_us - e.due_us for e in meanwhile if e.attempt == 1), default=0) / 1e6
    figure = (
        f"{(away_us[1] - away_us[0]) / 1e6:.0f} s away, {len(meanwhile)} handlers entered meanwhile; {done}, in the"
        f" outage's own time due + {late_s:.2f} s; {again}/{len(retried)} tried again; of {ALONE} tasks that must not"
        f" overlap {len(ran)} ran, {len(skipped)} skipped, {uncovered} neither, {close} overlapped"
    )
    sound = quiet and len(meanwhile) > AWAY_S * ONCE_PER_S / 2 and again == len(retried) and not uncovered and not close
    return figure, sound and done.once_each and done.late_s <= 10


def _every_second(stage: Stage, n: int, first_us: int, last_us: int, **columns: str) -> list[int]:
    """The ids of `n` tasks that are due each second from `first_us` to `last_us`."""
    values = {"handler": "mock", "start_at": from_us(first_us), "end_at": from_us(last_us), **columns}
    names = ", ".join(values)
    sql = f"INSERT INTO tasks (every_s, {names}) VALUES (1, {', '.join(':' + name for name in values)})"
    before = stage.one("SELECT COALESCE(MAX(id), 0) FROM tasks")
    for _ in range(n):
        stage.sql(sql, **values)
    return [row[0] for row in stage.sql("SELECT id FROM tasks WHERE id > :before", before=before)]


def _too_close(effects: Effects, task_id: int) -> int:
    """How many entries of this task came before the one before it had ended."""
    times = sorted(e.now_us for e in effects.all if e.key.startswith(f"{task_id}-"))
    return sum(later - one < SLEEP_MS * 1000 for one, later in pairwise(times))
