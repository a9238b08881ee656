"""Processes that are killed at the worst moment, and a Redis that forgets everything in the middle of its work."""

import random
import signal
import time

from tests.prove.counting import Effects, count, settled
from tests.prove.stage import Process, Stage, until

Verdict = tuple[str, bool]


def dispatcher_killed(stage: Stage) -> Verdict:
    """20 dispatchers were killed between COMMIT of a claim and its staging; another one lived all the time."""
    stage.cast(dispatcher=1, consumer=2)
    figure, held, late_s = _lives(stage, "dispatcher", "kill-after-claim", lives=20, ahead_s=[0.0, 1.5, 3.0, 4.5])
    return figure, held and late_s <= 6


def consumer_killed(stage: Stage) -> Verdict:
    """5 consumers were killed between popping from Redis and their start transaction; another one lived."""
    stage.cast(dispatcher=2, consumer=1)
    figure, held, late_s = _lives(stage, "consumer", "kill-before-start", lives=5, ahead_s=[0.3] * 30)
    return figure, held and late_s <= 10


def _lives(stage: Stage, kind: str, point: str, *, lives: int, ahead_s: list[float]) -> tuple[str, bool, float]:
    """Tasks that are due so far ahead were registered ten times a second until the victim had lost all its lives."""
    victim = stage.start(kind, (point, str(lives)), wait=False)
    expected: dict[str, int] = {}
    give_up = time.monotonic() + 60
    while victim.alive and time.monotonic() < give_up:
        now_us = stage.now_us()
        expected |= stage.register([now_us + int(seconds * 1e6) for seconds in ahead_s])
        time.sleep(random.uniform(0.05, 0.15))
    effects = Effects(stage.effects)
    effects.wait(expected, 20)
    quiet = settled(stage.live, 20)
    done = count(effects, expected)
    touched = [int(line.split()[1]) for line in victim.said()]
    figure = f"{len(touched)} kills touched {sum(touched)} runs; {done}"
    return figure, quiet and done.once_each and len(touched) == lives, done.late_s


def flushall(stage: Stage) -> Verdict:
    """FLUSHALL came twice: when a part of a burst of 3,000 no-ops had run, and when 500 others were staged."""
    stage.cast(dispatcher=2, consumer=2)
    redis = stage.queues.redis
    expected = stage.register([stage.now_us() + 6_000_000] * 3000)
    effects = Effects(stage.effects)
    until(lambda: len(effects.read().all) >= 300, 30, 0.005)
    queued = redis.llen("rq:queue:default")
    redis.flushall()
    before = len(effects.read().all)
    expected |= stage.register([stage.now_us() + 4_000_000 + n * 1000 for n in range(500)])
    until(lambda: redis.zcard("clockjack:staged:default") >= 500, 3)
    staged = redis.zcard("clockjack:staged:default")
    redis.flushall()
    effects.wait(expected, 30)
    quiet = settled(stage.live, 20)
    done = count(effects, expected)
    figure = f"{queued} queued when {before} had run, {staged} staged; {done}"
    return figure, quiet and done.once_each and done.late_s <= 10 and queued > 0 and staged > 0


def frozen(stage: Stage, kind: str, point: str) -> Verdict:
    """A process froze itself at this point, with row locks held; the others started everything; then it went on."""
    stage.cast(dispatcher=1, consumer=1)
    victim = stage.start(kind, (point,), wait=False)
    effects = Effects(stage.effects)
    expected = _feed_until_frozen(stage, victim)
    frozen_s = time.monotonic()
    all_started = effects.wait(expected, 20)
    settled(stage.live, 10)
    while time.monotonic() - frozen_s < 8:  # its sessions are surely gone, and whatever it held was looked at again
        time.sleep(0.1)
    still = victim.frozen
    before = count(effects, expected)
    victim.send(signal.SIGCONT)
    now_us = stage.now_us()
    afterwards = stage.register([now_us + n * 20_000 for n in range(100)])
    effects.wait(afterwards, 15)
    quiet = settled(stage.live, 15)
    done = count(effects, expected | afterwards)
    touched = sum(int(line.split()[1]) for line in victim.said())
    figure = (
        f"frozen with {touched} rows locked: {before}; after it went on: twice {done.twice}, missing {done.missing}"
    )
    sound = victim.alive and still and touched > 0 and quiet
    return figure, sound and all_started and before.late_s <= 10 and done.late_s <= 10 and done.once_each


def _feed_until_frozen(stage: Stage, victim: Process) -> dict[str, int]:
    """Tasks that are due at once or soon were registered until the victim stood still, and a little longer."""
    expected: dict[str, int] = {}
    give_up, after = time.monotonic() + 30, 5
    while after and time.monotonic() < give_up:
        now_us = stage.now_us()
        expected |= stage.register([now_us + random.randrange(12) * 250_000 + n for n in range(20)])
        after -= victim.frozen
        time.sleep(0.1)
    return expected


def frozen_after_select(stage: Stage) -> Verdict:
    """A dispatcher froze after the locking SELECT of its claim."""
    return frozen(stage, "dispatcher", "stop-after-select")


def frozen_after_insert(stage: Stage) -> Verdict:
    """A dispatcher froze after the INSERT of its claim."""
    return frozen(stage, "dispatcher", "stop-after-insert")


def frozen_before_commit(stage: Stage) -> Verdict:
    """A consumer froze between UPDATE and COMMIT of its start."""
    return frozen(stage, "consumer", "stop-before-commit")
