"""PUT, GET and DELETE of a task by its task_key: the same again changes nothing, and only what was meant is changed."""

import threading
from typing import Any

import pytest
from starlette.testclient import TestClient

from clockjack import cli
from clockjack.ledger import acceptance, tasks
from clockjack.ledger import database as ledger
from clockjack.ledger.database import Database, UnknownCommit
from tests.integration.life import claim_all, select, sql

PATH = "/v1/tasks/by-key/team/report"
DAILY = {"handler": "mock", "payload": {"n": 1}, "cron": "0 9 * * *", "timezone": "Europe/Berlin"}
DAILY |= {"limit_key": "k", "per_second": 2.5}


def put(http: TestClient, **headers: str) -> Any:
    return http.put(PATH, json=DAILY, headers={name.replace("_", "-"): value for name, value in headers.items()})


def events(database: Database) -> list[str]:
    return [row["action"] for row in select(database, "SELECT action FROM task_events ORDER BY id")]


def test_made_then_the_same_then_changed(http: TestClient, database: Database) -> None:
    made = put(http)
    assert (made.status_code, made.json()["task_key"], made.json()["version"]) == (201, "team/report", 1)
    assert made.headers["location"] == f"/v1/tasks/{made.json()['id']}"
    same = put(http)
    assert (same.status_code, same.text) == (200, made.text)
    assert same.headers["etag"] == made.headers["etag"] == http.get(PATH).headers["etag"]
    assert events(database) == ["registered"]
    changed = http.put(PATH, json=DAILY | {"cron": "0 10 * * *", "task_key": "team/report"})
    assert (changed.status_code, changed.json()["version"], changed.json()["id"]) == (200, 2, made.json()["id"])
    assert changed.headers["etag"] != made.headers["etag"]
    named = http.put(PATH, json={"handler": "mock", "every_s": 60})
    assert (named.json()["cron"], named.json()["payload"], named.json()["per_second"]) == (None, None, None)
    assert len(select(database, "SELECT id FROM tasks")) == 1


def test_what_cannot_be_a_key(http: TestClient, database: Database) -> None:
    for path, field in (
        ("/v1/tasks/by-key/", "task_key"),
        ("/v1/tasks/by-key/a%2F%2Fb", "task_key"),
        ("/v1/tasks/by-key/a%2F..%2Fb", "task_key"),
        ("/v1/tasks/by-key/%20a", "task_key"),
        (f"/v1/tasks/by-key/{'x' * 201}", "task_key"),
    ):
        answer = http.put(path, json=DAILY)
        assert answer.status_code == 422, (path, answer.text)
        assert answer.json()["errors"][0]["pointer"] == f"#/{field}"
    answer = http.put(PATH, json=DAILY | {"task_key": "another"})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/task_key")
    assert http.put(PATH, json=[]).status_code == 422
    assert http.put(PATH, json=DAILY | {"cron": "61 * * * *"}).json()["errors"][0]["pointer"] == "#/cron"
    assert select(database, "SELECT id FROM tasks") == []


def test_a_key_that_looks_like_a_route_of_a_task(http: TestClient) -> None:
    for key in ("runs", "explain", "1/runs", "pause"):
        assert http.put(f"/v1/tasks/by-key/{key}", json=DAILY).status_code == 201
        assert http.get(f"/v1/tasks/by-key/{key}").json()["task_key"] == key


def test_if_match_and_if_none_match(http: TestClient, database: Database) -> None:
    for headers in ({"If_Match": "*"}, {"If_Match": '"1"'}):
        problem = put(http, **headers)
        assert (problem.status_code, problem.json()["code"]) == (412, "precondition-failed")
    assert select(database, "SELECT id FROM tasks") == []
    made = put(http, If_None_Match="*")
    assert made.status_code == 201
    etag = made.headers["etag"]
    assert put(http, If_None_Match="*").status_code == 412
    assert put(http, If_None_Match=etag).status_code == 412
    assert put(http, If_Match='"2"').status_code == 412
    assert put(http, If_Match="x").status_code == 412
    for headers in ({"If_Match": etag}, {"If_Match": '"1"'}, {"If_Match": "*"}, {"If_None_Match": '"7"'}):
        answer = put(http, **headers)
        assert (answer.status_code, answer.headers["etag"]) == (200, etag), headers
    assert events(database) == ["registered"]
    changed = http.put(PATH, json=DAILY | {"name": "x"}, headers={"If-Match": etag})
    assert (changed.status_code, changed.json()["version"]) == (200, 2)
    assert put(http, If_Match=etag).status_code == 412


def test_of_many_that_may_only_make_it_one_does(http: TestClient, database: Database) -> None:
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(put(http, If_None_Match="*").status_code)) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [201] + [412] * 5
    assert events(database) == ["registered"]


def test_304_until_anything_of_the_task_has_moved(http: TestClient, database: Database) -> None:
    made = http.put(PATH, json={"handler": "mock", "every_s": 60, "start_at": "2026-01-01T00:00:00Z"})
    for path in (PATH, f"/v1/tasks/{made.json()['id']}"):
        etag = http.get(path).headers["etag"]
        for known in (etag, f"W/{etag}", f'"x", {etag}', "*"):
            answer = http.get(path, headers={"If-None-Match": known})
            assert (answer.status_code, answer.text, answer.headers["etag"]) == (304, "", etag)
        assert http.get(path, headers={"If-None-Match": '"1"'}).status_code == 200
    sql(database, "UPDATE tasks SET next_run_at = next_run_at - INTERVAL 60 SECOND")
    claim_all(database)
    moved = http.get(PATH, headers={"If-None-Match": etag})
    assert (moved.status_code, moved.json()["version"]) == (200, 1), "no new version, and yet not the same"
    assert put(http, If_Match=etag).status_code == 200, "what the dispatcher moves is no reason to refuse"


def test_cancelled_and_back(http: TestClient, database: Database) -> None:
    made = put(http)
    assert http.delete(PATH, headers={"If-Match": '"7"'}).status_code == 412
    gone = http.delete(PATH, headers={"If-Match": made.headers["etag"]})
    assert (gone.status_code, gone.json()["state"]) == (200, "cancelled")
    assert http.get(PATH).json()["state"] == "cancelled"
    assert put(http, If_None_Match="*").status_code == 412
    back = put(http)
    assert (back.status_code, back.json()["state"], back.json()["version"]) == (200, "active", 3)
    for method in ("GET", "DELETE"):
        assert http.request(method, "/v1/tasks/by-key/nobody").status_code == 404


def test_with_an_idempotency_key(http: TestClient) -> None:
    first = put(http, Idempotency_Key="k", If_None_Match="*")
    again = put(http, Idempotency_Key="k", If_None_Match="*")
    assert (first.status_code, again.status_code, again.text) == (201, 201, first.text)
    assert again.headers["idempotency-replayed"] == "true"


def test_a_change_whose_commit_was_lost_is_not_refused_for_its_own_version(
    http: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    etag = put(http).headers["etag"]
    once, lost = ledger.Database._once, []

    def losing(self: Database, body: Any) -> Any:
        value = once(self, body)
        if isinstance(value, acceptance.Answer) and not lost:
            lost.append(1)
            raise UnknownCommit("lost")
        return value

    monkeypatch.setattr(ledger.Database, "_once", losing)
    answer = http.put(PATH, json=DAILY | {"name": "x"}, headers={"If-Match": etag})
    assert (lost, answer.status_code, answer.json()["version"]) == ([1], 200, 2)


def test_all_doors_bring_the_task_to_its_values_by_one_function(
    http: TestClient, database: Database, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the same again by another door changes nothing, and what is changed by one is seen by the others."""
    monkeypatch.setenv("CLOCKJACK_DATABASE_URL", database_url)
    monkeypatch.setenv("CLOCKJACK_REDIS_URL", redis_url)
    renewed: list[str] = []
    renew = tasks.renew

    def watched(connection: Any, task: Any, *rest: Any, actor: str) -> Any:
        renewed.append(actor.partition(":")[0])
        return renew(connection, task, *rest, actor=actor)

    monkeypatch.setattr(tasks, "renew", watched)
    plain = {"handler": "mock", "every_s": 60}
    http.put(PATH, json=plain)
    keyed = plain | {"task_key": "team/report"}
    assert http.post("/v1/tasks", json=keyed).status_code == 200
    assert http.post("/v1/tasks/bulk", json={"tasks": [keyed]}).json()["items"][0]["version"] == 1
    assert cli.run(["add", "mock", "--every", "60", "--key", "team/report"]) == 0
    assert renewed == ["key", "key", "cli"]
    assert http.get(PATH).json()["version"] == 1
    assert events(database) == ["registered"]
