"""dramatiq on Redis: the module for `dramatiq`; run as a program, it registers N messages with a delay."""

import os
import sys
import time

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Retries

from tests.bench.mark import mark

broker = RedisBroker(client=redis.Redis(unix_socket_path=os.environ["BENCH_REDIS"]), middleware=[Retries()])
dramatiq.set_broker(broker)


@dramatiq.actor(actor_name="mark", queue_name="bench")
def write(key: str, due_us: int) -> None:
    mark(key, due_us)


def register(number: int, due_us: int) -> None:
    for i in range(number):
        delay_ms = -(-(due_us - time.time_ns() // 1000) // 1000)
        write.send_with_options(args=(str(i), due_us), delay=delay_ms)


if __name__ == "__main__":
    register(int(sys.argv[1]), int(sys.argv[2]))
