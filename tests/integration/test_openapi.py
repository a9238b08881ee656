"""Every route answers what its description says, whatever is sent that the description allows or nearly allows."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from clockjack.ledger import keys
from clockjack.ledger.database import Database
from producer import openapi
from tests.api.trying import figures, tried
from tests.integration import described
from tests.integration.life import owner
from tests.integration.serving import Producer

SHORT = ("--phases", "examples,fuzzing,stateful", "--max-examples", "10")
HOURLY = {"handler": "mock", "every_s": 3600}


@pytest.mark.slow
@pytest.mark.timeout(170)
def test_every_route_answers_as_described(
    database: Database, users: dict[str, str], redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOCKJACK_SECRET_KEYS", base64.b64encode(b"k" * 32).decode())
    ours, theirs = (
        owner(database).transaction(lambda c, n=name: keys.create(c, n, "tried", "admin"))
        for name in ("default", "theirs")
    )
    producer = Producer(users["producer"], redis_url)
    producer.start()
    try:
        code, told = tried(producer.url, ours, theirs, tmp_path, *SHORT, timeout_s=150)
    finally:
        producer.end(9)
    assert code == 0, told[-20_000:]
    operations = sum(len(item) for item in json.loads(openapi.text())["paths"].values())
    assert f"Tested: {operations}" in figures(told)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/v1/tasks", "GET, POST"),
        ("GET", "/v1/tasks/bulk", "POST"),
        ("DELETE", "/v1/tasks/control", "POST"),
        ("GET", "/v1/runs/retry", "POST"),
        ("PUT", "/v1/tasks/7", "GET, PATCH, DELETE"),
        ("OPTIONS", "/v1/endpoints/a", "GET, PATCH, DELETE"),
    ],
)
def test_allow_names_all_methods_of_the_path(anonymous: TestClient, method: str, path: str, allow: str) -> None:
    answer = anonymous.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allow)


def test_a_form_of_the_page_asks_with_the_key_that_it_has_and_shows_the_answer(http: TestClient) -> None:
    task = http.post("/v1/tasks", json=HOURLY | {"name": "<b>&amp;"}).json()
    key = http.headers.pop("Authorization").removeprefix("Bearer ")

    def tried_out(path: str, **fields: str) -> Any:
        return http.post(
            "/docs/try", data={"path": path} | {name.replace("of_", "of."): v for name, v in fields.items()}
        )

    shown = tried_out("/v1/tasks/{task_id}", of_task_id=str(task["id"]), key=key)
    assert shown.status_code == 200
    assert f"<code>/v1/tasks/{task['id']}</code> answers 200." in shown.text
    assert "&lt;b&gt;&amp;amp;" in shown.text
    assert key not in shown.text
    listed = tried_out("/v1/tasks", of_handler="mock", of_state="paused", key=key).text
    assert "<code>/v1/tasks?state=paused&amp;handler=mock</code> answers 200." in listed
    for wrong in ("", "cj_none", "caf\u00e9", "a\r\nX: b"):
        assert "answers 401." in tried_out("/v1/tasks", key=wrong).text
    assert "answers 404." in tried_out("/v1/tasks/{task_id}", of_task_id="../runs?x=", key=key).text
    for path in ("/v1/none", "/v1/tasks/bulk", "http://localhost/", ""):
        assert tried_out(path, key=key).json()["code"] == "not-found"


@pytest.mark.parametrize("path", ["/v1/tasks/abc", "/v1/tasks/" + "9" * 5000, "/v1/tasks/-1", "/v1/runs/1.0"])
def test_what_is_no_id_names_nothing(http: TestClient, path: str) -> None:
    assert http.get(path).json()["code"] == "not-found"


def test_an_empty_if_match_matches_nothing(http: TestClient) -> None:
    task = http.post("/v1/tasks", json=HOURLY).json()
    assert http.delete(f"/v1/tasks/{task['id']}", headers={"If-Match": ""}).status_code == 412
    assert http.get(f"/v1/tasks/{task['id']}").json()["state"] == "active"


@pytest.mark.parametrize("key", ['"', '"open', '""', ""])
def test_an_idempotency_key_is_whole_wherever_it_is_taken(http: TestClient, key: str) -> None:
    task = http.post("/v1/tasks", json=HOURLY).json()
    span = {"from": "2026-01-01T00:00:00Z", "to": "2026-01-01T01:00:00Z", "dry_run": True}
    for path, body in (("/v1/tasks", HOURLY), (f"/v1/tasks/{task['id']}/backfill", span)):
        answer = http.post(path, json=body, headers={"Idempotency-Key": key})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid-idempotency-key")


def test_a_whole_number_may_be_written_with_a_point(http: TestClient) -> None:
    made = http.post("/v1/tasks", json={"handler": "mock", "every_s": 60.0, "timeout_s": 6e1})
    assert made.status_code == 201
    assert (made.json()["every_s"], made.json()["timeout_s"]) == (60, 60)
    assert http.post("/v1/tasks", json={"handler": "mock", "every_s": 60.5}).status_code == 422


def test_a_group_of_calls_needs_a_payload_as_a_task_does(http: TestClient) -> None:
    group = {"handler": "http", "anchor_at": "2030-01-01T00:00:00Z", "offsets_s": [0]}
    answer = http.put("/v1/groups/calls", json=group)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/payload")
    assert http.put("/v1/groups/calls", json=group | {"payload": {"endpoint": "any"}}).status_code == 201


def test_a_move_that_the_members_do_not_allow_is_a_conflict(http: TestClient) -> None:
    group = {"handler": "mock", "anchor_at": "2030-01-01T00:00:00Z", "offsets_s": [0], "dst_fold": "both"}
    assert http.put("/v1/groups/both", json=group).status_code == 201
    answer = http.post("/v1/groups/both/move", json={"anchor_at_local": "2030-01-01T00:00:00"})
    assert (answer.status_code, answer.json()["code"]) == (409, "state-conflict")
    assert "dst_fold" in answer.json()["detail"]
    assert http.post("/v1/groups/both/move", json={"anchor_at": "2030-01-02T00:00:00Z"}).status_code == 200


def test_endpoints_have_headers_or_none_and_their_list_says_where_it_goes_on(http: TestClient) -> None:
    one = {"name": "a", "url": "https://example.com/"}
    assert http.post("/v1/endpoints", json=one | {"headers": None}).status_code == 422
    assert http.post("/v1/endpoints", json=one | {"headers": {"X-Team": "red"}}).status_code == 201
    assert http.post("/v1/endpoints", json=one | {"name": "b"}).status_code == 201
    assert http.patch("/v1/endpoints/a", json={"headers": None}).json()["header_names"] == ["X-Team"]
    page = http.get("/v1/endpoints?limit=1")
    after = page.headers["link"].removeprefix("<").partition(">")[0]
    assert [item["name"] for item in http.get(after).json()["items"]] == ["a"]


def test_answers_that_are_not_described_are_seen(http: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(row: dict[str, Any]) -> dict[str, Any]:
        return {"id": row["id"], "version": 1}

    monkeypatch.setattr("clockjack.documents.task", without)
    task = http.post("/v1/tasks", json=HOURLY).json()
    with pytest.raises(AssertionError, match="required property"):
        http.get(f"/v1/tasks/{task['id']}")
    assert described.operation("GET", "/v1/tasks/bulk") is None
