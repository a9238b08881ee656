"""What the processes cost while nothing is due."""

import time
from typing import Any

from tests.bench import filling
from tests.bench.clockjack_side import SETTINGS, cast, pids
from tests.bench.measure import Meter, rss_mb
from tests.prove.stage import Stage


def idle(stage: Stage, future: int = 1_000_000, seconds: int = 30) -> dict[str, Any]:
    """Processor and memory of each process, with so many future tasks in the table."""
    stage.begin()
    filling.future_tasks(stage.ledger, future)
    processes = cast(stage, dispatchers=2, consumers=2)
    processes["producer.1"] = stage.start("producer", **SETTINGS)
    time.sleep(10)  # what a start costs is over
    who = pids(stage, processes)
    meter = Meter(who)
    time.sleep(seconds)
    percent = meter.percent()
    memory = {name: round(rss_mb(pid), 1) for name, pid in who.items()}
    stage.end()
    return {"future_tasks": future, "seconds": seconds, "cpu_percent": percent, "rss_mb": memory}
