"""Clockjack's handler of the benchmarks, as a user would write it: CLOCKJACK_HANDLERS=tests.bench.handlers."""

import time
from datetime import UTC, datetime

from clockjack import Run, handler
from tests.bench.mark import mark

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@handler("bench.mark")
def write(run: Run) -> None:
    """The run's line is written."""
    since = run.due_at - EPOCH
    mark(run.key, (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds, run.attempt)


@handler("bench.entered")
def entered(run: Run) -> float:
    """When the handler was entered, on the clock that all processes of this machine share."""
    return time.monotonic()


@handler("bench.wait")
def wait(run: Run) -> None:
    """The run's line is written, and its thread was busy without computing for `payload.ms` ms."""
    write(run)
    time.sleep(run.payload["ms"] / 1000)
