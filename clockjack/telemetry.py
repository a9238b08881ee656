"""What the processes tell: one JSON log line an event, and metrics on /metrics.

A histogram sees only what did happen; so the gauges `oldest_due_age_seconds` and `last_tick_timestamp_seconds` are what
pages somebody when nothing happens any more. Labels are queues, handlers and outcomes, never ids.
"""

import logging
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import accumulate

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.utils import floatToGoString
from pythonjsonlogger.json import JsonFormatter

BUCKETS = (
    0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 0.75,
    1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.5, 10.0, 30.0, 60.0, 300.0, 3600.0,
)  # fmt: skip


class Durations:
    """A histogram of what happens thousands of times a second, with one label; each child is observed by one thread.

    The library's own takes locks and walks through the buckets, which costs more than many a handler.
    """

    class Child:
        """The observations of one label value."""

        def __init__(self) -> None:
            self.counts, self.sum_s = [0] * (len(BUCKETS) + 1), 0.0

        def observe(self, value_s: float) -> None:
            """One more observation."""
            self.counts[bisect_left(BUCKETS, value_s)] += 1
            self.sum_s += value_s

    def __init__(self, name: str, documentation: str, label: str) -> None:
        self._what = (name, documentation, [label])
        self._children: dict[str, Durations.Child] = {}
        REGISTRY.register(self)

    def labels(self, value: str) -> "Durations.Child":
        """The child of this label value."""
        return self._children.setdefault(value, Durations.Child())

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """What Prometheus reads."""
        name, documentation, labels = self._what
        family = HistogramMetricFamily(name, documentation, labels=labels)
        for value, child in list(self._children.items()):
            edges = [*map(floatToGoString, BUCKETS), "+Inf"]
            buckets = list(zip(edges, accumulate(child.counts), strict=True))
            family.add_metric([value], buckets, child.sum_s)
        yield family


REGISTRATION = Histogram(
    "clockjack_registration_seconds", "Producer: request to durable row", ["door"], buckets=BUCKETS
)
STAGING = Durations(
    "clockjack_staging_seconds",
    "Dispatcher: from the moment a task could be claimed to its run being staged in Redis",
    "notice",
)
RELEASE = Histogram("clockjack_release_seconds", "Release: due to in the queue", buckets=BUCKETS)
QUEUE_WAIT = Durations("clockjack_queue_wait_seconds", "Consumer: in the queue and due to started", "slot")
LATENESS = Durations("clockjack_start_lateness_seconds", "Due to handler entered, first attempts", "queue")
DURATION = Durations("clockjack_run_duration_seconds", "Handler entered to left", "queue")
OUTCOMES = Counter("clockjack_runs_total", "Attempts by outcome", ["queue", "outcome"])
CLAIMED = Counter("clockjack_claimed_total", "Runs claimed from due tasks")
INVALID = Counter("clockjack_invalid_tasks_total", "Tasks parked as invalid")
REPUSHED = Counter("clockjack_repushed_total", "Ready runs that were looked at again and pushed")
LOST = Counter("clockjack_lost_attempts_total", "Attempts whose lease ran out")
FENCED = Counter("clockjack_fenced_total", "Starts and outcomes refused by the fence", ["step"])
CLAIM_SECONDS = Histogram("clockjack_claim_seconds", "One claim transaction that claimed something", buckets=BUCKETS)
ENDPOINTS_DISABLED = Counter("clockjack_endpoints_disabled_total", "Endpoints whose receivers answered 410 Gone")
EXPECTATIONS = Counter("clockjack_expectations_total", "Expectations that changed their state", ["state"])
ERRORS = Counter("clockjack_errors_total", "Failed steps of the loops", ["step", "kind"])
CLOCK_JUMPS = Gauge("clockjack_clock_jumps", "Jumps of the database's clock seen by this process")
OLDEST_DUE = Gauge("clockjack_oldest_due_age_seconds", "Age of the oldest due task or run that has not started")
WAITING = Gauge("clockjack_queue_waiting", "Runs in a queue", ["queue"])
WAITING_AGE = Gauge("clockjack_queue_oldest_age_seconds", "Age of the oldest waiting run of a queue", ["queue"])
SERVED = Gauge("clockjack_queue_consumers", "Consumers that serve a queue", ["queue"])
PAUSED = Gauge("clockjack_queue_paused", "1 for a queue that is paused", ["queue"])
LAST_TICK = Gauge("clockjack_last_tick_timestamp_seconds", "When a loop of this process last finished a step", ["loop"])


class _Formatter(JsonFormatter):
    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def log_to_stdout(level: str, process: str) -> None:
    """Every logger of this process writes JSON lines to stdout; payloads and secrets are never among the fields."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        _Formatter(
            "%(asctime)s %(levelname)s %(name)s %(message)s",
            rename_fields={"asctime": "at", "levelname": "level", "name": "logger"},
            static_fields={"process": process},
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("rq", "uvicorn", "uvicorn.access", "httpx2", "alembic"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLogger().level))


def serve_metrics(port: int) -> int:
    """/metrics answers on 127.0.0.1 at `port`, or at a free one when 0; returns the port."""
    server, _ = start_http_server(port, addr="127.0.0.1")
    return int(server.server_address[1])


def ticked(loop: str) -> None:
    """The loop finished a step just now."""
    LAST_TICK.labels(loop).set(time.time())


def wall_clock() -> Callable[[], float]:
    """Seconds since 1970 for timestamps that leave the house and for rate limits; never for deciding what is due."""
    return time.time
