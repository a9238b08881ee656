"""The table of bad input, through every door: refused by name with nothing written, or parked alone."""

import re
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError
from starlette.testclient import TestClient

from clockjack import registration
from clockjack.ledger import claim
from clockjack.ledger.database import Database
from tests.integration.life import insert, run_of, select, sql, task
from tests.integration.test_cli import Capture, Shell
from tests.integration.test_schedules_of_tasks import OPTIONS, argv
from tests.unit.bad_input import GROUPS, PARKED, REFUSED, Bad, columns

TABLES = ("tasks", "runs", "task_events", "idempotency_keys")
each_group = pytest.mark.parametrize("group", GROUPS)  # not each case: servers and processes cost more than they


@pytest.fixture
def shell(capsys: Capture, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setenv("CLOCKJACK_DATABASE_URL", database_url)
    monkeypatch.setenv("CLOCKJACK_REDIS_URL", redis_url)
    return Shell(capsys)


def written(database: Database) -> list[Any]:
    return [row for table in TABLES for row in select(database, f"SELECT * FROM {table}")]


@each_group
def test_http_names_the_field_and_writes_nothing(http: TestClient, database: Database, group: str) -> None:
    for case in GROUPS[group]:
        if case.http:
            continue
        document = {"handler": "mock"} | case.document
        problem = http.post("/v1/tasks", json=document, headers={"Idempotency-Key": "k"})
        assert (problem.status_code, problem.json()["code"]) == (422, "invalid-fields"), (case.name, problem.text)
        ((pointer, detail),) = [(error["pointer"], error["detail"]) for error in problem.json()["errors"]]
        assert pointer == f"#/{case.field}", case.name
        assert re.search(case.words, detail), (case.name, detail)
        if case.document.keys() <= registration.When.model_fields.keys() and not case.sql.startswith("taken"):
            problem = http.post("/v1/schedules/preview", json=case.document)  # which may look at what is past
            found = [error["pointer"] for error in problem.json()["errors"]]
            assert (problem.status_code, found) == (422, [pointer]), case.name
    assert written(database) == []


@each_group
def test_the_command_line_names_the_field_and_writes_nothing(shell: Shell, database: Database, group: str) -> None:
    for case in GROUPS[group]:
        if case.cli:
            continue
        said = shell.refuses("add", "mock", *argv(case.document))
        option = f"--{OPTIONS.get(case.field, case.field.replace('_', '-'))}"
        assert option in said or (case.field in said and re.search(case.words, said)), (case.name, said)
        assert len(said) < 1000, case.name
    assert written(database) == []


@pytest.mark.mysql
@each_group
def test_plain_sql_is_refused_or_parked_alone(database: Database, group: str) -> None:
    for case in GROUPS[group]:
        if case.sql.startswith("none"):
            continue
        if case.sql == REFUSED:
            assert _refused(database, case), case.name
            assert written(database) == [], case.name
            continue
        _claimed_beside_another(database, case)
        for table in TABLES:
            sql(database, f"DELETE FROM {table}")


def _refused(database: Database, case: Bad) -> bool:
    try:
        insert(database, None, **columns(case.document))
    except DBAPIError:
        return True
    return False


def _claimed_beside_another(database: Database, case: Bad) -> None:
    bad, good = insert(database, None, **columns(case.document)), insert(database, 1)
    assert claim.claim(database, {}).tasks == 2, case.name
    assert run_of(database, good)["state"] == "ready"
    seen = task(database, bad)
    if case.sql != PARKED:
        assert (seen["state"], seen["error"]) == ("active", None), case.name
        return
    assert (seen["state"], seen["next_run_at"]) == ("invalid", None), case.name
    assert seen["error"].startswith(f"{case.field}: "), (case.name, seen["error"])
    assert 20 < len(seen["error"]) < 1000
    assert select(database, "SELECT id FROM runs WHERE task_id = :i", i=bad) == []
    assert claim.claim(database, {}).tasks == 0
