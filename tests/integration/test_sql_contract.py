"""docs/sql.md is a contract: its columns, CHECKs and rights are the server's, its statements do what they say."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from clockjack.ledger.database import Database
from clockjack.ledger.finish import Outcome
from deploy import grants
from tests.integration.life import (
    claim_all,
    finish,
    held,
    insert,
    select,
    sql,
    start,
    task,
)

pytestmark = pytest.mark.mysql
PAGE = (Path(__file__).parents[2] / "docs" / "sql.md").read_text()
VIEWS = ("v_next", "v_late", "v_dead")


def statements() -> list[tuple[str, str]]:
    """Each statement of the page's examples, and the comment above it."""
    found = []
    for block in re.findall(r"(?:^    .*\n|^\n)+", PAGE, re.MULTILINE):
        if "import" in block:
            continue
        for part in re.split(r";[ ]*(?:\n|$)", block):
            said = " ".join(re.findall(r"-- (.*)", part))
            text = " ".join(re.sub(r"--.*", "", part).split())
            if text:
                found.append((said, text))
    return found


@pytest.fixture
def reader(users: dict[str, str], database: Database) -> Iterator[Any]:
    """A connection of sql_producer."""
    engine = sa.create_engine(users["sql_producer"], isolation_level="READ COMMITTED")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def ask(reader: Any, statement: str) -> list[dict[str, Any]]:
    reader.rollback()  # of what has been committed by now
    return [dict(row) for row in reader.exec_driver_sql(statement.replace("%", "%%")).mappings()]


def documented() -> dict[str, tuple[str, bool, bool]]:
    section = PAGE.partition("## Columns")[2].partition("## Insert")[0]
    cells = [re.split(r"\s*\|\s*", line)[1:5] for line in section.splitlines() if re.match(r"\| `\w+` \|", line)]
    return {c[0].strip("`"): (c[1].strip("`"), c[2] == "yes", c[3] == "yes") for c in cells if len(c) == 4}


def test_the_columns_and_their_defaults_are_those_of_the_table(database: Database) -> None:
    there = select(
        database,
        "SELECT column_name AS name, column_default AS value, is_nullable AS nullable FROM information_schema.columns"
        " WHERE table_schema = DATABASE() AND table_name = 'tasks'",
    )
    known = {row["name"]: row for row in there}
    listed = documented()
    assert len(listed) >= 36
    for name, (default, _, _) in listed.items():
        row = known[name]
        if default == "required":
            assert (row["nullable"], row["value"]) == ("NO", None), name
            continue
        actual = "NULL" if row["value"] in (None, "NULL") else str(row["value"])
        same = [re.sub(r"_utf8mb4|[\\'`() ]", "", text).lower() for text in (default, actual)]
        assert same[0] == same[1], name


def test_what_may_be_written_is_what_is_granted() -> None:
    [granted] = [s for s in grants.statements("x") if re.search(r"ON `x`.tasks TO 'sql_producer'", s)]
    for verb, place in (("INSERT", 1), ("UPDATE", 2)):
        columns = re.search(rf"{verb} \(([^)]*)\)", granted)
        assert columns
        assert set(columns[1].split(", ")) == {name for name, row in documented().items() if row[place]}, verb


def test_every_check_of_tasks_is_in_the_table_of_what_is_refused(database: Database) -> None:
    found = select(
        database,
        "SELECT constraint_name AS name FROM information_schema.check_constraints"
        " WHERE constraint_schema = DATABASE() AND constraint_name LIKE 'tasks!_%' ESCAPE '!'",
    )
    assert {row["name"] for row in found} == set(re.findall(r"^\| `(tasks_\w+)` \|", PAGE, re.MULTILINE))


def test_every_column_of_a_view_is_documented(database: Database) -> None:
    for view in VIEWS:
        columns = select(database, f"SHOW COLUMNS FROM {view}")
        row = re.search(rf"^\| `{view}` \|[^|]*\| ([^|]*) \|$", PAGE, re.MULTILINE)
        assert row
        assert row[1].split(", ") == [column["Field"] for column in columns]
        made = str(select(database, f"SHOW CREATE VIEW {view}")[0]["Create View"])
        assert "SQL SECURITY INVOKER" in made


def test_every_example_is_carried_out_for_sql_producer(reader: Any, database: Database) -> None:
    """In the order of the page; those that change something find a row to change."""
    ids = {
        "plain": insert(database, None, every_s=60),
        "once": insert(database, 3600.0),
        "cron": insert(database, None, cron="0 8 * * *"),
        "launch": insert(database, 3600.0, task_key="launch"),
    }
    kinds = {"another schedule, recurring": "cron", "pause": "plain"}
    done = 0
    for said, statement in statements():
        statement = statement.replace("id = 7", f"id = {ids[kinds.get(said, 'plain')]}")
        with reader.begin():
            result = reader.exec_driver_sql(statement.replace("%", "%%"))
            if statement.startswith(("UPDATE", "INSERT")):
                assert result.rowcount >= 1, statement
        done += 1
    assert done >= 21
    claim_all(database)
    assert select(database, "SELECT error FROM tasks WHERE state = 'invalid'") == []


def test_v_next_shows_what_is_due_in_its_order(reader: Any, database: Database) -> None:
    later, soon = insert(database, 60.0, task_key="k"), insert(database, 30.0)
    insert(database, 10.0, state="paused")
    sql(database, "UPDATE tasks SET state = 'cancelled', next_run_at = NULL WHERE id = :i", i=insert(database, 20.0))
    found = ask(reader, "SELECT * FROM v_next ORDER BY due_at LIMIT 20")
    assert [row["task_id"] for row in found] == [soon, later]
    assert found[1]["due_at"] == task(database, later)["run_at"]
    assert 0 < found[0]["in_s"] <= 30 < found[1]["in_s"] <= 60
    assert (found[1]["namespace"], found[1]["task_key"], found[1]["handler"]) == ("default", "k", "mock")


def test_v_late_shows_what_nobody_claims_and_what_nobody_starts(reader: Any, database: Database) -> None:
    started, waiting = insert(database, -30.0), insert(database, -20.0)
    ready = {run.run_id: run for run in claim_all(database)}
    run_ids = {row["task_id"]: row["id"] for row in select(database, "SELECT id, task_id FROM runs")}
    [lease] = held(start(database, [ready[run_ids[started]]]))
    finish(database, Outcome(lease, "failed", error="x", retry_in_s=60.0))  # it has begun, and comes again
    unclaimed = insert(database, -40.0)
    insert(database, -5.0)
    insert(database, -40.0, state="paused")
    found = ask(reader, "SELECT * FROM v_late ORDER BY due_at")
    assert [(row["task_id"], row["run_id"], row["why"]) for row in found] == [
        (unclaimed, None, "not claimed"),
        (waiting, run_ids[waiting], "not started"),
    ]
    assert 40 <= found[0]["late_s"] < 60
    assert 20 <= found[1]["late_s"] < 40
    start(database, [ready[run_ids[waiting]]])
    sql(database, "UPDATE tasks SET state = 'cancelled', next_run_at = NULL WHERE id = :i", i=unclaimed)
    assert ask(reader, "SELECT * FROM v_late") == []


def test_v_dead_shows_each_dead_letter_once(reader: Any, database: Database) -> None:
    for _ in range(3):
        insert(database, -1.0, task_key=None)
    ready = claim_all(database)
    started = start(database, ready)
    dies, retries, works = held(started)
    finish(
        database,
        Outcome(dies, "timeout", error="TimeoutError: slow", retry_in_s=0.0),
        Outcome(retries, "failed", error="x", retry_in_s=60.0),
        Outcome(works, "succeeded"),
    )
    assert ask(reader, "SELECT * FROM v_dead") == []
    again = [run for run in ready if run.run_id == dies.run_id]
    again[0] = type(again[0])(again[0].run_id, again[0].due_at, 2, again[0].queue, None)
    [second] = held(start(database, again, b"f" * 16))
    finish(database, Outcome(second, "failed", error="ValueError: no"))
    [dead] = ask(reader, "SELECT * FROM v_dead")
    assert (dead["run_id"], dead["reason"], dead["error"]) == (dies.run_id, "failed", "ValueError: no")
    assert (dead["failures"], dead["handler"]) == (2, "mock")
    assert dead["failed_at"] is not None
    sql(database, "UPDATE runs SET state = 'ready', wake_at = UTC_TIMESTAMP(6) WHERE id = :i", i=dies.run_id)
    assert ask(reader, "SELECT * FROM v_dead") == []


@pytest.fixture
def large(database: Database) -> Database:
    """8,192 tasks over the next hours, a run of each in the past; 64 of these wait, 64 have failed."""
    insert(database, 60.0)
    for i in range(13):
        sql(
            database,
            "INSERT INTO tasks (handler, run_at) SELECT 'mock', run_at + INTERVAL :s SECOND FROM tasks",
            s=2**i,
        )
    sql(
        database,
        "INSERT INTO runs (task_id, due_at, schedule_version, queue, state, wake_at, attempt) SELECT id, run_at"
        " - INTERVAL 12000 SECOND, 1, 'default', CASE id % 128 WHEN 0 THEN 'ready' WHEN 1 THEN 'failed'"
        " ELSE 'succeeded' END, IF(id % 128 = 0, UTC_TIMESTAMP(6), NULL), 1 FROM tasks",
    )
    sql(
        database,
        "INSERT INTO attempts (run_id, due_at, attempt, outcome) SELECT id, due_at, 1, 'failed' FROM runs"
        " WHERE state = 'failed'",
    )
    for table in ("tasks", "runs", "attempts"):
        select(database, f"ANALYZE TABLE {table}")
    return database


@pytest.mark.parametrize("statement", [text for _, text in statements() if " v_" in text])
def test_the_views_are_read_by_an_index_and_not_by_the_tables_size(
    statement: str, large: Database, reader: Any
) -> None:
    """Of 8,192 rows as few are read as the answer needs: the server counts them."""
    bounded = statement.replace("1 HOUR", "2 MINUTE")
    reader.exec_driver_sql(bounded.replace("%", "%%")).all()
    before = _reads(reader)
    rows = reader.exec_driver_sql(bounded.replace("%", "%%")).all()
    reads = _reads(reader) - before
    assert rows
    assert reads < 1000, (statement, reads)


def _reads(reader: Any) -> int:
    found = reader.exec_driver_sql("SHOW SESSION STATUS LIKE 'Handler_read%%'").all()
    return sum(int(value) for name, value in found if name != "Handler_read_rnd_deleted")
