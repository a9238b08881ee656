"""Expectations: silence is told of once, and so is its end; a success costs nothing."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from clockjack import cli
from clockjack.ledger import expectations, keys
from clockjack.ledger.database import Database
from clockjack.queues import Queues
from clockjack.settings import Settings
from dispatcher.loops import Dispatcher
from producer.app import create_app
from tests.integration.life import insert, owner, select, sql
from tests.integration.stepping import Later, moved

pytestmark = pytest.mark.mysql
AT = datetime(2030, 1, 1, 12)


@pytest.fixture
def app(users: dict[str, str], redis_url: str) -> Any:
    return create_app(Settings(database_url=users["producer"], redis_url=redis_url, secret_keys=(b"k" * 32,)))


@pytest.fixture
def later(users: dict[str, str], owner_url: str) -> Iterator[Later]:
    """A dispatcher's database at a moment that the test sets."""
    with moved(users["dispatcher"], AT) as database:
        database.owner = Database(owner_url, size=2)  # type: ignore[attr-defined]
        yield database
        database.owner.close()  # type: ignore[attr-defined]


@pytest.fixture
def dispatcher(later: Later, queues: Queues) -> Dispatcher:
    return Dispatcher(later, queues)


def expected(database: Database, every_s: int, task_id: int | None = None) -> None:
    sql(database, "INSERT INTO endpoints (name, url, sealed) VALUES ('ops', 'https://example.com/', 'x')")
    values = {"name": "nightly", "expect_every_s": every_s, "endpoint": "ops", "task_id": task_id, "queue": "alerts"}
    owner(database).transaction(lambda c: expectations.create(c, "default", values))
    over = AT + timedelta(seconds=every_s)
    sql(database, "UPDATE expectations SET heard_at = :at, look_at = :over", at=AT, over=over)


def alerts(database: Database) -> list[tuple[str, str]]:
    found = select(database, "SELECT payload, queue, handler FROM tasks WHERE tags = 'expectation' ORDER BY id")
    assert {(row["queue"], row["handler"]) for row in found} <= {("alerts", "http")}
    told = [json.loads(row["payload"]) for row in found]
    assert {one["endpoint"] for one in told} <= {"ops"}
    return [(one["body"]["type"], one["body"]["data"]["heard_at"]) for one in told]


def looked(dispatcher: Dispatcher, seconds: float) -> list[str]:
    """So much later, whatever is due is looked at; the kinds of all alerts so far."""
    dispatcher.database.on(seconds)  # type: ignore[attr-defined]
    dispatcher.expect_step()
    return [kind.removeprefix("expectation.") for kind, _ in alerts(dispatcher.database)]


def ping(later: Later) -> None:
    later.transaction(lambda c: expectations.ping(c, "default", "nightly"))


def test_silence_is_told_of_once_and_so_is_its_end(later: Later, dispatcher: Dispatcher) -> None:
    expected(later, 100)
    assert looked(dispatcher, 99) == []
    assert looked(dispatcher, 2) == ["silent"]
    assert [looked(dispatcher, 10) for _ in range(5)] == [["silent"]] * 5
    ping(later)
    assert looked(dispatcher, 0.5) == ["silent", "recovered"]
    assert looked(dispatcher, 90) == ["silent", "recovered"]
    assert looked(dispatcher, 20) == ["silent", "recovered", "silent"]
    heard = [at for _, at in alerts(later)]
    assert heard[0] == "2030-01-01T12:00:00.000000Z"
    assert heard[1] == heard[2] == "2030-01-01T12:02:31.000000Z"


def test_pings_in_time_keep_it_quiet_and_are_looked_at_once_an_interval(later: Later, dispatcher: Dispatcher) -> None:
    expected(later, 100)
    looks = set()
    for _ in range(20):
        later.on(50)
        ping(later)
        assert looked(dispatcher, 0) == []
        looks.add(select(later, "SELECT look_at FROM expectations")[0]["look_at"])
    assert len(looks) <= 11, looks


def test_a_tasks_successes_are_heard_and_nothing_else_is(later: Later, dispatcher: Dispatcher) -> None:
    one = insert(later, None, every_s=50)
    expected(later, 100, one)

    def ran(state: str, at: datetime) -> None:
        sql(
            later,
            "INSERT INTO runs (task_id, due_at, schedule_version, queue, state, finished_at)"
            " VALUES (:t, :at, 1, 'default', :s, :at)",
            t=one,
            at=at,
            s=state,
        )

    ran("succeeded", later.on(50))
    assert looked(dispatcher, 60) == [], "it was heard of 60 s ago"
    ran("failed", later.on(20))
    ran("skipped", later.on(5))
    assert looked(dispatcher, 20) == ["silent"]
    ran("succeeded", later.on(1))
    assert looked(dispatcher, 15) == ["silent", "recovered"]


def test_of_several_dispatchers_one_tells(later: Later, dispatcher: Dispatcher, queues: Queues, users: Any) -> None:
    expected(later, 10)
    with moved(users["dispatcher"], AT + timedelta(seconds=20)) as other:
        Dispatcher(other, queues).expect_step()
    assert looked(dispatcher, 20) == ["silent"]


def test_what_a_look_finds_and_its_alert_are_one_transaction(
    later: Later, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected(later, 10)

    def fails(*_: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(expectations, "_alert", fails)
    with pytest.raises(RuntimeError):
        looked(dispatcher, 20)
    monkeypatch.undo()
    assert looked(dispatcher, 1) == ["silent"]


def test_the_alert_is_claimed_as_any_task_is(later: Later, dispatcher: Dispatcher) -> None:
    expected(later, 10)
    looked(dispatcher, 20)
    dispatcher.claim_step()
    runs = select(later, "SELECT r.state, r.queue FROM runs r JOIN tasks t ON t.id = r.task_id")
    assert runs == [{"state": "ready", "queue": "alerts"}]


def test_the_doors(
    http: TestClient,
    database: Database,
    owner_url: str,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = {"name": "nightly", "expect_every_s": 60, "endpoint": "ops"}
    missing = http.post("/v1/expectations", json=given)
    assert (missing.status_code, missing.json()["errors"][0]["pointer"]) == (422, "#/endpoint")
    made = http.post("/v1/endpoints", json={"name": "ops", "url": "https://example.com/"})
    assert made.status_code == 201, made.text
    for bad, field in (
        ({"task_id": 10**9}, "#/task_id"),
        ({"expect_every_s": 0}, "#/expect_every_s"),
        ({"name": "a b"}, "#/name"),
        ({"state": "silent"}, "#/state"),
    ):
        refused = http.post("/v1/expectations", json=given | bad)
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, field), bad
    made = http.post("/v1/expectations", json=given)
    assert (made.status_code, made.headers["Location"]) == (201, "/v1/expectations/nightly")
    assert (made.json()["state"], made.json()["task_id"]) == ("heard", None)
    assert http.post("/v1/expectations", json=given).status_code == 409
    before = http.get("/v1/expectations/nightly").json()["heard_at"]
    assert http.post("/v1/expectations/nightly/ping").status_code == 204
    assert http.get("/v1/expectations/nightly").json()["heard_at"] > before
    key = owner(database).transaction(lambda c: keys.create(c, "other", "test"))
    other = {"Authorization": f"Bearer {key}"}
    assert http.get("/v1/expectations", headers=other).json() == {"items": [], "next_cursor": None}
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/ping")):
        assert http.request(method, f"/v1/expectations/nightly{path}", headers=other).status_code == 404
    assert [e["name"] for e in http.get("/v1/expectations").json()["items"]] == ["nightly"]
    assert http.delete("/v1/expectations/nightly").status_code == 204
    assert http.get("/v1/expectations/nightly").status_code == 404
    monkeypatch.setenv("CLOCKJACK_DATABASE_URL", owner_url)
    monkeypatch.setenv("CLOCKJACK_REDIS_URL", redis_url)
    assert cli.run(["expect", "create", "backup", "--every", "1h", "--endpoint", "none"]) == 2
    assert cli.run(["expect", "create", "backup", "--every", "1h", "--endpoint", "ops"]) == 0
    assert cli.run(["expect", "ping", "backup"]) == 0
    capsys.readouterr()
    assert cli.run(["expect", "list", "--json"]) == 0
    assert [e["expect_every_s"] for e in json.loads(capsys.readouterr().out)] == [3600]
    assert cli.run(["expect", "delete", "backup"]) == 0
    assert cli.run(["expect", "ping", "backup"]) == 1


def test_a_lost_answer_is_given_again_and_what_is_named_stays(http: TestClient) -> None:
    assert http.post("/v1/endpoints", json={"name": "ops", "url": "https://example.com/"}).status_code == 201
    given = {"name": "nightly", "expect_every_s": 60, "endpoint": "ops"}
    made, again = (http.post("/v1/expectations", json=given, headers={"Idempotency-Key": "a"}) for _ in range(2))
    assert (made.status_code, again.status_code, again.json()) == (201, 201, made.json())
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["Location"] == made.headers["Location"] == "/v1/expectations/nightly"
    refused = http.delete("/v1/endpoints/ops")
    assert (refused.status_code, refused.json()["code"]) == (409, "state-conflict")
    assert "nightly" in refused.json()["detail"]
    assert http.get("/v1/endpoints/ops").status_code == 200
    assert http.delete("/v1/expectations/nightly").status_code == 204
    assert http.delete("/v1/endpoints/ops").status_code == 204


def test_the_list_goes_on_behind_a_page(http: TestClient, database: Database) -> None:
    assert http.post("/v1/endpoints", json={"name": "ops", "url": "https://example.com/"}).status_code == 201
    for number in range(5):
        given = {"name": f"e{number}", "expect_every_s": 60, "endpoint": "ops"}
        assert http.post("/v1/expectations", json=given).status_code == 201
    sql(database, "UPDATE expectations SET state = 'silent' WHERE name IN ('e1', 'e3')")
    seen, path = [], "/v1/expectations?limit=2"
    while path:
        answer = http.get(path)
        seen.append([one["name"] for one in answer.json()["items"]])
        path = answer.headers.get("Link", "").removeprefix("<").partition(">")[0]
    assert seen == [["e4", "e3"], ["e2", "e1"], ["e0"]]
    silent = http.get("/v1/expectations?state=silent").json()
    assert ([one["name"] for one in silent["items"]], silent["next_cursor"]) == (["e3", "e1"], None)
    assert http.get("/v1/expectations?state=loud").status_code == 400
