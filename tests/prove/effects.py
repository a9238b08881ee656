"""Exactly once for MySQL effects: what a handler counted through run.transaction() is what succeeded, exactly."""

import signal
import time

from tests.prove.counted import TABLES
from tests.prove.deaths import PLACES
from tests.prove.stage import Stage, until

SETTINGS = {"handlers": "tests.prove.counted", "concurrency": 4, "builtin": "none"}
LATEST_S = 35.0  # a lease, a session's idle time that began with it, one look


def counter(stage: Stage, runs: int, lives: int) -> tuple[str, bool]:
    """A consumer that dies `lives` times, at every statement of start, work and finish, and one that ends the work."""
    _register(stage, runs)
    mortal = stage.start("consumer", ("die-everywhere", str(lives)), wait=False, **SETTINGS)
    ended = mortal.ended(20 + 4 * lives) is not None
    stage.start("consumer", **SETTINGS)
    until(lambda: stage.one("SELECT COUNT(*) FROM runs WHERE state = 'succeeded'") == runs, 60 + runs / 20, 0.2)
    reached = {said.rpartition(" ")[0] for said in mortal.said()}
    missed = {place.replace(" ", "-") for place in PLACES} - reached
    succeeded = stage.one("SELECT COUNT(*) FROM runs WHERE state = 'succeeded'")
    total = stage.one("SELECT n FROM app.counter")
    wrong = stage.one(
        "SELECT COUNT(*) FROM (SELECT r.id, r.state = 'succeeded' AS good, COUNT(c.run_key) AS n FROM runs r"
        " LEFT JOIN app.counted c ON c.run_key = CONCAT(r.task_id, '-',"
        " TIMESTAMPDIFF(MICROSECOND, '1970-01-01', r.due_at)) AND c.attempt = r.attempt"
        " GROUP BY r.id, good HAVING n <> good) AS odd"
    )
    rows = stage.one("SELECT COUNT(*) FROM app.counted")
    lost = stage.one("SELECT COUNT(*) FROM attempts")
    figure = (
        f"{len(mortal.said())} deaths at {len(reached)} of {len(PLACES)} places, {lost} attempts lost;"
        f" {succeeded}/{runs} runs succeeded, counter {total}, rows {rows}, differences {wrong}"
    )
    if missed:
        figure += f"; never died {', '.join(sorted(missed))}"
    return figure, ended and not missed and lost > 0 and succeeded == total == rows == runs and not wrong


def frozen(stage: Stage) -> tuple[str, bool]:
    """A consumer is stopped between the last statement and COMMIT, for longer than its lease, and goes on."""
    _register(stage, 1)
    held = stage.start("consumer", ("stop-before-success",), wait=False, **SETTINGS)
    begun = until(lambda: held.frozen, 20)
    since = time.monotonic()
    stage.start("consumer", **SETTINGS)
    other = until(lambda: stage.one("SELECT COUNT(*) FROM runs WHERE state = 'succeeded'") == 1, LATEST_S + 10)
    spent_s = time.monotonic() - since
    held.send(signal.SIGCONT)
    refused = until(lambda: held.metric("clockjack_fenced_total") > 0, 20, 0.5)
    attempt, failures = stage.sql("SELECT attempt, failures FROM runs")[0]
    rows = stage.sql("SELECT attempt FROM app.counted")
    total = stage.one("SELECT n FROM app.counter")
    figure = (
        f"the other one succeeded {spent_s:.1f} s later, attempt {attempt}; counter {total}, rows of attempts"
        f" {[row[0] for row in rows]}; the first one was {'refused' if refused else 'not refused'}"
    )
    once = (attempt, failures, total, [row[0] for row in rows]) == (2, 1, 1, [2])
    return figure, begun and other and refused and once and spent_s <= LATEST_S and held.alive


def _register(stage: Stage, runs: int) -> None:
    stage.sql("DROP DATABASE IF EXISTS app")
    for statement in TABLES:
        stage.sql(statement)
    stage.start("dispatcher")
    columns = {"max_failures": 1_000, "backoff_s": 0, "timeout_s": 300}
    stage.register([stage.now_us()] * runs, handler="count", **columns)
