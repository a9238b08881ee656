"""What a key of each scope may do, at every route that the application has, and how keys are made, rotated, revoked."""

import time
from typing import Any

import pytest
from starlette.testclient import TestClient

from clockjack.ledger import keys
from clockjack.ledger.database import Database
from producer import requests
from tests.integration.life import owner, select, sql
from tests.integration.test_namespaces import all_rows, ask, bearer, mine, operations, ours, theirs

__all__ = ["mine", "operations", "theirs"]
PREVIEWS = {("post", "/v1/schedules/preview"), ("post", "/v1/schedules/simulate")}


def needed(operation: tuple[str, str]) -> str:
    """The least scope that the operation asks for, said here once more and by other means than there."""
    method, path = operation
    if path.split("/")[2] == "keys" or (path.startswith("/v1/queues/") and method == "post"):
        return "admin"
    return "read" if method == "get" or operation in PREVIEWS else "write"


@pytest.mark.parametrize("scope", [None, *keys.SCOPES])
def test_each_scope_opens_what_it_may_and_nothing_else(
    anonymous: TestClient,
    database: Database,
    mine: dict[str, str],
    operations: list[tuple[str, str]],
    scope: str | None,
) -> None:
    asking = {} if scope is None else bearer(database, "mine", scope)
    open_to = keys.SCOPES[: 1 + keys.SCOPES.index(scope)] if scope else ()
    values, refused, opened = ours(anonymous, mine), 0, 0
    before = all_rows(database)
    for operation in operations:
        if needed(operation) not in open_to:
            answer = ask(anonymous, operation, values, asking)
            expected = (403, "forbidden") if scope else (401, "unauthorized")
            assert (answer.status_code, answer.json()["code"]) == expected, (operation, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"
            refused += 1
    assert all_rows(database) == before, "what was refused has changed something"
    for operation in operations:
        if needed(operation) in open_to:
            values = ours(anonymous, mine)
            if operation[1].endswith("}/retry"):
                assert anonymous.post(f"/v1/runs/{values['run_id']}/cancel", headers=mine).is_success
            answer = ask(anonymous, operation, values, asking)
            assert answer.is_success, (operation, answer.text)
            opened += 1
    assert refused + opened == len(operations)
    assert (refused == 0) == (scope == "admin")


def test_a_key_is_shown_once_and_never_its_hash(
    anonymous: TestClient, database: Database, mine: dict[str, str], theirs: dict[str, str]
) -> None:
    made = anonymous.post("/v1/keys", json={"name": "board", "scope": "read"}, headers=mine)
    assert (made.status_code, made.headers["cache-control"]) == (201, "no-store")
    key = made.json().pop("api_key")
    shown = {name: value for name, value in made.json().items() if name != "api_key"}
    assert {name: shown[name] for name in ("namespace", "name", "scope", "per_second", "burst", "revoked_at")} == {
        "namespace": "mine", "name": "board", "scope": "read", "per_second": None, "burst": None, "revoked_at": None,
    }  # fmt: skip
    assert made.headers["location"] == f"/v1/keys/{shown['key_prefix']}"
    alone = anonymous.get(made.headers["location"], headers=mine)
    listed = anonymous.get("/v1/keys", headers=mine)
    assert alone.json() == shown
    assert shown in listed.json()["items"]
    kept = select(database, "SELECT key_hash FROM api_keys WHERE name = 'board'")[0]["key_hash"]
    for answer in (alone, listed):
        assert key.split("_", 2)[2] not in answer.text
        assert kept.hex() not in answer.text
        assert "hash" not in answer.text
    assert {k["namespace"] for k in anonymous.get("/v1/keys", headers=theirs).json()["items"]} == {"theirs"}
    assert anonymous.get("/v1/tasks", headers={"X-API-Key": key}).is_success
    page = anonymous.get("/v1/keys?limit=1", headers=mine).json()
    following = anonymous.get(f"/v1/keys?limit=1&cursor={page['next_cursor']}", headers=mine).json()
    assert [k["name"] for k in (*page["items"], *following["items"])] == ["board", "test"]


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": " x"}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "x", "scope": "root"}, "scope"),
        ({"name": "x", "namespace": "theirs"}, "namespace"),
        ({"name": "x", "per_second": 0}, "per_second"),
        ({"name": "x", "per_second": "1"}, "per_second"),
        ({"name": "x", "burst": 5}, "burst"),
        ({"name": "x", "per_second": 9.5, "burst": 9}, "burst"),
        ({"name": "x", "per_second": 1, "burst": 100_001}, "burst"),
    ],
)
def test_what_no_key_can_be_is_named(
    anonymous: TestClient, database: Database, mine: dict[str, str], sent: dict[str, Any], field: str
) -> None:
    answer = anonymous.post("/v1/keys", json=sent, headers=mine)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, f"#/{field}"), answer.text
    assert select(database, "SELECT COUNT(*) AS n FROM api_keys")[0]["n"] == 1


def test_a_rotated_key_opens_until_its_overlap_is_over(
    anonymous: TestClient, database: Database, mine: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "KEY_TRUSTED_S", 0)

    def opens(key: str) -> bool:
        return anonymous.get("/v1/tasks", headers={"X-API-Key": key}).status_code == 200

    first = anonymous.post("/v1/keys", json={"name": "x", "per_second": 50.5}, headers=mine).json()
    assert first["burst"] == 51
    at = f"/v1/keys/{first['key_prefix']}"
    rotated = anonymous.post(f"{at}/rotate", json={"overlap_s": 600}, headers=mine)
    second = rotated.json()
    assert rotated.status_code == 201
    assert rotated.headers["location"] == f"/v1/keys/{second['key_prefix']}" != at
    assert second["former"] == anonymous.get(at, headers=mine).json()
    assert second["former"]["revoked_at"] > second["created_at"]
    assert all(second[name] == first[name] for name in ("name", "namespace", "scope", "per_second", "burst"))
    assert opens(first["api_key"])
    assert opens(second["api_key"])
    sql(database, "UPDATE api_keys SET revoked_at = UTC_TIMESTAMP(6) WHERE key_prefix = :p", p=first["key_prefix"])
    assert not opens(first["api_key"])
    assert opens(second["api_key"])
    again = anonymous.post(f"{at}/rotate", headers=mine)
    assert (again.status_code, again.json()["code"]) == (409, "state-conflict")
    third = anonymous.post(f"/v1/keys/{second['key_prefix']}/rotate", headers=mine).json()
    assert opens(second["api_key"]), "the overlap is a day where none is said"
    revoked = anonymous.delete(f"/v1/keys/{second['key_prefix']}", headers=mine)
    assert revoked.json()["revoked_at"] < third["former"]["revoked_at"], "it is over at once, overlap or not"
    assert not opens(second["api_key"])
    assert opens(third["api_key"])
    assert anonymous.delete(f"/v1/keys/{second['key_prefix']}", headers=mine).json() == revoked.json()


def test_the_use_of_a_key_is_noted_once_a_minute(
    anonymous: TestClient, database: Database, mine: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "KEY_TRUSTED_S", 0)

    def noted() -> Any:
        assert anonymous.get("/v1/tasks", headers=mine).is_success
        return select(database, "SELECT last_used_at AS at FROM api_keys")[0]["at"]

    assert select(database, "SELECT last_used_at AS at FROM api_keys")[0]["at"] is None
    first = noted()
    assert first is not None
    assert noted() == first, "each use writes the key's row"
    sql(database, "UPDATE api_keys SET last_used_at = last_used_at - INTERVAL 61 SECOND")
    assert noted() >= first
    sql(database, "UPDATE api_keys SET last_used_at = '2020-01-01'")
    with owner(database)._engine.connect() as other:
        other.exec_driver_sql("SELECT id FROM api_keys FOR UPDATE")
        began = time.monotonic()
        assert noted().year == 2020
        assert time.monotonic() - began < 1, "who asks waits for a note"


def test_a_key_is_told_what_it_opens(
    anonymous: TestClient, database: Database, mine: dict[str, str], theirs: dict[str, str]
) -> None:
    ours(anonymous, mine)
    reader = bearer(database, "mine", "read")
    anonymous.delete(f"/v1/keys/{keys.prefix_of(bearer(database, 'mine', 'write')['Authorization'][7:])}", headers=mine)
    answer = anonymous.get("/v1/namespaces", headers=reader)
    (one,) = answer.json()["items"]
    key = one.pop("key")
    assert one == {"namespace": "mine", "tasks": 3, "keys": 3, "endpoints": 2, "expectations": 1}
    assert (key["key_prefix"], key["scope"]) == (keys.prefix_of(reader["Authorization"][7:]), "read")
    assert "hash" not in answer.text
    (empty,) = anonymous.get("/v1/namespaces", headers=theirs).json()["items"]
    assert {name: empty[name] for name in one} == {
        "namespace": "theirs",
        "tasks": 0,
        "keys": 1,
        "endpoints": 0,
        "expectations": 0,
    }
