"""A second request with one Idempotency-Key while the first is at work is told so at once.

Each test has keys of its own: where a deleted row of the same key is not purged yet, InnoDB locks the gap around it.
"""

import time
import uuid
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from clockjack.client import Client
from clockjack.ledger import acceptance, keys
from clockjack.ledger.acceptance import Change, InFlight, KeyReused, Ticket
from clockjack.ledger.database import Database
from tests.integration.life import owner, select
from tests.integration.serving import Producer

pytestmark = pytest.mark.mysql
TASK = {"handler": "mock", "every_s": 60}
AT_ONCE_S = 1.0  # a lock is waited for 2 s


@pytest.fixture
def key() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def ticket(key: str) -> Ticket:
    return Ticket("n", key, b"a" * 32)


def hold(connection: sa.Connection, key: str) -> None:
    """A transaction that has taken the key is open."""
    keys.reserve(connection, "default", key, b"x" * 32)


def test_the_second_is_told_while_the_first_is_at_work_and_then_given_its_answer(
    database: Database, ticket: Ticket
) -> None:
    other = replace(ticket, request_hash=b"b" * 32)
    seen: list[str] = []

    def second(connection: Any) -> Change:
        seen.append("second")
        return Change(200, "second")

    def first(connection: Any) -> Change:
        began = time.monotonic()
        for one in (ticket, other):
            with pytest.raises(InFlight):
                acceptance.once(database, second, one)  # on a connection of its own
        with pytest.raises(InFlight):
            acceptance.read(database, lambda c: acceptance.given(c, ticket))
        assert acceptance.once(database, second, replace(ticket, key=ticket.key.upper() + "x")).answer == "second"
        assert acceptance.once(database, second, replace(ticket, namespace="m")).answer == "second"
        assert time.monotonic() - began < AT_ONCE_S, "it waited for the lock"
        return Change(201, "first")

    assert acceptance.once(database, first, ticket) == acceptance.Answer(201, "first")
    assert acceptance.once(database, second, ticket) == acceptance.Answer(201, "first", replayed=True)
    with pytest.raises(KeyReused):
        acceptance.once(database, second, other)
    assert seen == ["second"] * 2
    assert {row["status"] for row in select(database, "SELECT status FROM idempotency_keys")} == {200, 201}


def test_what_failed_is_not_in_flight_any_more(database: Database, ticket: Ticket) -> None:
    with pytest.raises(ZeroDivisionError):
        acceptance.once(database, lambda c: 1 / 0, ticket)  # type: ignore[arg-type, return-value]
    assert not select(database, "SELECT id FROM idempotency_keys")
    assert acceptance.once(database, lambda c: Change(200, "now"), ticket) == acceptance.Answer(200, "now")


def test_copies_that_are_answered_do_not_hold_each_other_up(database: Database, ticket: Ticket) -> None:
    acceptance.once(database, lambda c: Change(200, "done"), ticket)
    with owner(database)._engine.connect() as other:
        other.exec_driver_sql("SELECT id FROM idempotency_keys FOR UPDATE")  # as the other copy does
        replayed = acceptance.once(database, lambda c: Change(200, "again"), ticket)
    assert replayed == acceptance.Answer(200, "done", replayed=True)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/tasks", TASK),
        ("POST", "/v1/tasks", {"handler": "mock"}),
        ("POST", "/v1/tasks/bulk", {"tasks": [TASK]}),
        ("POST", "/v1/tasks/control", {"action": "pause", "all": True}),
        ("PUT", "/v1/groups/g", {"handler": "mock", "anchor_at": "2030-01-01T00:00:00Z", "offsets_s": [0]}),
    ],
)
def test_it_is_409_with_retry_after(
    http: TestClient, database: Database, key: str, method: str, path: str, body: dict[str, Any]
) -> None:
    headers = {"Idempotency-Key": key}
    with owner(database)._engine.connect() as other:
        hold(other, key)
        began = time.monotonic()
        answer = http.request(method, path, json=body, headers=headers)
        assert time.monotonic() - began < AT_ONCE_S, "it waited for the lock"
        assert (answer.status_code, answer.json()["code"]) == (409, "idempotency-key-in-flight"), answer.text
        assert answer.headers["retry-after"] == "1"
        assert http.request(method, path, json=body, headers={"Idempotency-Key": key + "x"}).status_code != 409
        other.rollback()
    answer = http.request(method, path, json=body, headers=headers)
    assert answer.status_code == (422 if path == "/v1/tasks" and body is not TASK else answer.status_code)
    assert answer.status_code in (200, 201, 422), answer.text
    assert "idempotency-replayed" not in answer.headers


def test_the_client_asks_again_until_the_first_is_done(
    database: Database, serving: Producer, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    api_key = owner(database).transaction(lambda c: keys.create(c, "default", "test"))
    with owner(database)._engine.connect() as other, Client(serving.url, api_key) as client:
        hold(other, key)
        waited: list[float] = []

        def wait(seconds: float) -> None:
            waited.append(seconds)
            other.rollback()

        monkeypatch.setattr("clockjack.client.time", SimpleNamespace(sleep=wait))
        task = client.schedule("mock", every_s=60, idempotency_key=key)
    assert len(waited) == 1
    assert [row["id"] for row in select(database, "SELECT id FROM tasks")] == [task["id"]]
