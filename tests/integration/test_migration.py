"""The policies' migration keeps what a database of the revision before holds, and invents no history."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from clockjack.ledger import migrate
from clockjack.ledger.database import Database
from tests.integration.life import claim_all, select, sql, start

pytestmark = pytest.mark.mysql
NAME = "clockjack_before"


@pytest.fixture
def before(migrated_url: str) -> Iterator[str]:
    """The URL of another database on the same server, at revision 0006."""
    server = sa.create_engine(migrated_url)
    url = server.url.set(database=NAME).render_as_string(hide_password=False)
    with server.begin() as connection:
        connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {NAME}")
        connection.exec_driver_sql(f"CREATE DATABASE {NAME} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
    database = Database(url, size=1, locks=False)
    with database._engine.connect() as connection:
        config = Config()
        config.set_main_option("script_location", str(migrate.MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, "0006")
        connection.commit()
    database.close()
    yield url
    with server.begin() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {NAME}")
    server.dispose()


def test_rows_of_the_revision_before_are_kept_and_nothing_looks_changed(before: str) -> None:
    database = Database(before, size=2)
    now = database.now()
    soon, past = now + timedelta(seconds=30), now - timedelta(hours=1)
    for state, version, schedule_version in (("active", 3, 2), ("paused", 2, 1), ("cancelled", 2, 1), ("active", 0, 1)):
        sql(
            database,
            "INSERT INTO tasks (handler, every_s, start_at, next_run_at, state, version, schedule_version)"
            " VALUES ('mock', 60, :t, :n, :s, :v, :sv)",
            t=past,
            n=None if state == "cancelled" else soon,
            s=state,
            v=version,
            sv=schedule_version,
        )
    ids = [row["id"] for row in select(database, "SELECT id FROM tasks ORDER BY id")]
    live = ("ready", "running")
    for i, state in enumerate((*live, "succeeded", "failed", "cancelled", "skipped")):
        sql(
            database,
            "INSERT INTO runs (task_id, due_at, schedule_version, queue, state, wake_at, origin)"
            " VALUES (:t, :d, 2, 'default', :s, :w, :o)",
            t=ids[0],
            d=past + timedelta(seconds=60 * i),
            s=state,
            w=past if state in live else None,
            o="manual" if i % 2 else "schedule",
        )
    sql(
        database,
        "INSERT INTO task_events (task_id, actor, action, version, schedule_version)"
        " VALUES (:t, 'test', 'registered', 3, 2)",
        t=ids[0],
    )
    tables = {table: f"SELECT * FROM {table} ORDER BY id" for table in ("tasks", "runs", "task_events")}
    old = {table: select(database, query) for table, query in tables.items()}
    assert migrate.migrate(before) == migrate.migrate(before) == migrate.head()
    new = {table: select(database, query) for table, query in tables.items()}
    for table, rows in old.items():
        assert [{name: row[name] for name in rows[0]} for row in new[table]] == rows
    added = ("misfire", "max_misfires", "max_lateness_s", "overlap", "pause_after_failures", "missed_since", "tags")
    assert {tuple(row[name] for name in added) for row in new["tasks"]} == {
        ("once", 100, None, "allow", None, None, "")
    }
    assert {(row["live_task_id"], row["task_version"], row["claimed_at"]) for row in new["runs"]} == {(None, 1, None)}
    _nothing_looks_changed(database, ids)
    database.close()


def _nothing_looks_changed(database: Database, ids: list[int]) -> None:
    """All are due and claimed: only the task that came by plain SQL and was never seen has an event."""
    sql(database, "UPDATE tasks SET next_run_at = UTC_TIMESTAMP(6) WHERE next_run_at IS NOT NULL")
    claim_all(database)
    sql(database, "UPDATE tasks SET next_run_at = next_run_at - INTERVAL 60 SECOND WHERE next_run_at IS NOT NULL")
    ready = claim_all(database)
    events = select(database, "SELECT task_id, actor, action, version FROM task_events WHERE actor <> 'test'")
    assert events == [{"task_id": ids[3], "actor": "sql", "action": "registered", "version": 1}]
    versions = {row["id"]: row["version"] for row in select(database, "SELECT id, version FROM tasks")}
    assert versions == {ids[0]: 3, ids[1]: 2, ids[2]: 2, ids[3]: 1}
    assert len(ready) == 2
    assert start(database, ready).not_run == []
