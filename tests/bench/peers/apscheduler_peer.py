"""APScheduler 3 on MySQL: `register N due_us` stores N jobs; `work`, one process, executes them with 20 threads."""

import os
import sys
import time
from datetime import UTC, datetime

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler

from tests.bench.mark import mark

scheduler = BackgroundScheduler(
    jobstores={"default": SQLAlchemyJobStore(url=os.environ["BENCH_DATABASE"], tablename="bench_apscheduler")},
    executors={"default": ThreadPoolExecutor(20)},
    job_defaults={"misfire_grace_time": None, "coalesce": False},
    timezone=UTC,
)


def register(number: int, due_us: int) -> None:
    scheduler.start(paused=True)
    at = datetime.fromtimestamp(due_us // 1_000_000, UTC)
    for i in range(number):
        scheduler.add_job(mark, "date", run_date=at, args=(str(i), due_us), id=str(i))


if __name__ == "__main__":
    if sys.argv[1] == "work":
        scheduler.start()
        while True:
            time.sleep(1)
    register(int(sys.argv[2]), int(sys.argv[3]))
