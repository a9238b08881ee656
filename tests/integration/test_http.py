"""The HTTP API on real servers: what is answered, what is stored, and what happens when a server is away."""

import itertools
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from clockjack.ledger import batch, keys, tasks
from clockjack.ledger import database as ledger
from clockjack.ledger.database import Database, UnknownCommit
from clockjack.queues import Queues
from clockjack.reach import TIMEOUT_S
from deploy import servers
from tests.integration.life import owner

FUTURE = "2030-01-01T00:00:00Z"


def count(database: Database, table: str = "tasks") -> int:
    return int(database.transaction(lambda c: c.execute(sa.text(f"SELECT COUNT(*) FROM {table}")).scalar_one()))


def assert_problem(response: Any, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert (document["status"], document["code"]) == (status, code)
    assert document["title"]
    assert document["type"] == f"/problems/{code}"
    return dict(document)


def test_a_task_is_registered_read_and_listed(http: TestClient, database: Database) -> None:
    sent = {"handler": "mock", "run_at": "2030-01-01T01:00:00.5+01:00", "payload": {"é": [1, None]}, "name": "n"}
    made = http.post("/v1/tasks", json=sent)
    assert made.status_code == 201
    task = made.json()
    assert made.headers["location"] == f"/v1/tasks/{task['id']}"
    assert task["run_at"] == task["next_run_at"] == "2030-01-01T00:00:00.500000Z"
    assert (task["payload"], task["state"], task["timeout_s"]) == ({"é": [1, None]}, "active", 60)
    assert task["warnings"] == ["no consumer serves the queue 'default' at the moment: its runs wait until one does"]
    read = http.get(made.headers["location"]).json()
    assert read == {name: value for name, value in task.items() if name != "warnings"}
    assert list(read) == [name for name in tasks.COLUMNS.split(", ") if name not in tasks.SEEN]
    assert http.get("/v1/tasks").json() == {
        "items": [{name: value for name, value in read.items() if name != "payload"}],
        "next_cursor": None,
    }
    assert count(database, "task_events") == 1


def test_a_task_key_brings_the_same_task_to_new_values(http: TestClient, database: Database) -> None:
    first = http.post("/v1/tasks", json={"handler": "mock", "every_s": 60, "task_key": "k"})
    again = http.post("/v1/tasks", json={"handler": "mock", "every_s": 60, "task_key": "k"})
    other = http.post("/v1/tasks", json={"handler": "mock", "cron": "0 5 * * *", "task_key": "k"})
    assert [r.status_code for r in (first, again, other)] == [201, 200, 200]
    assert "location" not in other.headers
    assert first.json()["id"] == again.json()["id"] == other.json()["id"]
    assert again.json()["version"] == 1
    assert (other.json()["cron"], other.json()["every_s"], other.json()["schedule_version"]) == ("0 5 * * *", None, 2)
    assert count(database) == 1


def test_served_handlers_are_registered_without_a_warning(http: TestClient, queues: Queues) -> None:
    queues.announce("c1", "default", ["mock", "http"], 50)
    time.sleep(0.25)
    assert http.post("/v1/tasks", json={"handler": "mock", "run_at": FUTURE}).json()["warnings"] == []
    warned = http.post("/v1/tasks", json={"handler": "nope", "run_at": FUTURE}).json()["warnings"]
    assert len(warned) == 1
    assert "'nope'" in warned[0]


def test_what_is_due_soon_wakes_a_dispatcher(http: TestClient, queues: Queues) -> None:
    http.post("/v1/tasks", json={"handler": "mock", "run_at": FUTURE})
    time.sleep(0.1)
    assert queues.redis.llen("clockjack:nudge") == 0
    http.post("/v1/tasks", json={"handler": "mock", "every_s": 5})
    assert queues.redis.brpop("clockjack:nudge", timeout=5)


@pytest.mark.parametrize(
    ("document", "pointers"),
    [
        ({"handler": "mock", "run_at": FUTURE, "payload": "x" * 65_536}, ["#/payload"]),
        ({"handler": "mock", "every_s": True, "a/b~": 1}, ["#/every_s", "#/a~1b~0"]),
        ([], ["#"]),
    ],
)
def test_bad_fields_are_named(http: TestClient, database: Database, document: Any, pointers: list[str]) -> None:
    problem = assert_problem(http.post("/v1/tasks", json=document), 422, "invalid-fields")
    assert [error["pointer"] for error in problem["errors"]] == pointers
    assert all(error["detail"] for error in problem["errors"])
    assert count(database) == 0


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b'{"handler":"mock","handler":"x"}', b'{"payload":NaN}', b'{"payload":1e999}',
     b'{"payload":"\\ud800"}', b"[" * 100_000, b'{"a":' * 20_000, b"9" * 5000],
    ids=lambda body: repr(body[:20]),
)  # fmt: skip
def test_unreadable_bodies_are_refused(http: TestClient, body: bytes) -> None:
    assert_problem(http.post("/v1/tasks", content=body), 400, "unreadable-json")


def test_a_large_body_is_refused_with_and_without_a_length(http: TestClient) -> None:
    assert_problem(http.post("/v1/tasks", content=b" " * 131_073), 413, "too-large")
    assert_problem(http.post("/v1/tasks", content=(b" " * 1000 for _ in range(1000))), 413, "too-large")
    assert http.post("/v1/tasks", json={"handler": "mock", "run_at": FUTURE, "payload": "x" * 65_534}).is_success


def test_errors_are_problems(http: TestClient) -> None:
    assert_problem(http.get("/nothing"), 404, "not-found")
    assert_problem(http.get("/v1/tasks/1"), 404, "not-found")
    assert_problem(http.get("/v1/tasks/abc"), 404, "not-found")
    assert_problem(http.get("/v1/tasks/99999999999999999999"), 404, "not-found")
    assert_problem(http.post("/v1/tasks/1/run"), 404, "not-found")
    assert_problem(http.delete("/v1/tasks/1"), 404, "not-found")
    assert_problem(http.get("/v1/runs/1"), 404, "not-found")
    allowed = http.put("/v1/tasks")
    assert_problem(allowed, 405, "method-not-allowed")
    assert allowed.headers["allow"]
    for query in ("limit=0", "limit=201", "limit=x", "cursor=x", "cursor=MS4", "stat=active", "state=bogus"):
        problem = assert_problem(http.get(f"/v1/tasks?{query}"), 400, "invalid-parameter")
        assert problem["errors"][0]["parameter"] == query.split("=")[0]
    assert http.get("/problems/invalid-fields").json()["status"] == 422


def test_a_fault_of_ours_is_a_problem_that_tells_nothing(
    http: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the payload is hunter2")

    monkeypatch.setattr(batch, "register_one", broken)
    response = http.post("/v1/tasks", json={"handler": "mock", "run_at": FUTURE, "payload": "hunter2"})
    assert_problem(response, 500, "internal-error")
    assert "hunter2" not in response.text + caplog.text
    assert [record.__dict__["kind"] for record in caplog.records if record.name == "producer"] == ["RuntimeError"]


def test_a_key_is_needed_and_opens_one_namespace_only(anonymous: TestClient, database: Database) -> None:
    mine, other = (owner(database).transaction(lambda c, n=n: keys.create(c, n, "test")) for n in ("mine", "other"))
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Basic eDp5"}, {"X-API-Key": mine + "x"}):
        response = anonymous.get("/v1/tasks/7?limit=x", headers=headers)
        assert_problem(response, 401, "unauthorized")
        assert response.headers["www-authenticate"].startswith("Bearer")
    sent = {"handler": "mock", "run_at": FUTURE, "task_key": "k"}
    made = anonymous.post("/v1/tasks", json=sent, headers={"X-API-Key": mine}).json()
    run = anonymous.post(f"/v1/tasks/{made['id']}/run", headers={"X-API-Key": mine}).json()
    theirs = {"Authorization": f"bearer {other}"}
    for method, path in (
        ("GET", f"/v1/tasks/{made['id']}"),
        ("DELETE", f"/v1/tasks/{made['id']}"),
        ("POST", f"/v1/tasks/{made['id']}/pause"),
        ("POST", f"/v1/tasks/{made['id']}/run"),
        ("GET", f"/v1/tasks/{made['id']}/runs"),
        ("GET", f"/v1/runs/{run['id']}"),
    ):
        assert_problem(anonymous.request(method, path, headers=theirs), 404, "not-found")
    assert anonymous.get("/v1/tasks", headers=theirs).json()["items"] == []
    assert anonymous.post("/v1/tasks", json=sent, headers=theirs).status_code == 201
    owner(database).transaction(lambda c: keys.revoke(c, str(keys.prefix_of(mine))))
    anonymous.app.state.doorkeeper._known.clear()  # type: ignore[attr-defined]
    assert_problem(anonymous.get("/v1/tasks", headers={"X-API-Key": mine}), 401, "unauthorized")


def test_control(http: TestClient, database: Database) -> None:
    path = http.post("/v1/tasks", json={"handler": "mock", "every_s": 60}).headers["location"]
    assert http.post(f"{path}/pause").json()["state"] == "paused"
    assert http.post(f"{path}/pause").json()["state"] == "paused"
    assert http.post(f"{path}/resume").json()["state"] == "active"
    run = http.post(f"{path}/run")
    assert run.status_code == 202
    assert run.headers["location"] == f"/v1/runs/{run.json()['id']}"
    assert (run.json()["state"], run.json()["origin"], run.json()["lateness_ms"]) == ("ready", "manual", None)
    assert http.get(run.headers["location"]).json() == run.json() | {"attempts": []}
    assert http.get(f"{path}/runs").json()["items"] == [run.json()]
    assert http.delete(path).json()["state"] == "cancelled"
    assert http.delete(path).json()["state"] == "cancelled"
    assert_problem(http.post(f"{path}/pause"), 409, "state-conflict")
    assert_problem(http.post(f"{path}/run"), 409, "state-conflict")
    events = database.transaction(
        lambda c: c.execute(sa.text("SELECT action, actor FROM task_events ORDER BY id")).all()
    )
    assert [e.action for e in events] == ["registered", "paused", "resumed", "run_now", "cancelled"]
    assert all(e.actor.startswith("key:") for e in events)


def test_lists_go_on_where_they_ended(http: TestClient) -> None:
    ids = [
        http.post("/v1/tasks", json={"handler": "mock", "every_s": 60, "task_key": f"a_{i}"}).json()["id"]
        for i in range(5)
    ]
    http.post("/v1/tasks", json={"handler": "mock", "every_s": 60, "task_key": "aX"})
    found, path = [], "/v1/tasks?limit=2&task_key=a_"
    while path:
        page = http.get(path)
        found += [item["id"] for item in page.json()["items"]]
        path = page.headers["link"].split(">")[0][1:] if page.json()["next_cursor"] else ""
    assert found == ids[::-1]
    for _ in range(3):
        http.post(f"/v1/tasks/{ids[0]}/run")
    first = http.get(f"/v1/tasks/{ids[0]}/runs?limit=2").json()
    rest = http.get(f"/v1/tasks/{ids[0]}/runs", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    due = [run["due_at"] for run in first["items"] + rest["items"]]
    assert due == sorted(due, reverse=True)
    assert len(due) == 3


def test_an_idempotency_key_registers_once(http: TestClient, database: Database) -> None:
    sent = json.dumps({"handler": "mock", "run_at": FUTURE})
    first = http.post("/v1/tasks", content=sent, headers={"Idempotency-Key": "k"})
    again = http.post("/v1/tasks", content=sent, headers={"Idempotency-Key": '"k"'})
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.text == again.text
    assert first.headers["location"] == again.headers["location"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    other = http.post("/v1/tasks", content=sent + " ", headers={"Idempotency-Key": "k"})
    assert_problem(other, 422, "idempotency-key-reused")
    assert http.post("/v1/tasks", content=sent, headers={"Idempotency-Key": "K"}).status_code == 201
    theirs = {"Idempotency-Key": "k", "X-API-Key": owner(database).transaction(lambda c: keys.create(c, "other", "x"))}
    del http.headers["Authorization"]
    assert "idempotency-replayed" not in http.post("/v1/tasks", content=sent, headers=theirs).headers
    assert count(database) == 3


@pytest.mark.parametrize("key", ["", '""', "x" * 256, "é", "a\tb"])
def test_unusable_idempotency_keys_are_refused(http: TestClient, key: str) -> None:
    headers = {"Idempotency-Key": key.encode()}
    problem = http.post("/v1/tasks", json={"handler": "mock", "run_at": FUTURE}, headers=headers)
    assert_problem(problem, 400, "invalid-idempotency-key")


def test_a_replay_is_answered_even_when_it_would_be_refused_by_now(
    http: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, headers = {"handler": "mock", "run_at": FUTURE}, {"Idempotency-Key": "k"}
    assert http.post("/v1/tasks", json=sent, headers=headers).status_code == 201
    now = ledger.Clock.now
    monkeypatch.setattr(ledger.Clock, "now", lambda self: now(self).replace(year=2040))
    assert_problem(http.post("/v1/tasks", json=sent), 422, "invalid-fields")
    assert http.post("/v1/tasks", json=sent, headers=headers).headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize("document", [{"run_at": FUTURE}, {"every_s": 60, "task_key": "k"}])
def test_parallel_requests_with_one_key_give_one_task(
    http: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch, document: dict[str, Any]
) -> None:
    real, calls = batch.register_one, itertools.count()

    def slow(*args: Any, **values: Any) -> Any:
        made = real(*args, **values)
        if next(calls) < 3:
            time.sleep(0.3)  # so that the others come before the COMMIT
        return made

    monkeypatch.setattr(batch, "register_one", slow)
    http.get("/v1/tasks")  # the API key is known from here on
    headers = {"Idempotency-Key": "k"} if "task_key" not in document else {}
    barrier = threading.Barrier(20)

    def send(_: int) -> Any:
        barrier.wait()
        return http.post("/v1/tasks", json={"handler": "mock", **document}, headers=headers)

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(send, range(20)))
    while waiting := [a for a in answers if a.status_code == 409]:  # what is not made to wait is told to ask again
        assert headers
        assert all(a.json()["code"] == "idempotency-key-in-flight" for a in waiting), [a.text for a in waiting]
        answers = [a for a in answers if a.status_code != 409]
        answers += [http.post("/v1/tasks", json={"handler": "mock", **document}, headers=headers) for _ in waiting]
    assert {a.status_code for a in answers} <= {200, 201}, [a.text for a in answers]
    assert len({a.json()["id"] for a in answers}) == 1
    assert count(database) == 1
    assert sum(a.status_code == 201 and "idempotency-replayed" not in a.headers for a in answers) == 1


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "k"}])
@pytest.mark.parametrize("extra", [{}, {"task_key": "k"}])
def test_a_commit_of_unknown_outcome_is_looked_up(
    http: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch, durable: bool, headers: Any, extra: Any
) -> None:
    http.get("/v1/tasks")  # the API key is known from here on
    real, broken = Database._once, []

    def once(self: Database, body: Any) -> Any:
        if broken:
            return real(self, body)
        broken.append(True)
        if durable:
            real(self, body)
        else:
            with pytest.raises(ZeroDivisionError):
                real(self, lambda c: (body(c), 1 / 0))
        raise UnknownCommit

    monkeypatch.setattr(Database, "_once", once)
    answer = http.post("/v1/tasks", json={"handler": "mock", "run_at": FUTURE, **extra}, headers=headers)
    assert broken
    assert answer.status_code == 201, answer.text
    assert count(database) == 1
    assert http.get(answer.headers["location"]).status_code == 200
    assert count(database, "idempotency_keys") == len(headers)


def test_operators_are_told_how_it_is(http: TestClient) -> None:
    http.post("/v1/tasks", json={"handler": "mock", "run_at": FUTURE})
    del http.headers["Authorization"]
    assert http.get("/healthz").json() == {"status": "ok"}
    ready = http.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    document = ready.json()
    assert document.pop("tzdata")
    assert set(document.values()) == {"ready", "ok"}
    page = http.get("/metrics").text
    assert 'clockjack_registration_seconds_count{door="http"}' in page
    assert 'clockjack_last_tick_timestamp_seconds{loop="producer"}' in page
    assert http.get("/openapi.json").json()["paths"]["/v1/tasks"]["post"]["requestBody"]


def test_redis_away_costs_a_warning_and_no_time(http: TestClient, redis_server: servers.Server) -> None:
    http.post("/v1/tasks", json={"handler": "mock", "every_s": 5})
    redis_server.suspend()
    try:
        first = http.post("/v1/tasks", json={"handler": "mock", "every_s": 5})
        assert first.status_code == 201
        time.sleep(1.5)
        for _ in range(20):
            began = time.monotonic()
            answer = http.post("/v1/tasks", json={"handler": "mock", "every_s": 5})
            assert time.monotonic() - began < TIMEOUT_S, "it waited for Redis"
            assert answer.status_code == 201
            assert "Redis" in answer.json()["warnings"][0]
        assert http.get("/readyz").status_code == 200
        assert "cannot be reached" in http.get("/readyz").json()["redis"]
    finally:
        redis_server.resume()
    until = time.monotonic() + 5
    while "Redis" in http.post("/v1/tasks", json={"handler": "mock", "every_s": 5}).json()["warnings"][0]:
        assert time.monotonic() < until
        time.sleep(0.1)


def test_the_database_away_is_503_and_comes_back_by_itself(
    http: TestClient, database: Database, database_server: servers.Server | None
) -> None:
    if database_server is None:
        pytest.skip("CLOCKJACK_TEST_MYSQL_URL is set: this test kills its database server")
    headers = {"Idempotency-Key": "k"}
    database_server.kill()
    try:
        answer = http.post("/v1/tasks", json={"handler": "mock", "run_at": FUTURE}, headers=headers)
        assert_problem(answer, 503, "unavailable")
        assert int(answer.headers["retry-after"]) > 0
        assert http.get("/readyz").status_code == 503
        assert http.get("/healthz").status_code == 200
    finally:
        database_server.start()
    until = time.monotonic() + 10
    while not (
        answer := http.post("/v1/tasks", json={"handler": "mock", "run_at": FUTURE}, headers=headers)
    ).is_success:
        assert answer.status_code == 503
        assert time.monotonic() < until
        time.sleep(0.1)
    assert count(database) == 1
    assert http.get("/readyz").status_code == 200


def test_a_database_without_tables_is_unfit(
    anonymous: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clockjack.ledger.server.head", lambda: "9999")
    assert anonymous.get("/readyz").status_code == 503
    assert "clockjack migrate" in anonymous.get("/readyz").json()["schema"]


@pytest.mark.parametrize("change", ["pause", "resume", "cancel"])
def test_a_copy_of_a_change_that_comes_late_undoes_nothing(http: TestClient, change: str) -> None:
    task = f"/v1/tasks/{http.post('/v1/tasks', json={'handler': 'mock', 'every_s': 5, 'task_key': 'k'}).json()['id']}"
    if change == "resume":
        http.post(f"{task}/pause")

    def send() -> Any:
        headers = {"Idempotency-Key": "late"}
        return (
            http.delete(task, headers=headers) if change == "cancel" else http.post(f"{task}/{change}", headers=headers)
        )

    first = send()
    assert first.status_code == 200
    if change == "cancel":
        http.post("/v1/tasks", json={"handler": "mock", "every_s": 5, "task_key": "k"})
    else:
        http.post(f"{task}/{'pause' if change == 'resume' else 'resume'}")
    now = http.get(task).json()
    late = send()
    assert (late.status_code, late.headers["idempotency-replayed"], late.json()) == (200, "true", first.json())
    assert http.get(task).json() == now != first.json()
