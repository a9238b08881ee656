"""RQ: `work` is one SimpleWorker with the scheduler, `register N due_us` enqueues N jobs at a time."""

import os
import sys
from datetime import UTC, datetime

from redis import Redis
from rq import Queue, SimpleWorker
from rq.serializers import JSONSerializer

from tests.bench.casting import Caller, Dues, serve
from tests.bench.mark import mark

DUES = Dues()
connection = Redis(unix_socket_path=os.environ["BENCH_REDIS"])


def work() -> None:
    worker = SimpleWorker(["bench"], connection=connection, serializer=JSONSerializer)
    worker.work(with_scheduler=True, logging_level="WARNING")


def register(number: int, due_us: int) -> None:
    queue = Queue("bench", connection=connection, serializer=JSONSerializer)
    at = datetime.fromtimestamp(due_us // 1_000_000, UTC)
    for i in range(0, number, 500):
        with connection.pipeline() as pipe:
            for key in range(i, min(number, i + 500)):
                queue.enqueue_at(at, mark, str(key), due_us, result_ttl=0, pipeline=pipe)
            pipe.execute()


def caller() -> Caller:
    queue = Queue("bench", connection=connection, serializer=JSONSerializer)

    def call(size: int) -> None:
        key, due_us = DUES.more(size)[0]
        queue.enqueue_at(datetime.fromtimestamp(due_us / 1e6, UTC), mark, str(key), due_us, result_ttl=0)

    return call


if __name__ == "__main__":
    if sys.argv[1] == "work":
        work()
    elif sys.argv[1] == "serve":
        serve(caller, 1)
    else:
        register(int(sys.argv[2]), int(sys.argv[3]))
