"""Handlers that wait: on a thread each, on a loop each, or on one loop; 200 ms of sleep, or of waiting for an answer.

`python -m tests.bench.waiting KIND IN_FLIGHT PORT` is one round in a process of its own: the consumer's pool, with
nothing before or behind it.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from clockjack.handlers import Run
from clockjack.ledger.clock import Clock
from clockjack.targets import Policy
from consumers.delivery import Delivery
from consumers.execution import Pool, boot_s
from tests.bench.measure import rss_mb
from tests.bench.webhooks import receiver
from tests.prove.stage import ROOT, Stage

WAIT_S, WAVES = 0.2, 10
KINDS = ("thread sleeps", "loop each", "one loop", "thread posts", "one loop posts")


def waiting(stage: Stage, in_flight: str = "100,300,1000", rounds: int = 3) -> dict[str, Any]:
    """Each kind with so many in flight, by turns: medians of the rounds."""
    stage.begin()
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    with receiver(stage, round(WAIT_S * 1000)) as (_, url):
        for _ in range(rounds):
            for number in map(int, in_flight.split(",")):
                for kind in KINDS:
                    words = [
                        sys.executable,
                        "-m",
                        "tests.bench.waiting",
                        kind,
                        str(number),
                        url.strip("/").split(":")[2],
                    ]
                    said = subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.PIPE, timeout=300).stdout
                    found.setdefault((kind, number), []).append(json.loads(said))
    rows = [
        {"kind": kind, "in_flight": number, "of_rate": number / WAIT_S}
        | {name: round(statistics.median(one[name] for one in some), 1) for name in some[0]}
        for (kind, number), some in sorted(found.items(), key=lambda item: (item[0][1], KINDS.index(item[0][0])))
    ]
    return {"wait_ms": WAIT_S * 1000, "rounds": rounds, "load_average": os.getloadavg()[0], "kinds": rows}


def handlers(port: int) -> dict[str, Callable[[Run], Any]]:
    """What the kinds do with a run."""

    async def sleep(run: Run) -> None:
        await asyncio.sleep(WAIT_S)

    async def bare_post(run: Run) -> None:  # the least that a client can do
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nIdempotency-Key: {run.key}\r\nContent-Length: 2\r\n\r\n{{}}"
        writer.write(head.encode())
        status = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        if b" 200 " not in status:
            raise ConnectionError(status)

    post = Delivery(Policy.of(["127.0.0.0/8"]), lambda: 0)
    return {
        "thread sleeps": lambda run: time.sleep(WAIT_S),
        "loop each": lambda run: asyncio.run(sleep(run)),
        "one loop": sleep,
        "thread posts": lambda run: post(run) and None,
        "one loop posts": bare_post,
    }


def play(kind: str, in_flight: int, port: int) -> dict[str, float]:
    """Ten times as many runs as may be in flight go through the pool as fast as it takes them."""
    handle, wake, clock = handlers(port)[kind], threading.Event(), Clock()
    payload = json.dumps({"url": f"http://127.0.0.1:{port}/", "body": {}})
    row = {"task_id": 1, "namespace": "default", "name": None, "handler": kind, "payload": payload, "failures": 0}
    row |= {"timeout_s": 60, "fresh": False, "origin": "schedule", "due_at": datetime.now(UTC).replace(tzinfo=None)}
    row |= {"attempt": 1, "token": b"", "max_failures": 1, "backoff_s": 0, "backoff_max_s": 0}
    before_mb = rss_mb(os.getpid())
    pool = Pool(in_flight, lambda job, run: handle(run), clock, wake)
    left = [row | {"id": i} for i in range(in_flight * WAVES)]
    number, done = len(left), 0
    begun, begun_cpu = time.perf_counter(), time.process_time()
    while done < number:
        most, _ = pool.room(500)
        if part := [left.pop() for _ in range(min(most, len(left)))]:
            now_s = boot_s()
            pool.add(part, now_s, now_s)
        wake.wait(0.1)
        wake.clear()
        while pool.outcomes:
            job, outcome = pool.outcomes.popleft()
            pool.forget(job)
            done += outcome.kind == "succeeded"
            if outcome.kind == "failed":
                raise RuntimeError(outcome.error)
            if outcome.kind == "handed_back":
                left.append(job.row)
    spent_s, cpu_s = time.perf_counter() - begun, time.process_time() - begun_cpu
    memory_mb = rss_mb(os.getpid()) - before_mb
    return {"rate_per_s": number / spent_s, "cpu_us_per_run": cpu_s / number * 1e6, "memory_mb": memory_mb}


if __name__ == "__main__":
    print(json.dumps(play(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))), flush=True)
    os._exit(0)
