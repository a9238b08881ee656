"""POST /v1/tasks/bulk: what is registered at once is what would be registered one by one."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.testclient import TestClient

from clockjack.ledger import batch, tasks
from clockjack.ledger import database as ledger
from clockjack.ledger.database import Database, UnknownCommit
from clockjack.queues import Queues
from tests.integration.life import select
from tests.integration.test_http import FUTURE, assert_problem, count

VARIED: list[dict[str, Any]] = [
    {"handler": "mock", "run_at": FUTURE},
    {"handler": "mock", "run_at": "2030-01-01T00:00:00Z", "payload": {"é": "100%"}, "name": "n", "tags": ["a", "b"]},
    {"handler": "m2", "every_s": 60, "queue": "slow", "start_at": FUTURE, "max_runs": 3, "overlap": "skip"},
    {"handler": "mock", "cron": "0 5 * * *", "timezone": "Europe/Berlin", "dst_gap": "skip", "misfire": "all"},
    {"handler": "mock", "cron": "H H * * *", "exclude": ["2030-12-25"], "timeout_s": 5, "max_failures": 2},
    {"handler": "mock", "run_at": FUTURE, "jitter_s": 60, "max_lateness_s": 9, "pause_after_failures": 2},
    {"handler": "mock", "rrule": "FREQ=DAILY;COUNT=3", "start_at": FUTURE, "backoff_s": 1, "backoff_max_s": 9},
    {"handler": "mock", "run_at_local": "2030-06-01T09:00:00", "timezone": "Asia/Tokyo", "dst_fold": "last"},
]
OWN = ("id", "created_at", "updated_at", "next_run_at", "task_key")


def bulk(http: TestClient, *sent: dict[str, Any], headers: dict[str, str] | None = None, **more: Any) -> Any:
    return http.post("/v1/tasks/bulk", json={"tasks": list(sent), **more}, headers=headers)


@pytest.mark.mysql
def test_a_batch_writes_the_rows_and_events_that_single_registrations_write(
    http: TestClient, database: Database
) -> None:
    alone = [http.post("/v1/tasks", json=one).json()["id"] for one in VARIED]
    answer = bulk(http, *VARIED)
    assert answer.status_code == 201, answer.text
    document = answer.json()
    assert (document["created"], document["updated"], document["refused"]) == (len(VARIED), 0, 0)
    assert [one["index"] for one in document["items"]] == list(range(len(VARIED)))
    kept = {row["id"]: row for row in select(database, "SELECT * FROM tasks")}
    for id_, one, sent in zip(alone, document["items"], VARIED, strict=True):
        single, many = kept[id_], kept[one["id"]]
        assert {k: v for k, v in single.items() if k not in OWN} == {k: v for k, v in many.items() if k not in OWN}
        assert many["next_run_at"] == tasks.first_run(many, many["created_at"]), sent
        shown = http.get(f"/v1/tasks/{one['id']}").json()
        assert {name: shown[name] for name in ("id", "version", "next_run_at", "task_key")} == {
            name: one[name] for name in ("id", "version", "next_run_at", "task_key")
        }
    events = select(database, "SELECT * FROM task_events ORDER BY id")
    made = [
        [(e["action"], e["version"], e["detail"], e["actor"]) for e in events if e["task_id"] == i]
        for i in (*alone, *(one["id"] for one in document["items"]))
    ]
    assert made[: len(VARIED)] == made[len(VARIED) :]


def test_all_or_nothing(http: TestClient, database: Database) -> None:
    problem = assert_problem(
        bulk(http, VARIED[0], {"handler": "mock", "every_s": 0, "x": 1}, VARIED[1], 7), 422, "invalid-fields"
    )
    assert [error["pointer"] for error in problem["errors"]] == ["#/tasks/1/every_s", "#/tasks/1/x", "#/tasks/3"]
    assert problem["detail"].startswith("2 of the tasks cannot be registered, so none was; tasks/1/every_s: ")
    twice = {"handler": "mock", "run_at": FUTURE, "task_key": "k"}
    problem = assert_problem(bulk(http, twice, twice), 422, "invalid-fields")
    assert [error["pointer"] for error in problem["errors"]] == ["#/tasks/1/task_key"]
    assert count(database) == 0
    assert count(database, "task_events") == 0


def test_what_never_fires_with_its_own_slots_is_named(
    http: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tasks.first_run
    monkeypatch.setattr(tasks, "first_run", lambda row, now: None if row["jitter_s"] else real(row, now))
    problem = assert_problem(bulk(http, VARIED[0], VARIED[5]), 422, "invalid-fields")
    assert [error["pointer"] for error in problem["errors"]] == ["#/tasks/1/run_at"]
    assert count(database) == 0
    document = bulk(http, VARIED[5], VARIED[0], VARIED[5], atomic=False).json()
    assert (document["created"], document["refused"], count(database)) == (1, 2, 1)
    assert [("id" in one, "problem" in one) for one in document["items"]] == [
        (False, True),
        (True, False),
        (False, True),
    ]


def test_each_for_itself(http: TestClient, database: Database) -> None:
    answer = bulk(http, VARIED[0], {"handler": ""}, {"handler": "mock", "cron": "99 * * * *"}, VARIED[2], atomic=False)
    assert answer.status_code == 200
    document = answer.json()
    assert (document["created"], document["updated"], document["refused"]) == (2, 0, 2)
    assert [one.get("status") for one in document["items"]] == [201, None, None, 201]
    refused = document["items"][1]["problem"]
    assert (refused["code"], refused["status"], refused["errors"][0]["pointer"]) == ("invalid-fields", 422, "#/handler")
    assert document["items"][2]["problem"]["errors"][0]["pointer"] == "#/cron"
    assert count(database) == 2


@pytest.mark.mysql
def test_known_task_keys_are_brought_to_these_values(http: TestClient, database: Database) -> None:
    one = {"handler": "mock", "every_s": 60}
    first = bulk(http, *({**one, "task_key": f"k{i}"} for i in range(3))).json()
    paused = first["items"][1]["id"]
    http.post(f"/v1/tasks/{paused}/pause")
    wanted = [{**one, "task_key": f"k{i}", "every_s": 60 if i != 2 else 90} for i in range(3, -1, -1)]
    again = bulk(http, *wanted)
    assert again.status_code == 201
    document = again.json()
    assert (document["created"], document["updated"]) == (1, 3)
    assert [item["status"] for item in document["items"]] == [201, 200, 200, 200]
    assert [item["task_key"] for item in document["items"]] == ["k3", "k2", "k1", "k0"]
    assert {item["task_key"]: item["id"] for item in first["items"]} == {
        item["task_key"]: item["id"] for item in document["items"][1:]
    }
    assert http.get(f"/v1/tasks/{paused}").json()["state"] == "paused"
    assert http.get(f"/v1/tasks/{document['items'][1]['id']}").json()["every_s"] == 90
    assert count(database) == 4


def test_a_thousand_and_no_more(http: TestClient, database: Database) -> None:
    many = [{"handler": "mock", "run_at": FUTURE, "payload": i} for i in range(1001)]
    assert_problem(bulk(http, *many), 422, "invalid-fields")
    assert_problem(bulk(http), 422, "invalid-fields")
    assert_problem(http.post("/v1/tasks/bulk", content=b" " * 4_194_305), 413, "too-large")
    document = bulk(http, *many[:1000]).json()
    assert (document["created"], count(database), count(database, "task_events")) == (1000, 1000, 1000)
    kept = {row["id"]: row["payload"] for row in select(database, "SELECT id, payload FROM tasks")}
    assert [kept[item["id"]] for item in document["items"]] == [str(i) for i in range(1000)]


def test_sent_again_with_its_key_it_registers_nothing(http: TestClient, database: Database) -> None:
    key = {"Idempotency-Key": "once"}
    first = bulk(http, *VARIED, headers=key)
    again = bulk(http, *VARIED, headers=key)
    assert (first.status_code, again.status_code, first.text == again.text) == (201, 201, True)
    assert (again.headers["idempotency-replayed"], count(database)) == ("true", len(VARIED))
    assert "idempotency-replayed" not in first.headers
    assert_problem(bulk(http, VARIED[0], headers=key), 422, "idempotency-key-reused")


def test_a_lost_commit_registers_it_once(http: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    lose_commits(monkeypatch, 1)
    document = bulk(http, *VARIED).json()
    assert (document["created"], count(database)) == (len(VARIED), len(VARIED))


def lose_commits(monkeypatch: pytest.MonkeyPatch, how_many: int) -> None:
    """The next transactions become true, but their callers do not hear of it."""
    real, left = ledger.Database.transaction, [how_many]

    def transaction(self: Database, body: Any, **more: Any) -> Any:
        value = real(self, body, **more)
        if left[0] > 0 and isinstance(value, object) and type(value).__name__ == "Answer":
            left[0] -= 1
            raise UnknownCommit("lost")
        return value

    monkeypatch.setattr(ledger.Database, "transaction", transaction)


def test_batches_with_the_same_new_keys_at_once(http: TestClient, database: Database) -> None:
    wanted = [{"handler": "mock", "every_s": 60, "task_key": f"k{i}"} for i in range(200)]
    barrier = threading.Barrier(4)

    def send(turn: int) -> Any:
        barrier.wait()
        return bulk(http, *(wanted if turn % 2 else reversed(wanted)))

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(send, range(4)))
    assert [answer.status_code for answer in answers] == [201] * 4, [answer.text[:200] for answer in answers]
    assert sorted(answer.json()["created"] for answer in answers) == [0, 0, 0, 200]
    assert count(database) == 200
    assert count(database, "task_events") == 200


def test_what_is_due_soon_wakes_a_dispatcher_once(http: TestClient, queues: Queues) -> None:
    bulk(http, *({"handler": "mock", "run_at": FUTURE} for _ in range(3)))
    assert queues.redis.llen("clockjack:nudge") == 0
    bulk(http, {"handler": "mock", "run_at": FUTURE}, {"handler": "mock", "in_s": 1})
    assert queues.redis.brpop("clockjack:nudge", timeout=5)


def test_columns_that_are_left_out_have_the_defaults_of_the_table(database: Database) -> None:
    found = select(database, "SELECT COLUMN_NAME AS name, COLUMN_DEFAULT AS text FROM information_schema.COLUMNS"
                             " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'tasks'")  # fmt: skip
    table = {row["name"]: row["text"] for row in found}
    for name in set(batch.NAMES) - {"next_run_at"}:
        expected = batch.LEFT_OUT.get(name)
        assert re.sub(r"^_utf8mb4|[()'\\\\]", "", table[name] or "NULL") == (
            "NULL" if expected is None else str(expected)
        )
