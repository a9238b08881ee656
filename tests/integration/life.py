"""What the tests of a run's life do by hand: insert, claim, start, finish, and read back."""

from datetime import datetime, timedelta
from typing import Any

from clockjack.ledger import claim, runs
from clockjack.ledger import finish as finishing
from clockjack.ledger.advance import Ready
from clockjack.ledger.database import Database, changed, rows

TOKEN = b"0123456789abcdef"


def insert(database: Database, in_s: float | None = -0.1, **columns: Any) -> int:
    """A task inserted as plain SQL would; `in_s` sets run_at from the database's now. Returns its id."""
    values = {"handler": "mock", "payload": "{}"} | columns
    if in_s is not None:
        values["run_at"] = database.now() + timedelta(seconds=in_s)
    names = ", ".join(values)

    def body(connection: Any) -> int:
        changed(connection, f"INSERT INTO tasks ({names}) VALUES ({', '.join(':' + n for n in values)})", **values)
        return int(rows(connection, "SELECT LAST_INSERT_ID() AS id")[0]["id"])

    return owner(database).transaction(body)


def owner(database: Database) -> Database:
    """The same database for the tests' own statements, which the product's users may not make."""
    found: Database = getattr(database, "owner", database)
    return found


def sql(database: Database, statement: str, **values: Any) -> int:
    return owner(database).transaction(lambda c: changed(c, statement, **values))


def select(database: Database, statement: str, **values: Any) -> list[dict[str, Any]]:
    return owner(database).transaction(lambda c: rows(c, statement, **values))


def task(database: Database, task_id: int) -> dict[str, Any]:
    return select(database, "SELECT * FROM tasks WHERE id = :i", i=task_id)[0]


def run_of(database: Database, task_id: int) -> dict[str, Any]:
    found = select(database, "SELECT * FROM runs WHERE task_id = :i ORDER BY due_at", i=task_id)
    assert len(found) == 1, found
    return found[0]


def claim_all(database: Database) -> list[Ready]:
    """Every due task was claimed."""
    ready: list[Ready] = []
    for _ in range(100):
        done = claim.claim(database, {})
        ready += done.ready
        if not done.tasks:
            return ready
    raise AssertionError("the claim does not settle")


def popped(ready: list[Ready]) -> list[runs.Popped]:
    return [runs.Popped(r.run_id, r.due_at, r.attempt, live_task_id=r.live_task_id) for r in ready]


def start(database: Database, ready: list[Ready], token: bytes = TOKEN) -> runs.Started:
    return database.transaction(lambda c: runs.start(c, popped(ready), token, "test"))


def held(started: runs.Started) -> list[runs.Held]:
    return [runs.Held(r["id"], r["due_at"], r["attempt"], r["token"]) for r in started.execute]


def finish(database: Database, *outcomes: finishing.Outcome) -> set[tuple[int, int]]:
    """The refused ones."""
    done = database.transaction(lambda c: finishing.finish(c, outcomes))
    assert done.later == set()
    return done.refused


def make_due(database: Database, run_id: int) -> None:
    """The run's wake_at has come, and its lease is over if it has one."""
    over = "UTC_TIMESTAMP(6) - INTERVAL 1 SECOND"
    sql(database, f"UPDATE runs SET wake_at = {over}, lease_until = {over} WHERE id = :i", i=run_id)


def ago(database: Database, seconds: float) -> datetime:
    return database.now() - timedelta(seconds=seconds)


def deadlocks(database: Database) -> int:
    """How many the server has had since it was started."""
    found = select(database, "SHOW GLOBAL STATUS LIKE 'Innodb_deadlocks'")  # MariaDB
    if not found:
        found = select(
            database,
            "SELECT name AS Variable_name, count AS Value FROM information_schema.innodb_metrics"
            " WHERE name = 'lock_deadlocks'",
        )
    return int(found[0]["Value"])


def latest_deadlock(database: Database) -> str:
    """What the server tells of the last one: who waited for what."""
    status = str(select(database, "SHOW ENGINE INNODB STATUS")[0]["Status"])
    return status.partition("LATEST DETECTED DEADLOCK")[2].partition("\nTRANSACTIONS\n")[0]
