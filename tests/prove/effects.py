"""Exactly once for MySQL effects: what a handler counted through run.transaction() is what succeeded, exactly."""

from tests.prove.counted import TABLES
from tests.prove.deaths import PLACES
from tests.prove.stage import Stage, until

AT_ONCE = 4


def counter(stage: Stage, runs: int, lives: int) -> tuple[str, bool]:
    """A consumer that dies `lives` times, at every statement of start, work and finish, and one that ends the work."""
    stage.sql("DROP DATABASE IF EXISTS app")
    for statement in TABLES:
        stage.sql(statement)
    settings = {"handlers": "tests.prove.counted", "concurrency": AT_ONCE, "builtin": "none"}
    stage.start("dispatcher")
    columns = {"max_failures": 1_000, "backoff_s": 0, "timeout_s": 30}
    stage.register([stage.now_us()] * runs, handler="count", **columns)
    mortal = stage.start("consumer", ("die-everywhere", str(lives)), wait=False, **settings)
    ended = mortal.ended(20 + 4 * lives) is not None
    stage.start("consumer", **settings)
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
