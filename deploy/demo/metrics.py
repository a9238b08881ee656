"""What the processes say of themselves at /metrics: are they at work, and how long did each stage take."""

import contextlib
import http.client
import re
import threading
from collections import defaultdict
from dataclasses import dataclass

from deploy.supervisor import Supervisor

SCRAPE_S = 0.5
LINE = re.compile(r"(clockjack_(?:\w+)_seconds(?:_bucket)?)\{(.*)\} (\S+)")
LABEL = re.compile(r'(\w+)="([^"]*)"')
LOOPS = {  # a process is at work when each of these loops has finished a step
    "dispatcher": {"claim", "release", "look_again"},
    "consumer": {"consumer", "heartbeat"},
}


@dataclass(frozen=True, slots=True)
class Stage:
    """A promise of the design about one histogram: its p99 is at most `promise_ms`."""

    name: str
    histogram: str
    labels: tuple[tuple[str, str], ...]
    promise_ms: float
    says: str
    extra: bool = False  # a second promise of its stage: in the table only


STAGES = (
    Stage("producer", "clockjack_registration_seconds", (), 50, "request to durable row"),
    Stage("dispatcher", "clockjack_staging_seconds", (("notice", "ahead"),), 4000, "staged ≥ 1 s before due"),
    Stage(
        "due now", "clockjack_staging_seconds", (("notice", "now"),), 250, "a task due now: row to staged", extra=True
    ),
    Stage("release", "clockjack_release_seconds", (), 20, "due to in the queue"),
    Stage("consumer", "clockjack_queue_wait_seconds", (("slot", "free"),), 200, "queue to started, free slot"),
)
Series = tuple[str, tuple[tuple[str, str], ...]]


def fetch(port: int, path: str) -> tuple[int, str]:
    """What 127.0.0.1 answers: status and body; OSError when nobody does."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except http.client.HTTPException as error:
        raise OSError(str(error)) from error
    finally:
        connection.close()


def at_work(name: str, port: int) -> bool:
    """Whether the process of this name does its work: the producer is ready, the loops of the others have ticked."""
    line = name.split(".")[0]
    with contextlib.suppress(OSError):
        if line == "producer":
            return fetch(port, "/readyz")[0] == 200
        if line not in LOOPS:
            return fetch(port, "/")[0] > 0
        found = _parse(fetch(port, "/metrics")[1])
        ticks = {dict(labels).get("loop") for name, labels in found if name == "clockjack_last_tick_timestamp_seconds"}
        return ticks >= LOOPS[line]
    return False


class Metrics:
    """The latest metrics of every process that lived; those of a killed one stay. Scraped twice a second."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._last: dict[tuple[str, int], dict[Series, float]] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="metrics", daemon=True)

    def start(self) -> "Metrics":
        """The scraping has begun."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """The metrics are as of now, and no longer scraped."""
        self._stopping.set()
        self._thread.join()
        self._scrape()

    def p99_ms(self, stage: Stage) -> float | None:
        """The p99 over all processes, interpolated within its bucket; None when nothing was observed."""
        buckets: defaultdict[float, float] = defaultdict(float)
        for series in list(self._last.values()):
            for (name, labels), value in series.items():
                if name == f"{stage.histogram}_bucket" and set(stage.labels) <= set(labels):
                    buckets[float(dict(labels)["le"])] += value
        return quantile_ms(dict(buckets), 0.99)

    def _loop(self) -> None:
        while not self._stopping.wait(SCRAPE_S):
            self._scrape()

    def _scrape(self) -> None:
        for process in self._supervisor.processes():
            if process["name"].split(".")[0] in {"producer", *LOOPS}:
                with contextlib.suppress(OSError):
                    self._last[process["name"], process["pid"]] = _parse(fetch(process["port"], "/metrics")[1])


def quantile_ms(buckets: dict[float, float], q: float) -> float | None:
    """The quantile of a histogram (cumulative counts by upper bound in s) in ms; of the last bound when beyond it."""
    total = buckets.get(float("inf"), 0.0)
    if not total:
        return None
    low, below = 0.0, 0.0
    for bound, count in sorted(buckets.items()):
        if count >= q * total:
            if bound == float("inf"):
                break
            return 1000 * (low + (bound - low) * (q * total - below) / (count - below))
        low, below = bound, count
    return 1000 * low


def _parse(text: str) -> dict[Series, float]:
    """The series about seconds in Prometheus' text format."""
    found = {}
    for line in text.splitlines():
        if match := LINE.fullmatch(line):
            found[match[1], tuple(LABEL.findall(match[2]))] = float(match[3])
    return found
