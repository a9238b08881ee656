"""What each user of deploy/grants.sql may do: every other statement is refused by the server itself.

That what is granted is enough is shown by all other tests, which run as these users.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from clockjack.ledger import partitions, rights
from clockjack.ledger.database import Database, code
from deploy import grants
from tests.integration.life import insert, select, sql, task

pytestmark = pytest.mark.mysql
REFUSED = {1044, 1045, 1142, 1143, 1227, 1370}
NEEDS_SUPER = 1419  # a trigger, while there is a binary log
VERBS = {
    "select": "SELECT {column} FROM {table} WHERE 1 = 0",
    "insert": "INSERT INTO {table} ({column}) SELECT {value} FROM DUAL WHERE 1 = 0",
    "update": "UPDATE {table} SET {column} = {value} WHERE 1 = 0",
    "delete": "DELETE FROM {table} WHERE 1 = 0",
    "drop": "DROP TABLE {table}_2",
    "alter": "ALTER TABLE {table} COMMENT = 'x'",
    "index": "CREATE INDEX x ON {table} ({column})",
    "truncate": "TRUNCATE TABLE {table}",
    "trigger": "CREATE TRIGGER x BEFORE INSERT ON {table} FOR EACH ROW SET @x = 1",
    "lock": "LOCK TABLES {table} WRITE",
}
COLUMNS = {
    "tasks": ("error", "'x'"),
    "runs": ("worker", "'x'"),
    "attempts": ("worker", "'x'"),
    "task_events": ("actor", "'x'"),
    "api_keys": ("name", "'x'"),
    "idempotency_keys": ("created_at", "UTC_TIMESTAMP()"),
    "endpoints": ("reason", "'x'"),
    "expectations": ("queue", "'x'"),
    "queues": ("actor", "'x'"),
    "alembic_version": ("version_num", "'x'"),
}
# user, table: the verbs that are granted; TRUNCATE and DROP are one right to the server
MAY = {
    "producer": {
        "tasks": {"select", "insert", "update"}, "runs": {"select", "insert", "update"}, "attempts": {"select"},
        "task_events": {"select", "insert"}, "api_keys": {"select", "insert"}, "idempotency_keys": {"select", "insert"},
        "endpoints": {"select", "insert", "update", "delete"},
        "expectations": {"select", "insert", "update", "delete"}, "alembic_version": {"select"},
        "queues": {"select", "insert", "update"},
    },
    "dispatcher": {
        "tasks": {"select", "insert", "update", "delete"}, "expectations": {"select", "update"},
        "runs": {"select", "insert", "update", "alter", "truncate"},
        "attempts": {"select", "insert", "delete"}, "task_events": {"select", "insert", "delete"},
        "idempotency_keys": {"select", "delete"}, "alembic_version": {"select"}, "queues": {"select"},
    },
    "consumer": {
        "tasks": {"select", "update"}, "runs": {"select", "update"}, "attempts": {"select", "insert"},
        "task_events": {"select", "insert"}, "endpoints": {"select", "update"}, "alembic_version": {"select"},
        "queues": {"select"},
    },
    "sql_producer": {"tasks": {"select", "update"}},
    "python_producer": {"tasks": {"select", "insert", "update"}, "task_events": {"insert"}},
}  # fmt: skip
ELSE = """\
CREATE TABLE mine (x INT)
CREATE TABLE runs_2 LIKE runs
ALTER TABLE runs RENAME TO runs_2
CREATE VIEW mine AS SELECT 1
CREATE PROCEDURE mine() SELECT 1
CREATE EVENT mine ON SCHEDULE EVERY 1 DAY DO SELECT 1
CREATE DATABASE mine
DROP DATABASE clockjack
CREATE USER mine
GRANT SELECT ON clockjack.tasks TO mine
SET GLOBAL max_connections = 10
SELECT * FROM mysql.user
SELECT 1 INTO OUTFILE '/tmp/clockjack-mine'
FLUSH TABLES
SHUTDOWN""".splitlines()


@pytest.mark.parametrize("user", grants.STAGES)
def test_doctor_knows_what_the_script_grants(user: str) -> None:
    granted: dict[str, tuple[str, ...]] = {}
    for statement in grants.statements("clockjack"):
        if found := re.match(rf"GRANT (.*) ON `clockjack`\.(\w+) TO '{user}'", statement):
            verbs = re.sub(r"\(.*?\)", "", found[1]).split(",")
            granted[found[2]] = tuple(verb.strip() for verb in verbs if verb.strip() in rights.PROBES)
    assert granted == rights.NEEDS[user]


@pytest.fixture
def each(users: dict[str, str], owner_url: str) -> Iterator[dict[str, Any]]:
    """A connection of each user."""
    if users["producer"] == users["consumer"]:
        pytest.skip("CLOCKJACK_TEST_MYSQL_URL is set: this test needs users of its own on its database server")
    engines = {name: sa.create_engine(users[name]) for name in MAY}
    connections = {name: engine.connect() for name, engine in engines.items()}
    yield connections
    for name, engine in engines.items():
        connections[name].close()
        engine.dispose()


def refusal(connection: Any, statement: str) -> int | None:
    """The error of the statement; None when the server carried it out."""
    try:
        with connection.begin():
            connection.exec_driver_sql(statement)
    except DBAPIError as error:
        return code(error)
    return None


def test_every_user_of_the_script_is_tried() -> None:
    made = {user for line in grants.statements("x") for user in re.findall(r"^CREATE USER IF NOT EXISTS '(\w+)'", line)}
    assert made == set(MAY)


def test_each_may_do_what_is_granted_and_nothing_else(each: dict[str, Any]) -> None:
    wrong = []
    for user, connection in each.items():
        for table, (column, value) in COLUMNS.items():
            granted = MAY[user].get(table, set())
            for verb, pattern in VERBS.items():
                if verb in granted & {"truncate", "alter"}:
                    continue  # not tried on the tables of all tests
                got = refusal(connection, pattern.format(table=table, column=column, value=value))
                as_wanted = got in (None, 1364) if verb in granted else got in {*REFUSED, NEEDS_SUPER}
                if not as_wanted:
                    wrong.append((user, table, verb, got))
        wrong += [(user, s, "", got) for s in ELSE if (got := refusal(connection, s)) not in REFUSED]
    assert not wrong


def test_what_is_granted_for_some_columns_is_refused_for_the_others(each: dict[str, Any]) -> None:
    for user, statement in (
        ("consumer", "UPDATE tasks SET handler = 'mine'"),
        ("consumer", "UPDATE tasks SET payload = 'mine'"),
        ("consumer", "UPDATE tasks SET namespace = 'mine'"),
        ("consumer", "UPDATE tasks SET next_run_at = NULL"),
        ("sql_producer", "INSERT INTO tasks (handler, every_s, version) VALUES ('mock', 5, 1)"),
        ("sql_producer", "INSERT INTO tasks (handler, every_s, seen_state) VALUES ('mock', 5, 'active')"),
        ("sql_producer", "INSERT INTO tasks (id, handler, every_s) VALUES (1, 'mock', 5)"),
        ("sql_producer", "UPDATE tasks SET version = 1"),
        ("sql_producer", "UPDATE tasks SET namespace = 'mine'"),
        ("sql_producer", "UPDATE tasks SET id = 1"),
        ("sql_producer", "SELECT result FROM runs"),
        ("sql_producer", "SELECT run_token FROM runs"),
        ("sql_producer", "SELECT error FROM attempts"),
        ("python_producer", "SELECT * FROM v_next"),
        ("python_producer", "UPDATE runs SET wake_at = NULL"),
        ("python_producer", "SELECT result FROM runs"),
        ("producer", "UPDATE idempotency_keys SET idempotency_key = 'mine'"),
        ("producer", "UPDATE idempotency_keys SET request_hash = ''"),
        ("producer", "UPDATE api_keys SET scope = 'admin'"),
        ("producer", "UPDATE api_keys SET namespace = 'mine'"),
        ("producer", "UPDATE api_keys SET key_hash = ''"),
        ("dispatcher", "SELECT answer FROM idempotency_keys"),
    ):
        assert refusal(each[user], statement) in REFUSED, (user, statement)


def test_the_statements_of_the_documentation_are_granted(each: dict[str, Any], database: Database) -> None:
    document = (grants.SCRIPT.parents[1] / "docs" / "sql.md").read_text()
    blocks = re.findall(r"(?:^    .*\n|^\n)+", document, re.MULTILINE)
    text = re.sub(r"--.*", "", "\n".join(block for block in blocks if "import" not in block))
    found = [" ".join(part.split()) for part in text.split(";")]
    statements = [part for part in found if re.match(r"(INSERT|UPDATE|SELECT)\b", part)]
    assert len(statements) >= 16
    one = insert(database, None, every_s=60)
    assert one
    for statement in statements:
        got = refusal(each["sql_producer"], statement.replace("%", "%%"))
        assert got not in REFUSED, statement


def test_a_dispatcher_makes_and_drops_partitions(users: dict[str, str], database: Database) -> None:
    names = "SELECT partition_name AS n FROM information_schema.partitions WHERE table_schema = DATABASE()"
    names += " AND table_name = 'runs' ORDER BY 1"
    before = select(database, names)
    sql(database, f"ALTER TABLE runs DROP PARTITION {before[-2]['n']}")
    own = Database(users["dispatcher"], size=1, locks=False)
    try:
        assert partitions.maintain(own, 30)["made"] == 1
    finally:
        own.close()
    assert select(database, names) == before


def test_a_row_of_sql_producer_runs(each: dict[str, Any], users: dict[str, str], database: Database) -> None:
    from clockjack.ledger import claim

    with each["sql_producer"].begin():
        made = each["sql_producer"].exec_driver_sql("INSERT INTO tasks (handler, every_s) VALUES ('mock', 60)")
    own = Database(users["dispatcher"], size=1)
    try:
        assert claim.claim(own, {}).tasks == 1
    finally:
        own.close()
    assert task(database, made.lastrowid)["version"] == 1
