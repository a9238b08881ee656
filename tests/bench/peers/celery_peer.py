"""Celery on Redis: the application for `celery worker`; run as a program, it registers N tasks with an eta."""

import os
import sys
from datetime import UTC, datetime

from celery import Celery

from tests.bench.casting import Caller, Dues, serve
from tests.bench.mark import mark

DUES = Dues()
app = Celery("bench", broker=f"redis+socket://{os.environ['BENCH_REDIS']}")
app.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=100,
    worker_disable_rate_limits=True,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
    task_default_queue="bench",
    timezone="UTC",
    broker_pool_limit=40,
)


@app.task(name="mark")
def write(key: str, due_us: int) -> None:
    mark(key, due_us)


def register(number: int, due_us: int) -> None:
    eta = datetime.fromtimestamp(due_us // 1_000_000, UTC)
    with app.producer_pool.acquire(block=True) as producer:
        for i in range(number):
            write.apply_async((str(i), due_us), eta=eta, producer=producer)


def caller() -> Caller:
    producer = app.producer_pool.acquire(block=True)

    def call(size: int) -> None:
        key, due_us = DUES.more(size)[0]
        eta = datetime.fromtimestamp(due_us / 1e6, UTC)
        write.apply_async((str(key), due_us), eta=eta, producer=producer)

    return call


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(caller, 1)
    else:
        register(int(sys.argv[1]), int(sys.argv[2]))
