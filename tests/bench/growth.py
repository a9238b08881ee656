"""Whether large tables cost anything: the same bursts on empty tables and on full ones, by turns.

The full data directory is made once, inside the server, and kept as a template in .local/bench/templates; each
measurement works on a copy. A template is made anew when its runs are a week old, before retention would drop them.
"""

import contextlib
import hashlib
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clockjack.ledger.database import Database
from clockjack.ledger.migrate import migrate
from deploy import servers
from tests.bench import filling
from tests.bench.clockjack_side import ahead, cast, figures, finished, sleep_until, wait_for
from tests.bench.installing import HOME
from tests.bench.load import A_SECOND, LEAD_S, PATIENCE_S
from tests.prove.stage import ROOT, Stage

TEMPLATES = HOME / "templates"
POOL = "2G"
OLD_S = 7 * 86_400.0


def growth(
    stage: Stage, future: int = 10_000_000, past: int = 30_000_000, number: int = 10_000, rounds: int = 3
) -> dict[str, Any]:
    """Lateness of a burst and time of a claim, 2 dispatchers and 2 consumers: empty, full, and their ratios.

    `stage` is not used: empty and full tables get servers of the same size, one beside the other.
    """
    stage.end()
    measured: dict[str, list[dict[str, float]]] = {"empty": [], "full": []}
    with contextlib.ExitStack() as stack:
        stages = {"empty": stack.enter_context(_stage(None)), "full": stack.enter_context(_stage((future, past)))}
        for _ in range(rounds):
            for name, one in stages.items():
                measured[name].append(_burst(one, number))
    medians = {
        name: {key: round(statistics.median(r[key] for r in rounds_), 3) for key in rounds_[0]}
        for name, rounds_ in measured.items()
    }
    ratio = {key: round(medians["full"][key] / value, 3) for key, value in medians["empty"].items() if value}
    return (
        {"future_tasks": future, "past_runs": past, "number": number, "rounds": measured} | medians | {"ratio": ratio}
    )


def _burst(stage: Stage, number: int) -> dict[str, float]:
    stage.begin()
    processes = cast(stage, dispatchers=2, consumers=2)
    due_us = ahead(LEAD_S + number / A_SECOND)
    expected = stage.register([due_us] * number, handler="bench.mark")
    sleep_until(due_us)
    wait_for(stage, number, due_us, PATIENCE_S)
    dispatchers = [process for process in processes.values() if process.kind == "dispatcher"]
    claim_s = sum(process.metric("clockjack_claim_seconds_sum") for process in dispatchers)
    effects, _ = finished(stage, expected)
    stage.end()
    late = figures(effects)
    return {"p50_ms": late.p50, "p99_ms": late.p99, "max_ms": late.max, "claim_us_per_run": claim_s / number * 1e6}


@contextlib.contextmanager
def _stage(sizes: tuple[int, int] | None) -> Iterator[Stage]:
    """A stage on a copy of the template of these sizes, or on empty tables."""
    HOME.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="growth-", dir=HOME))
    try:
        if sizes:
            (home / "database").mkdir(mode=0o700)
            copy = ["cp", "-a", "--reflink=auto", str(template(*sizes)), str(home / "database/data")]
            subprocess.run(copy, check=True)
        with contextlib.closing(Stage(home, innodb_buffer_pool_size=POOL)) as stage:
            yield stage
    finally:
        shutil.rmtree(home, ignore_errors=True)


def template(future: int, past: int) -> Path:
    """A data directory with so many future tasks and past runs, of this schema, shut down in good order."""
    schema = hashlib.sha256()
    for revision in sorted((ROOT / "clockjack/ledger/migrations/versions").glob("r*.py")):
        schema.update(revision.read_bytes())
    made = TEMPLATES / f"{schema.hexdigest()[:12]}-{future}-{past}"
    if made.exists() and time.time() - made.stat().st_mtime < OLD_S:
        return made
    shutil.rmtree(made, ignore_errors=True)
    TEMPLATES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TEMPLATES, prefix=".draft-") as draft:
        fast = {"innodb_flush_log_at_trx_commit": "0", "innodb_log_file_size": "256M"}  # it can be made again
        server = servers.database(draft, innodb_buffer_pool_size=POOL, **fast)
        try:
            migrate(server.url)
            database = Database(server.url, size=1, locks=False)
            filling.future_tasks(database, future)
            filling.past_runs(database, past)
            for table in ("tasks", "runs"):
                database.transaction(lambda c, t=table: list(c.exec_driver_sql(f"ANALYZE TABLE {t}")))
            database.close()
        finally:
            server.stop()
        Path(draft, "data").rename(made)
    made.touch()
    return made
