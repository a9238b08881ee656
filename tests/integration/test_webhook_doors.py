"""What the handler `http` cannot call is refused at every door, with the field and the reason; nothing is changed."""

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from clockjack import cli
from clockjack.ledger.database import Database
from tests.integration.life import claim_all, insert, select, sql, task

BAD = {"url": "http://169.254.169.254/latest/meta-data/"}
GOOD = {"url": "https://example.com/hook", "body": {"a": 1}}


def new(payload: Any, **more: Any) -> dict[str, Any]:
    return {"handler": "http", "payload": payload, "in_s": 3600, **more}


def count(database: Database) -> int:
    return int(select(database, "SELECT COUNT(*) AS n FROM tasks")[0]["n"])


def test_http(http: TestClient, database: Database) -> None:
    for payload in (BAD, {"url": "ftp://example.com/"}, {}, None):
        refused = http.post("/v1/tasks", json=new(payload))
        assert refused.status_code == 422
        assert [error["pointer"] for error in refused.json()["errors"]] == ["#/payload"]
    missing = http.post("/v1/tasks", json={"handler": "http", "in_s": 60})
    assert missing.json()["errors"] == [{"pointer": "#/payload", "detail": "is required by the handler http"}]
    assert count(database) == 0
    assert http.post("/v1/tasks", json=new(GOOD)).status_code == 201
    assert http.post("/v1/tasks", json=new(BAD) | {"handler": "other"}).status_code == 201  # it is that one's own


def test_http_groups(http: TestClient, database: Database) -> None:
    group = {"handler": "http", "anchor_at": "2099-01-01T00:00:00Z", "offsets_s": [0]}
    refused = http.put("/v1/groups/g", json=group | {"payload": BAD})
    assert (refused.status_code, count(database)) == (422, 0)
    assert refused.json()["errors"][0]["pointer"] == "#/payload"


def test_http_edits(http: TestClient, database: Database) -> None:
    made = http.post("/v1/tasks", json=new(GOOD)).json()
    refused = http.patch(f"/v1/tasks/{made['id']}", json={"payload": BAD})
    assert refused.status_code == 422
    assert http.get(f"/v1/tasks/{made['id']}").json()["payload"] == GOOD
    for change in ({"name": "x"}, {"in_s": 7200}, {"payload": {"body": None}}):  # what is not touched is not judged
        assert http.patch(f"/v1/tasks/{made['id']}", json=change).status_code == 200
    ours = json.dumps({"url": "http://10.0.0.1/"})
    sql(database, "UPDATE tasks SET payload = :p WHERE id = :i", p=ours, i=made["id"])
    assert http.patch(f"/v1/tasks/{made['id']}", json={"name": "y"}).status_code == 200


def test_the_command(
    database: Database,
    owner_url: str,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CLOCKJACK_DATABASE_URL", owner_url)
    monkeypatch.setenv("CLOCKJACK_REDIS_URL", redis_url)
    add = ["add", "http", "--payload", json.dumps(BAD), "--in", "1h"]
    assert (cli.run(add), count(database)) == (2, 0)
    assert capsys.readouterr().err.startswith("clockjack: payload: url: 169.254.169.254 is link-local")
    monkeypatch.setenv("CLOCKJACK_HTTP_ALLOW", "169.254.0.0/16")
    assert cli.run(add) == 0


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        ({"url": "http://0x7f.1/"}, "payload: url: an IPv4 address is written as four decimal numbers"),
        ({"url": "https://u:p@example.com/"}, "payload: url: the URL must have no user"),
        ({}, "payload: give exactly one"),
    ],
)
def test_plain_sql_parks_what_nobody_could_call(database: Database, payload: Any, why: str) -> None:
    bad = insert(database, handler="http", payload=json.dumps(payload))
    good = insert(database, handler="http", payload=json.dumps(GOOD))
    ready = claim_all(database)
    assert [len(select(database, "SELECT id FROM runs WHERE task_id = :i", i=i)) for i in (bad, good)] == [0, 1]
    assert len(ready) == 1
    assert (task(database, bad)["state"], task(database, bad)["error"][: len(why)]) == ("invalid", why)


def test_plain_sql_with_an_address_is_judged_by_who_calls_it(database: Database) -> None:
    """A consumer's settings say which networks it may call, and other processes need not know them."""
    inside = insert(database, handler="http", payload=json.dumps({"url": "http://10.1.2.3/"}))
    claim_all(database)
    assert task(database, inside)["state"] == "active"
