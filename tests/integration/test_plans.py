"""The four hot statements use their index, also when the tables are large; and locking never costs a deadlock."""

import contextlib
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from clockjack.ledger import asking, claim, direct, exact, forecast, retime, runs, wake
from clockjack.ledger.database import Database, rows
from clockjack.ledger.finish import Outcome, finish
from clockjack.ledger.runs import Held
from clockjack.moments import FIRST
from tests.integration.life import TOKEN, held, select, sql, start

pytestmark = pytest.mark.mysql


@pytest.fixture
def filled(database: Database) -> Database:
    """4,096 tasks over the next hours and 8,192 runs of the last two, most of them over."""
    sql(database, "INSERT INTO tasks (handler, run_at) VALUES ('mock', UTC_TIMESTAMP(6) + INTERVAL 1 SECOND)")
    for i in range(12):
        sql(
            database,
            "INSERT INTO tasks (handler, run_at) SELECT 'mock', run_at + INTERVAL :s SECOND FROM tasks",
            s=2**i,
        )
    first = select(database, "SELECT MIN(id) AS id FROM tasks")[0]["id"]
    for live in (0, 1):
        sql(
            database,
            "INSERT INTO runs (task_id, due_at, schedule_version, queue, state, wake_at) SELECT id, run_at"
            " - INTERVAL 7201 + :live SECOND, 1, 'default', IF(:live AND id % 64 = 0, 'ready', 'succeeded'),"
            " IF(:live AND id % 64 = 0, UTC_TIMESTAMP(6), NULL) FROM tasks WHERE id >= :first",
            first=first,
            live=live,
        )
    for table in ("tasks", "runs"):
        select(database, f"ANALYZE TABLE {table}")
    return database


def plan(database: Database, statement: str, **values: Any) -> dict[str, Any]:
    return next(
        r
        for r in select(database, "EXPLAIN FORMAT=TRADITIONAL " + statement, **values)
        if r["table"] in ("tasks", "runs", "r")
    )


def keys(database: Database) -> list[tuple[int, datetime]]:
    """Of 200 runs, with due times of their own."""
    return [(r["id"], r["due_at"]) for r in select(database, "SELECT id, due_at FROM runs ORDER BY id LIMIT 200")]


def by_primary_key(database: Database, statement: str) -> None:
    found = plan(database, statement.replace("%s", "'w'").replace(":", "\\:"))
    assert (found["key"], found["type"]) == ("PRIMARY", "range")
    assert int(found["rows"]) < 1000


@pytest.mark.parametrize("statement", [claim.FRESH, claim.FRESH_BUT, claim.OVERDUE])
def test_claim_reads_the_due_index_in_order(filled: Database, statement: str) -> None:
    values = (
        {"avoid": [0]}
        | ({"passed": 0} if ":passed" in statement else {})
        | ({"paused": ["x"]} if ":paused" in statement else {})
        | ({"busy": ["x"], "since": claim.FIRST, "before": None} if ":busy" in statement else {})
    )
    found = plan(filled, statement, n=500, **values)
    assert (found["key"], found["type"]) == ("due", "range")
    assert "filesort" not in (found["Extra"] or "")


@pytest.mark.parametrize("statement", [wake.DUE, wake.DUE_RUNNING])
def test_look_again_reads_the_wake_index(filled: Database, statement: str) -> None:
    found = plan(filled, statement, n=500)
    assert (found["key"], found["type"]) == ("wake", "range")


@pytest.mark.parametrize("since", [None, FIRST])
def test_what_is_found_without_redis_is_read_from_the_wake_index_in_order(
    filled: Database, since: datetime | None
) -> None:
    values = {"since": since, "until": None, "ahead_s": 10, "queue": "default", "avoid": [0], "n": 500}
    found = [plan(filled, direct.FOUND, **values), plan(filled, direct.END, since=FIRST, ahead_s=10)]
    for one in found:
        assert (one["key"], one["type"]) == ("wake", "range")
        assert "filesort" not in (one["Extra"] or "")
    assert "Using index" in found[1]["Extra"].split("; ")
    ages = plan(filled, direct.AGES)
    assert (ages["key"], ages["type"]) == ("wake", "range")
    by_primary_key(filled, direct.FREE.format(points=exact.points(keys(filled))))


def test_runs_of_other_queues_cost_a_poll_no_more_than_one_piece(filled: Database) -> None:
    """14,000 that wait for a queue that nobody serves, and more that are over."""
    wait = "state = 'ready', queue = 'other', wake_at = UTC_TIMESTAMP(6) - INTERVAL 60 + id % 3600 SECOND"
    new = "task_id + 1000000, due_at, 1, 'other', state, wake_at"
    sql(filled, f"UPDATE runs SET {wait}")
    sql(filled, f"INSERT INTO runs (task_id, due_at, schedule_version, queue, state, wake_at) SELECT {new} FROM runs")
    read = "SELECT SUM(variable_value) AS n FROM {} WHERE variable_name LIKE 'Handler_read%'"

    def reads(connection: Any) -> int:
        for schema in ("information_schema.session_status", "performance_schema.session_status"):
            with contextlib.suppress(DBAPIError):
                return int(rows(connection, read.format(schema))[0]["n"])
        raise AssertionError("no counters")

    def poll(connection: Any, since: datetime) -> tuple[int, datetime]:
        before = reads(connection)
        own = reads(connection) - before
        before = reads(connection)
        found, since = direct.find(connection, "default", 500, since, [], away=True)
        assert found == []
        return reads(connection) - before - own, since

    since = FIRST
    for _ in range(3):
        cost, since = filled.transaction(lambda c, s=since: poll(c, s))
        assert direct.PIECE < cost < 2.5 * direct.PIECE
    assert since > FIRST


@pytest.mark.parametrize("statement", [forecast.LOAD, forecast.AMOUNT])
def test_the_forecast_reads_the_due_index_alone(filled: Database, statement: str) -> None:
    now = filled.now()
    values = {"begin": now, "size": 60} if ":size" in statement else {}
    found = plan(filled, statement, low=now, until=now + timedelta(minutes=5), most=1000, **values)
    assert (found["key"], found["type"]) == ("due", "range")
    assert "Using index" in found["Extra"].split("; ")
    assert "filesort" not in found["Extra"]


def test_retime_reads_a_page_by_primary_key(filled: Database) -> None:
    middle = select(filled, "SELECT MIN(id) + 2000 AS id FROM tasks")[0]["id"]
    for statement, values in (
        (retime.END, {"after": middle, "n": 1000}),
        (retime.CANDIDATES, {"after": middle, "last": middle + 1000, "now": filled.now()}),
        (retime.LOCKED, {"ids": list(range(middle, middle + 500))}),
    ):
        found = plan(filled, statement, **values)
        assert (found["key"], found["type"]) == ("PRIMARY", "range")
        assert "filesort" not in (found["Extra"] or "")
    assert int(found["rows"]) == 500  # no estimate: at most one row for a whole unique key


def test_start_goes_by_primary_key(filled: Database) -> None:
    found = keys(filled)
    token = exact.token(TOKEN)
    by_primary_key(filled, runs.START.format(token=token, points=exact.points(found), attempt="attempt = 0"))
    for statement in (runs.PLAIN, runs.VERDICT):
        by_primary_key(filled, statement.format(token=token, among=exact.among(found, "r.")))


def test_finish_and_heartbeat_go_by_primary_key(filled: Database) -> None:
    for tokens in (1, 3):  # those of one step, or of several
        held = [Held(run_id, due_at, 1, TOKEN[:-1] + bytes([run_id % tokens])) for run_id, due_at in keys(filled)]
        for statement in (runs.MINE, runs.HEARTBEAT, asking.ASKED):
            by_primary_key(filled, statement.format(fence=runs.fence(held)))


def test_locked_runs_are_updated_by_their_whole_key(filled: Database) -> None:
    """No other row is touched, so an update of locked rows never waits: see `exact.points`."""
    found = keys(filled)[:50]

    def body(connection: Any) -> list[str]:
        seen: list[str] = []
        event.listen(
            connection, "before_cursor_execute", lambda c, cursor, sql, *rest: seen.append(sql % _literal(rest[0]))
        )
        assert exact.update_locked(connection, found, "reason = %s", "x") == 50
        return seen

    (statement,) = filled.transaction(body)
    used = plan(filled, statement.replace(":", "\\:"))  # its rows are no estimate: one for each whole unique key
    assert (used["key"], used["type"], int(used["rows"])) == ("PRIMARY", "range", 50)


def test_of_a_small_table_no_other_rows_are_passed_over(database: Database) -> None:
    """500 of 600 rows by their ids would be a scan of all, on which even a row that does not match is waited for."""
    new = "INSERT INTO tasks (handler, run_at) VALUES " + ", ".join(["('mock', UTC_TIMESTAMP(6))"] * 600)
    sql(database, new)
    select(database, "ANALYZE TABLE tasks")
    seen: list[str] = []
    event.listen(
        database._engine,
        "before_cursor_execute",
        lambda c, cursor, sql, values, *rest: seen.append(cursor.mogrify(sql, values or None)),
    )
    ready = claim.claim(database, {}, 500).ready
    select(database, "ANALYZE TABLE runs")
    mine = held(start(database, ready[:90]))
    assert len(mine) == 90
    database.transaction(lambda c: runs.heartbeat(c, mine))
    database.transaction(lambda c: finish(c, [Outcome(one, "succeeded") for one in mine]))
    locking = [s for s in seen if s.startswith("UPDATE") or ("FOR UPDATE" in s and "FORCE INDEX (due)" not in s)]
    assert len(locking) >= 4
    for statement in locking:
        used = plan(database, statement.replace(":", "\\:"))
        assert (used["key"], used["type"]) in (("PRIMARY", "range"), ("PRIMARY", "const")), statement[:200]


def _literal(values: Any) -> tuple[str, ...]:
    return tuple(f"'{value}'" for value in values)
