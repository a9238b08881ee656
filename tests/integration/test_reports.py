"""What monitoring asks is cheap and right; the server's settings are judged as the guarantees need them."""

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from clockjack.ledger import reports, server
from clockjack.ledger.database import Database

pytestmark = pytest.mark.mysql


def execute(database: Database, sql: str, **values: Any) -> None:
    database.transaction(lambda c: c.execute(sa.text(sql), values))


def test_the_oldest_due_age_counts_what_has_not_started(database: Database) -> None:
    assert database.transaction(reports.health)["oldest_due_age_s"] == 0
    now = database.now()
    task = "INSERT INTO tasks (handler, payload, run_at, state) VALUES ('mock', 'null', :due, :state)"
    run = (
        "INSERT INTO runs (task_id, due_at, schedule_version, queue, state, wake_at, first_started_at)"
        " VALUES (1, :due, 1, 'default', :state, :due, :started)"
    )
    # not yet due, switched off, or begun: nobody waits for these
    execute(database, task, due=now + timedelta(hours=1), state="active")
    execute(database, task, due=now - timedelta(hours=9), state="paused")
    execute(database, run, due=now - timedelta(hours=8), state="running", started=now)
    execute(database, run, due=now - timedelta(hours=7), state="ready", started=now)
    execute(database, run, due=now + timedelta(hours=2), state="ready", started=None)
    assert database.transaction(reports.health)["oldest_due_age_s"] == 0
    execute(database, task, due=now - timedelta(seconds=30), state="active")
    assert 30 <= database.transaction(reports.health)["oldest_due_age_s"] < 35
    execute(database, run, due=now - timedelta(seconds=60), state="ready", started=None)
    found = database.transaction(reports.health)
    assert found["oldest_due_at"] == now - timedelta(seconds=60)
    assert 60 <= found["oldest_due_age_s"] < 65
    assert database.transaction(reports.counts) == {
        "tasks": {"active": 2, "paused": 1},
        "runs": {"ready": 3, "running": 1},
        "queues": {"default": 4},
    }


def test_health_reads_by_index(database: Database) -> None:
    execute(
        database,
        "INSERT INTO tasks (handler, payload, run_at) SELECT 'mock', 'null', UTC_TIMESTAMP(6) + INTERVAL 1 DAY"
        " FROM information_schema.collations LIMIT 200",
    )
    execute(database, "ANALYZE TABLE tasks, runs")
    for sql, key in ((reports.OLDEST_TASK, "due"), (reports.OLDEST_RUN, "wake")):

        def explain(connection: Any, sql: str = sql) -> Any:
            statement = sa.text(f"EXPLAIN FORMAT=TRADITIONAL {sql}")
            return connection.execute(statement, {"now": database.clock.now()}).mappings().all()

        plan = next(row for row in database.transaction(explain) if row["table"] in ("tasks", "runs"))
        assert (plan["key"], plan["type"]) == (key, "range"), plan
        assert "filesort" not in plan["Extra"]


def test_a_server_of_ours_is_fit(database: Database) -> None:
    assert database.transaction(server.check) == ([], [])
    assert server.require(database) == []


GOOD = {
    "version": "8.4.3", "log_bin": "ON", "sync_binlog": "1", "innodb_flush_log_at_trx_commit": "1",
    "innodb_doublewrite": "ON", "binlog_format": "ROW", "time_zone": "+00:00", "innodb_deadlock_detect": "ON",
    "auto_increment_increment": "1", "innodb_autoinc_lock_mode": "2",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "errors", "warnings"),
    [
        ({}, 0, 0),
        ({"version": "8.0.15"}, 1, 0),
        ({"version": "5.5.5-10.11.6-MariaDB-log"}, 0, 0),
        ({"version": "10.5.9-MariaDB"}, 1, 0),
        ({"innodb_flush_log_at_trx_commit": "2"}, 1, 0),
        ({"sync_binlog": "0"}, 1, 0),
        ({"sync_binlog": "0", "log_bin": "OFF"}, 0, 0),
        ({"innodb_doublewrite": "OFF"}, 1, 0),
        ({"binlog_format": "MIXED"}, 0, 1),
        ({"binlog_format": "STATEMENT"}, 1, 0),
        ({"auto_increment_increment": "7"}, 1, 0),
        ({"time_zone": "SYSTEM"}, 1, 0),
        ({"innodb_deadlock_detect": "OFF"}, 0, 1),
        ({"innodb_autoinc_lock_mode": "0"}, 0, 1),
    ],
)
def test_settings_are_judged(
    database: Database, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], errors: int, warnings: int
) -> None:
    monkeypatch.setattr(server, "_variables", lambda _: GOOD | change)
    found = database.transaction(server.check)
    assert tuple(map(len, found)) == (errors, warnings), found
    if errors:
        with pytest.raises(server.Unfit):
            server.require(database)
    assert len(server.require(database, unsafe_server=True)) == errors + warnings
