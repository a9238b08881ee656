"""The physical limit of each part alone, µs a run: the product's own statements, scripts and pool, called from a loop.

Nothing waits and nothing runs beside it but the server that is asked; so one loop's wall time is the limit of one
process, and the server's processor time is what more processes would share.
"""

import gc
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from clockjack.ledger import claim, runs
from clockjack.ledger.advance import Ready
from clockjack.ledger.clock import Clock
from clockjack.ledger.database import chunks
from clockjack.ledger.finish import Outcome, finish
from clockjack.ledger.runs import Held, Popped
from clockjack.queues import Queues, job_id
from consumers.engine import BATCH
from consumers.execution import Pool, boot_s
from tests.bench.measure import Meter
from tests.prove.stage import Stage

WORKER = "limits"


def limits(stage: Stage, number: int = 10_000) -> dict[str, Any]:
    """µs a run of each step, by itself: wall time, and processor time of this process and of the server."""
    gc.collect()
    gc.freeze()  # as a consumer does
    gc.set_threshold(50_000, 20, 100)
    stage.begin()
    stage.register([stage.now_us() - 1_000_000] * number, handler="bench.mark")
    steps: dict[str, dict[str, float]] = {}
    ready: list[Ready] = []
    rows: list[dict[str, Any]] = []
    memory = claim.Memory()

    def claims() -> None:
        while (done := claim.claim(stage.ledger, {}, memory=memory)).tasks:
            ready.extend(done.ready)

    def starts() -> None:
        for part in chunks(ready, BATCH):
            popped = [Popped(r.run_id, r.due_at, r.attempt) for r in part]
            token = os.urandom(16)
            rows.extend(stage.ledger.transaction(lambda c, p=popped, t=token: runs.start(c, p, t, WORKER)).execute)

    def finishes() -> None:
        for part in chunks(rows, BATCH):
            done = [Outcome(Held(r["id"], r["due_at"], r["attempt"], r["token"]), "succeeded") for r in part]
            stage.ledger.transaction(lambda c, o=done: finish(c, o))

    def time_of(name: str, step: Callable[[], Any], server: int) -> None:
        meter, begun, own = Meter({"server": server}), time.perf_counter(), time.process_time()
        step()
        wall_s, own_s = time.perf_counter() - begun, time.process_time() - own
        steps[name] = {
            "wall_us": round(wall_s / number * 1e6, 1),
            "own_us": round(own_s / number * 1e6, 1),
            "server_us": meter.us_per_run(number)["server"] if server != os.getpid() else 0.0,
        }

    time_of("claim", claims, stage.database.pid)
    time_of("push", lambda: stage.queues.push(ready, stage.now_us() - 2_000_000), stage.redis.pid)
    time_of("release", lambda: _release(stage.queues, stage.now_us()), stage.redis.pid)
    time_of("pop and acknowledge", lambda: _pops(stage.queues, stage.now_us()), stage.redis.pid)
    time_of("start", starts, stage.database.pid)
    time_of("execute", lambda: _execute(rows, stage.clock), os.getpid())
    time_of("finish", finishes, stage.database.pid)
    left = stage.live()
    stage.begin()
    one = sum(step["wall_us"] for step in steps.values())
    return {"number": number, "batch": BATCH, "steps": steps, "one_process_per_s": round(1e6 / one), "left": left}


def _release(queues: Queues, now_us: int) -> None:
    while queues.release(["default"], now_us)[0]:
        pass


def _pops(queues: Queues, now_us: int) -> None:
    done: list[str] = []
    while True:
        popped, _ = queues.step("default", WORKER, now_us, (BATCH, BATCH, 1), done)
        done = [job_id(p.run_id, p.attempt) for p in popped]
        if not done:
            return


def _execute(rows: list[dict[str, Any]], clock: Clock) -> None:
    """All rows went through the consumer's pool with a handler that does nothing."""
    pool = Pool(50, lambda job, run: None, clock, threading.Event())
    try:
        for part in chunks(rows, BATCH):
            sent_s = boot_s()
            pool.add(list(part), sent_s, sent_s)
            while len(pool.outcomes) < len(part):
                time.sleep(0.0005)
            pool.outcomes.clear()
            pool.jobs.clear()
    finally:
        pool.close()
