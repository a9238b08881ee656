"""Webhooks: the product's own `http` handler, and a receiver that takes its time."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from tests.bench.clockjack_side import SECOND, ahead, cast, figures, finished, pids, sleep_until, wait_for
from tests.bench.load import A_SECOND, LEAD_S, PATIENCE_S
from tests.bench.measure import Meter
from tests.prove.stage import ROOT, Stage, die_with_parent


def webhooks(
    stage: Stage, rate: int = 1_000, seconds: int = 20, delay_ms: int = 200, consumers: int = 2, concurrency: int = 200
) -> dict[str, Any]:
    """So many POSTs a second, each answered after `delay_ms`. Lateness is from due to the request's arrival.

    `sustained_per_s` is what went through from the first due time to the last arrival.
    """
    stage.begin()
    with receiver(stage, delay_ms) as (process, url):
        crew = cast(stage, 1, consumers, http_allow="127.0.0.0/8", concurrency=concurrency)
        who = pids(stage, crew) | {"receiver": process.pid}
        begin_us, number = ahead(LEAD_S + rate * seconds / A_SECOND), rate * seconds
        dues = [begin_us + i * SECOND // rate for i in range(number)]
        expected = stage.register(dues, f'{{"url": "{url}", "body": {{"hello": 1}}}}', "http")
        sleep_until(begin_us)
        meter = Meter(who)
        time.sleep(seconds)
        percent = meter.percent()
        wait_for(stage, number, dues[-1], PATIENCE_S)
        effects, _ = finished(stage, expected)
        stage.end()
    last_us = max(entry.now_us for entry in effects.all)
    return {
        "rate": rate,
        "seconds": seconds,
        "delay_ms": delay_ms,
        "consumers": consumers,
        "concurrency": concurrency,
        "sustained_per_s": round(number / ((last_us - begin_us) / 1e6), 1),
        "lateness_ms": figures(effects)._asdict(),
        "cpu_percent": percent,
    }


@contextlib.contextmanager
def receiver(stage: Stage, delay_ms: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The receiver and its URL, for as long as this lasts."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.receiver", str(delay_ms)],
        cwd=ROOT,
        env={**os.environ, "CLOCKJACK_EFFECTS": str(stage.effects)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,
    )
    try:
        assert process.stdout is not None
        yield process, f"http://127.0.0.1:{int(process.stdout.readline())}/"
    finally:
        process.kill()
        process.wait()
