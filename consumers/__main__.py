"""`python -m consumers`: one consumer process for one queue."""

import gc
import os
import sys
from typing import Any

from clockjack import telemetry
from clockjack.handlers import Run, load
from clockjack.ledger import server
from clockjack.ledger.database import Database, LoginRefused
from clockjack.settings import for_process
from consumers import builtin
from consumers.execution import Job
from consumers.isolation import Children
from consumers.leaks import leaking
from consumers.worker import BatchWorker


class UnknownHandler(Exception):
    """This consumer has no handler of that name."""


def main() -> int:
    """Serve the queue until SIGTERM; the exit code."""
    settings = for_process("consumer")
    telemetry.log_to_stdout(settings.log_level, "consumer")
    database = Database(settings.database_url, size=3)
    try:
        registry = load(settings.handlers)
    except Exception as error:
        print(f"consumer: CLOCKJACK_HANDLERS={','.join(settings.handlers)}: {error!r}", file=sys.stderr)
        return 2
    if why := leaking(settings.memory_mb):
        print(f"consumer: before its first run it has {why}", file=sys.stderr)
        return 2
    builtin.install(settings, database.clock.now_us)
    children = Children(settings, settings.concurrency) if settings.isolated else None

    def call(job: Job, run: Run) -> Any:
        function = registry.get(run.handler)
        if function is None:
            raise UnknownHandler(f"no consumer of queue {settings.queue!r} knows a handler named {run.handler!r}")
        if children is not None:
            return children.call(run, database.clock.now_us(), lambda child: worker.engine.pool.owns(job, child))
        return function(run)  # or a coroutine, which the pool awaits

    gc.collect()
    gc.freeze()  # a batch makes thousands of objects that live for milliseconds: looking through all others costs more
    gc.set_threshold(50_000, 20, 100)
    worker = BatchWorker(settings, database, lambda: list(registry), call)
    worker.engine.pool.isolated = settings.isolated
    telemetry.serve_metrics(settings.metrics_port)
    try:
        clean = worker.work()
    except (LoginRefused, server.Unfit) as error:
        print(f"consumer: {error}", file=sys.stderr)
        return 2
    sys.stdout.flush()
    os._exit(0 if clean else 1)  # threads of handlers that did not stop must not keep the process


if __name__ == "__main__":
    sys.exit(main())
