"""Namespaces do not see each other: every route of the application, with the other's ids, without a key, with garbage.

The routes come from the application itself, so that a new one is tried as soon as it is there: it needs a line in
BODIES if its body is not optional, because each request must work for the owner, or it would show nothing.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

from clockjack.ledger import keys
from clockjack.ledger.database import Database
from tests.integration.conftest import TABLES
from tests.integration.life import owner, select

ROOT = Path(__file__).parents[2]
MARK = "only-for-mine"
PAST = {"from": "2026-01-01T00:00:00Z", "to": "2026-01-01T00:10:00Z", "dry_run": False}
GROUP = {"handler": "mock", "anchor_at": "2030-01-01T00:00:00Z", "offsets_s": [-60, 0], "payload": MARK}
TOLD = f"{MARK}-told"
WATCHED = {"expect_every_s": 60, "endpoint": TOLD}
BODIES: dict[tuple[str, str], Any] = {
    ("post", "/v1/tasks"): {"handler": "mock", "every_s": 60},
    ("post", "/v1/tasks/bulk"): {"tasks": [{"handler": "mock", "every_s": 60}]},
    ("post", "/v1/runs/retry"): {},
    ("post", "/v1/schedules/preview"): {"every_s": 60},
    ("post", "/v1/schedules/simulate"): {"every_s": 60, "from": "2030-01-01T00:00:00Z", "to": "2030-01-01T01:00:00Z"},
    ("put", "/v1/tasks/by-key/{task_key}"): {"handler": "mock", "every_s": 60},
    ("patch", "/v1/tasks/{task_id}"): {"name": "changed"},
    ("put", "/v1/groups/{group_key}"): GROUP,
    ("post", "/v1/groups/{group_key}/move"): {"anchor_at": "2030-02-01T00:00:00Z"},
    ("post", "/v1/tasks/control"): {"action": "cancel", "all": True},
    ("post", "/v1/tasks/{task_id}/backfill"): PAST,
    ("post", "/v1/keys"): {"name": "another"},
    ("post", "/v1/endpoints"): {"name": "another", "url": "https://example.com/"},
    ("patch", "/v1/endpoints/{name}"): {"success": "200"},
    ("post", "/v1/expectations"): {"name": "another", "expect_every_s": 60, "endpoint": "another"},
}
# in a namespace of one's own any name may be taken
CREATES = {("put", "/v1/groups/{group_key}"), ("put", "/v1/tasks/by-key/{task_key}")}
# queues are everybody's, so they know no namespace
SHARED = {("post", f"/v1/queues/{{queue}}/{verb}") for verb in ("pause", "resume")}
# clients make /v1/runs and /v1/tasks of `..` there, which are routes
DOTS = {("get", "/v1/tasks/{task_id}/runs"), ("get", "/v1/tasks/by-key/{task_key}")}
OPEN = {"/healthz", "/readyz", "/metrics", "/problems/{kind}", "/openapi.json", "/docs", "/docs/try"}
NO_IDS = (
    "0", "-1", "1.5", "abc", "9" * 20, "9" * 4000, "1e3", "\u0663", " ", "1;DROP TABLE tasks", "' OR 1=1 -- ", "1 OR 1",
    "\x00", "\n", "\r\nX: y", "\x1b[2J", "%", "..", "../../etc/passwd", "a/b", "true", "null", "{task_id}", "\ufffd",
)  # fmt: skip
RAW = ("%ff", "%ed%a0%80", "%00", "%", "%zz", "1%2f..%2f2", "%31%00")


def bearer(database: Database, namespace: str, scope: str) -> dict[str, str]:
    """The header of a new key."""
    key = owner(database).transaction(lambda c: keys.create(c, namespace, "test", scope))
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def theirs(anonymous: TestClient, database: Database) -> dict[str, str]:
    return bearer(database, "theirs", "admin")


@pytest.fixture
def mine(anonymous: TestClient, database: Database) -> dict[str, str]:
    return bearer(database, "mine", "admin")


@pytest.fixture
def operations(app: Any) -> list[tuple[str, str]]:
    """(method, path) of each operation of the API."""
    found = [(method, path) for path, item in app.openapi()["paths"].items() for method in item]
    assert len(found) >= 20
    assert all(path.startswith("/v1/") for _, path in found)
    return found


def ours(http: TestClient, mine: dict[str, str]) -> dict[str, str]:
    """What mine has in it: the values of the names in paths."""
    marked = {"name": MARK, "payload": {"secret": MARK}, "tags": [MARK], "task_key": MARK, "max_failures": 1}
    sent = {"handler": "mock", "every_s": 60, "start_at": "2026-01-01T00:00:00Z", **marked}
    made = http.post("/v1/tasks", json=sent, headers=mine)
    assert made.status_code in (200, 201), made.text
    task = made.json()
    run = http.post(f"/v1/tasks/{task['id']}/run", headers=mine)
    assert run.status_code == 202
    assert http.put(f"/v1/groups/{MARK}", json=GROUP, headers=mine).is_success
    url = {"url": f"https://{MARK}.example/"}
    for path, name, more in (("endpoints", MARK, url), ("endpoints", TOLD, url), ("expectations", MARK, WATCHED)):
        assert http.post(f"/v1/{path}", json={"name": name} | more, headers=mine).status_code in (201, 409)
    key = http.post("/v1/keys", json={"name": MARK}, headers=mine).json()["key_prefix"]
    named = {"task_id": task["id"], "run_id": run.json()["id"], "key_prefix": key}
    named |= dict.fromkeys(("group_key", "task_key", "name"), MARK)
    return {name: str(value) for name, value in named.items()}


def ask(http: TestClient, operation: tuple[str, str], values: dict[str, str], headers: dict[str, str]) -> Any:
    """What the operation answers, which is something that its description names."""
    method, path = operation
    for name, value in values.items():
        path = path.replace(f"{{{name}}}", value)
    body = BODIES.get(operation)
    answer = http.request(method, path, content=None if body is None else json.dumps(body), headers=headers)
    application: Any = http.app
    described = set(application.openapi()["paths"][operation[1]][method]["responses"])
    # an id that is no segment of a path may lead to another route, or to none
    assert str(answer.status_code) in described | {"404", "405"}, (operation, answer.status_code)
    return answer


def all_rows(database: Database, namespace: str | None = None) -> str:
    """All that there is, or all of what belongs to this namespace."""
    found = {table: select(database, f"SELECT * FROM {table} ORDER BY 1, 2") for table in TABLES}
    for key in found["api_keys"]:
        del key["last_used_at"]  # asking changes it, whatever is answered
    if namespace:
        ids = {row["id"] for row in found["tasks"] if row["namespace"] == namespace}
        found = {
            table: [row for row in rows if row.get("namespace") == namespace or row.get("task_id") in ids]
            for table, rows in found.items()
        }
    return str(found)


def test_every_route_is_in_the_description_or_open_on_purpose(app: Any, operations: list[tuple[str, str]]) -> None:
    def walk(routes: Any) -> Iterator[str]:
        for route in routes:
            if getattr(route, "path", None):
                yield route.path
            for inner in ("routes", "original_router", "router"):
                yield from walk(getattr(getattr(route, inner, None), "routes", getattr(route, inner, None)) or ())

    described = {path for _, path in operations}
    found = {path.replace(":path", "").replace(":id", "") for path in walk(app.routes)}
    assert found >= OPEN
    assert {path for path in found if path not in OPEN and f"/v1{path}" not in described} <= described


def test_the_others_ids_are_not_found_and_change_nothing(
    anonymous: TestClient,
    database: Database,
    mine: dict[str, str],
    theirs: dict[str, str],
    operations: list[tuple[str, str]],
) -> None:
    values = ours(anonymous, mine)
    before = all_rows(database, "mine")
    for operation in sorted(operations, key=lambda o: o in CREATES):
        answer = ask(anonymous, operation, values, theirs)
        assert MARK not in answer.text or operation in CREATES, operation
        if "{" in operation[1] and operation not in CREATES | SHARED:
            assert answer.status_code == 404, (operation, answer.status_code, answer.text)
        else:
            assert answer.is_success, (operation, answer.text)
        for query in (f"task_key={MARK}", f"tag={MARK}", f"group_key={MARK}", "cursor=MS45OTk5", "state=active"):
            if operation == ("get", "/v1/tasks"):
                listed = anonymous.get(f"/v1/tasks?{query}", headers=theirs).json()["items"]
                assert MARK not in str(listed), query
    assert all_rows(database, "mine") == before
    for operation in sorted(operations, key=lambda o: o[0] == "delete" or "control" in o[1]):
        values = ours(anonymous, mine)
        if operation[1].endswith("}/retry"):
            assert anonymous.post(f"/v1/runs/{values['run_id']}/cancel", headers=mine).is_success
        answer = ask(anonymous, operation, values, mine)
        assert answer.is_success, f"{operation} does not work for its owner, so it shows nothing: {answer.text}"


def test_no_key_no_answer(
    anonymous: TestClient, database: Database, mine: dict[str, str], operations: list[tuple[str, str]]
) -> None:
    values, good = ours(anonymous, mine), mine["Authorization"].removeprefix("Bearer ")
    prefix = keys.prefix_of(good)
    revoked = owner(database).transaction(lambda c: keys.create(c, "mine", "gone"))
    owner(database).transaction(lambda c: keys.revoke(c, str(keys.prefix_of(revoked))))
    before = all_rows(database)
    wrong = (
        {}, {"Authorization": good}, {"Authorization": f"Basic {good}"}, {"Authorization": f"Bearer {good[:-1]}"},
        {"Authorization": f"Bearer {good}x"}, {"Authorization": f"Bearer cj_{prefix}_"}, {"X-API-Key": f"cj_{prefix}"},
        {"Authorization": f"Bearer {revoked}"}, {"Authorization": "Bearer cj_' OR 1=1 -- _x"},
        {"Authorization": f"Bearer {good[:4]}%{good[5:]}"}, {"Authorization": f"Bearer {good.upper()}"},
        {"Authorization": "Bearer " + "x" * 5000}, {"X-API-Key": "cj_%_x"}, {"Cookie": f"key={good}"},
    )  # fmt: skip
    for operation in operations:
        for headers in wrong:
            answer = ask(anonymous, operation, values, headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), (operation, headers)
            assert MARK not in answer.text
            assert good not in answer.text
    assert all_rows(database) == before
    assert anonymous.get(f"/v1/tasks?api_key={good}").status_code == 401, "a key in a URL would be in logs"


def test_a_key_that_may_only_read_changes_nothing(
    anonymous: TestClient, database: Database, mine: dict[str, str], operations: list[tuple[str, str]]
) -> None:
    values = ours(anonymous, mine)
    key = owner(database).transaction(lambda c: keys.create(c, "mine", "reader", "read"))
    before = all_rows(database)
    for operation in operations:
        answer = ask(anonymous, operation, values, {"Authorization": f"Bearer {key}"})
        if operation[1].startswith("/v1/keys"):
            assert answer.status_code == 403, (operation, answer.text)
        elif operation[0] == "get" or operation[1].startswith("/v1/schedules/"):
            assert answer.is_success, (operation, answer.text)
        else:
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), (operation, answer.text)
    assert all_rows(database) == before


def test_ids_that_name_nothing(
    anonymous: TestClient, database: Database, theirs: dict[str, str], operations: list[tuple[str, str]]
) -> None:
    before = all_rows(database)
    for operation in operations:
        if "{" not in operation[1] or operation in CREATES | SHARED:
            continue
        for value in (*(quote(text, safe="") for text in NO_IDS), *RAW):
            names = ("task_id", "run_id", "group_key", "task_key", "name", "key_prefix")
            answer = ask(anonymous, operation, dict.fromkeys(names, value), theirs)
            if value == ".." and operation in DOTS:
                continue
            assert answer.status_code in (400, 404, 405, 422), (operation, value, answer.status_code, answer.text)
            if operation[1].startswith("/v1/tasks") and "/" not in value and value not in ("..", "."):
                assert answer.status_code == 404, (operation, value, answer.text)
            assert answer.headers["content-type"] == "application/problem+json", (operation, value)
    assert all_rows(database) == before


@pytest.mark.parametrize("path", ["/v1/endpoints", "/v1/expectations"])
def test_a_name_is_taken_once_in_each_namespace(
    anonymous: TestClient, mine: dict[str, str], theirs: dict[str, str], path: str
) -> None:
    for headers in (mine, theirs):
        assert ask(anonymous, ("post", "/v1/endpoints"), {}, headers).status_code == 201
        answers = [ask(anonymous, ("post", path), {}, headers).status_code for _ in range(2)]
        assert answers == ([409, 409] if path == "/v1/endpoints" else [201, 409])


def test_names_of_groups_that_cannot_be(anonymous: TestClient, database: Database, theirs: dict[str, str]) -> None:
    for value in (*(quote(text, safe="") for text in (*NO_IDS, "x" * 181, "a//b", "a/../b", " a", "a ")), *RAW):
        answer = ask(anonymous, ("put", "/v1/groups/{group_key}"), {"group_key": value}, theirs)
        assert answer.status_code in (200, 201, 400, 404, 405, 422), (value, answer.status_code, answer.text)
    found = [row["group_key"] for row in select(database, "SELECT DISTINCT group_key FROM tasks")]
    assert all(name.isprintable() and name == name.strip() for name in found), found


def test_keys_are_kept_as_hashes_only_and_compared_in_constant_time(database: Database, database_url: str) -> None:
    key = owner(database).transaction(lambda c: keys.create(c, "mine", "test"))
    kept = select(database, "SELECT * FROM api_keys")[0]
    assert kept["key_hash"] == keys.digest(key)
    secret = key.split("_", 2)[2]
    assert len(secret) >= 43, "256 bits"
    assert not any(secret in str(value) or secret.encode() in str(value).encode() for value in kept.values())
    listed = database.transaction(keys.list_keys)
    assert "key_hash" not in listed[0]
    source = (ROOT / "clockjack/ledger/keys.py").read_text()
    assert 'compare_digest(bytes(found[0]["key_hash"]), digest(key))' in source
    assert "key_hash =" not in source, "the server would compare it byte by byte"
