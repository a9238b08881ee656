"""The handler of the proof `counter`: it counts, through run.transaction()."""

from sqlalchemy import text

from clockjack import Run, handler

TABLES = (
    "CREATE DATABASE IF NOT EXISTS app",
    "CREATE TABLE app.counted (run_key VARCHAR(60) NOT NULL, attempt INT NOT NULL)",  # a row too much is no error
    "CREATE TABLE app.counter (id INT PRIMARY KEY, n INT NOT NULL)",
    "INSERT INTO app.counter VALUES (1, 0)",
    "GRANT SELECT, INSERT, UPDATE ON app.* TO 'consumer'@'%'",
)


@handler("count")
def count(run: Run) -> None:
    """The run has its row, and all runs share one counter."""
    with run.transaction() as connection:
        values = {"key": run.key, "attempt": run.attempt}
        connection.execute(text("INSERT INTO app.counted VALUES (:key, :attempt)"), values)
        connection.execute(text("UPDATE app.counter SET n = n + 1 WHERE id = 1"))
