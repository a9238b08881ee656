"""Celery on Redis: the application for `celery worker`; run as a program, it registers N tasks with an eta."""

import os
import sys
from datetime import UTC, datetime

from celery import Celery

from tests.bench.mark import mark

app = Celery("bench", broker=f"redis+socket://{os.environ['BENCH_REDIS']}")
app.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=100,
    worker_disable_rate_limits=True,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
    task_default_queue="bench",
    timezone="UTC",
)


@app.task(name="mark")
def write(key: str, due_us: int) -> None:
    mark(key, due_us)


def register(number: int, due_us: int) -> None:
    eta = datetime.fromtimestamp(due_us // 1_000_000, UTC)
    with app.producer_pool.acquire(block=True) as producer:
        for i in range(number):
            write.apply_async((str(i), due_us), eta=eta, producer=producer)


if __name__ == "__main__":
    register(int(sys.argv[1]), int(sys.argv[2]))
