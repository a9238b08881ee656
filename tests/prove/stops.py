"""Processes that are asked to end in the middle of their work, and one that is added."""

import random
import signal
import threading
import time

from tests.prove.counting import Effects, count, settled
from tests.prove.http import Api, task
from tests.prove.stage import Process, Stage, until

FAILURES = "SELECT COALESCE(SUM(failures), 0) FROM runs"
NOT_OURS = "SELECT COUNT(*) FROM attempts WHERE outcome <> 'failed'"


def sigterm(stage: Stage) -> tuple[str, bool]:
    """One producer, one dispatcher and one consumer had SIGTERM under the demo's load; a new one took each place
    (the producer's before, so that a client's repeated request finds it; the others' after).

    The load: 600 tasks over 15 s, 20–300 ms each, one in ten fails once; 2,000 no-ops at one instant, in the middle of
    which the consumer and the dispatcher are asked to end; registrations by HTTP all the time. A failure is counted for
    each task that was told to fail and for no other.
    """
    producer, dispatcher, _, consumer, _ = stage.cast(producer=1, dispatcher=2, consumer=2)
    place = [producer]
    api = Api(lambda: place[0].port, stage.api_key)
    base_us = stage.now_us() + 1_000_000
    expected: dict[str, int] = {}
    fail: dict[str, int] = {}
    for n in range(60):
        at = [base_us + n * 250_000 + i * 25_000 for i in range(10)]
        work = f'{{"sleep_ms": {random.randint(20, 300)}}}'
        expected |= stage.register(at[1:], work)
        failing = stage.register(at[:1], '{"sleep_ms": 50, "fail": 1}', backoff_s=1)
        expected |= failing
        fail |= dict.fromkeys(failing, 2)
    burst_us = base_us + 8_000_000
    expected |= stage.register([burst_us] * 2000)
    stop, by_http, errors = threading.Event(), {}, []
    threads = [threading.Thread(target=_register, args=(api, stage, stop, by_http, errors)) for _ in range(2)]
    for thread in threads:
        thread.start()
    effects = Effects(stage.effects)
    codes, took_s = [], []
    _until(stage, base_us + 4_000_000)
    for old, at_us in ((producer, 0), (consumer, burst_us), (dispatcher, burst_us + 3_000_000)):
        _until(stage, at_us)
        if old is consumer:  # it has a part of the burst in hand
            until(lambda: len(effects.read().all) > 300, 5, 0.002)
        if old is producer:
            place[0] = stage.start("producer")  # clients go to the new one, what the old one was asked it still answers
        begun = time.monotonic()
        old.send(signal.SIGTERM)
        codes.append(old.ended(30))
        took_s.append(time.monotonic() - begun)
        if old is not producer:
            stage.start(old.kind)
    _until(stage, base_us + 15_000_000)
    stop.set()
    for thread in threads:
        thread.join(40)
    expected |= by_http
    effects.wait(expected, 20)
    quiet = settled(stage.live, 20)
    done = count(effects, expected, fail)
    failures, others = int(stage.one(FAILURES)), int(stage.one(NOT_OURS))
    figure = (
        f"exit codes {codes} after {'/'.join(f'{s:.1f}' for s in took_s)} s, {len(by_http)} registered by HTTP; {done};"
        f" {failures} failures for {len(fail)} that were told to fail, {others} attempts lost{''.join(errors[:1])}"
    )
    sound = quiet and not errors and codes == [0, 0, 0] and len(by_http) > 100
    return figure, sound and done.once_each and failures == len(fail) and not others and done.late_s <= 10


def _register(api: Api, stage: Stage, stop: threading.Event, done: dict[str, int], errors: list[str]) -> None:
    try:
        while not stop.is_set():
            due_us = stage.clock.now_us() + 1_000_000
            answer, _ = api.insist("POST", "/v1/tasks", task(due_us))
            done[f"{answer['id']}-{due_us}"] = due_us
            time.sleep(0.03)
    except Exception as error:
        errors.append(f"; {type(error).__name__}: {error}"[:300])


def _until(stage: Stage, moment_us: int) -> None:
    time.sleep(max(0, moment_us - stage.clock.now_us()) / 1e6)


def sigterm_at_a_bad_moment(stage: Stage) -> tuple[str, bool]:
    """A consumer had SIGTERM while its main thread was inside an Event (or at once, if it uses none any more).

    It finished what it had begun and ended by itself; no outcome was lost and nothing ran again.
    """
    stage.cast(dispatcher=1)
    effects = Effects(stage.effects)
    unlucky = stage.start("consumer", ("term-inside-event",))
    expected = stage.register([stage.now_us()] * 20, '{"sleep_ms": 2000}')
    until(lambda: len(effects.read().all) == len(expected), 10)
    stage.start("consumer")
    unlucky.send(signal.SIGUSR1)
    hit = until(unlucky.said, 2)
    if not hit:
        unlucky.send(signal.SIGTERM)
    begun = time.monotonic()
    code = unlucky.ended(30)
    took_s = time.monotonic() - begun
    expected |= stage.register([stage.now_us()] * 20)
    effects.wait(expected, 15)
    quiet = settled(stage.live, 5)
    done = count(effects, expected)
    others = int(stage.one(FAILURES)) + int(stage.one(NOT_OURS))
    end = (
        f"ended with code {code} after {took_s:.1f} s" if code is not None else f"HANGS, {stage.live()} runs never end"
    )
    return f"{end}; {done}; {others} failures counted", quiet and code == 0 and done.once_each and not others


def added_consumer(stage: Stage) -> tuple[str, bool]:
    """A second consumer was added to a backlog of slow runs: it drained faster, and each run happened once."""
    stage.cast(dispatcher=1)
    stage.start("consumer", concurrency=10)
    expected = stage.register([stage.now_us()] * 360, '{"sleep_ms": 500}')
    effects = Effects(stage.effects)
    until(lambda: effects.read().all, 10)
    time.sleep(1.0)
    one = _rate(effects, 4.0)
    waiting = stage.queues.status()[0]
    added: Process = stage.start("consumer", concurrency=10)
    until(lambda: any(e.pid == added.pid for e in effects.read().all), 10)
    time.sleep(1.0)
    two = _rate(effects, 4.0)
    effects.wait(expected, 40)
    quiet = settled(stage.live, 20)
    done = count(effects, expected)
    figure = (
        f"{one:.1f} runs/s with one, {two:.1f} with two ({two / one:.2f} ×), {waiting['waiting']} waited then; {done}"
    )
    return figure, quiet and done.once_each and two >= 1.6 * one


def _rate(effects: Effects, seconds: float) -> float:
    begun, before = time.monotonic(), len(effects.read().all)
    time.sleep(seconds)
    return (len(effects.read().all) - before) / (time.monotonic() - begun)
