"""The Python client against a producer in a process of its own, which is ended, killed and started again."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa

import clockjack
from clockjack import Client, ClientError
from clockjack.ledger import keys
from clockjack.ledger.database import Database
from tests.integration.life import owner
from tests.integration.serving import Producer

FUTURE = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def producer(database_url: str, redis_url: str) -> Iterator[Producer]:
    """One that the test may end."""
    producer = Producer(database_url, redis_url)
    producer.start()
    yield producer
    if producer.process.poll() is None:
        producer.end(signal.SIGKILL)


@pytest.fixture
def client(request: pytest.FixtureRequest, database: Database, redis_url: str) -> Iterator[Client]:
    """Asks the test's own producer if it has one, else the one that serves its module."""
    served_by: Producer = request.getfixturevalue("producer" if "producer" in request.fixturenames else "serving")
    key = owner(database).transaction(lambda c: keys.create(c, "default", "test"))
    with Client(served_by.url, key) as client:
        yield client


def count(database: Database) -> int:
    return int(database.transaction(lambda c: c.execute(sa.text("SELECT COUNT(*) FROM tasks")).scalar_one()))


def test_every_option_of_a_schedule_is_sent(client: Client) -> None:
    wall = datetime(2030, 3, 31, 2, 30)
    local = client.schedule("mock", run_at_local=wall, timezone="Europe/Berlin")
    assert (local["run_at_local"], local["next_run_at"]) == ("2030-03-31T02:30:00", "2030-03-31T01:00:00.000000Z")
    days = [date(2030, 1, 1), "2030-01-03/2030-01-05"]
    daily = client.schedule("mock", rrule="FREQ=DAILY", start_at=FUTURE, exclude=days, jitter_s=60, dst_fold="last")
    assert daily["exclude"] == ["2030-01-01", "2030-01-03/2030-01-05"]
    assert daily["next_run_at"].startswith("2030-01-02T00:00:")
    with pytest.raises(ValueError, match="run_at_local"):
        client.schedule("mock", run_at_local=FUTURE)


def test_a_task_is_scheduled_and_controlled(client: Client) -> None:
    task = client.schedule("mock", {"a": 1}, run_at=FUTURE.astimezone(), task_key="k", end_at=FUTURE + timedelta(1))
    assert (task["run_at"], task["payload"]) == ("2030-01-01T00:00:00.000000Z", {"a": 1})
    assert client.get(task["id"])["task_key"] == "k"
    assert client.explain(task["id"])["task_id"] == task["id"]
    assert client.pause(task["id"])["state"] == "paused"
    assert client.resume(task["id"])["state"] == "active"
    run = client.run_now(task["id"])
    assert client.run(run["id"])["task_id"] == task["id"]
    assert [r["id"] for r in client.runs(task["id"])] == [run["id"]]
    assert [t["id"] for t in client.tasks(task_key="k", state="active")] == [task["id"]]
    assert client.cancel(task["id"])["state"] == "cancelled"
    assert client.schedule("mock", cron="30 2 * * *", timezone="Europe/Berlin")["next_run_at"]


def test_in_s_counts_from_now(client: Client) -> None:
    due = datetime.fromisoformat(client.schedule("mock", in_s=90)["run_at"])
    assert timedelta(seconds=80) < due - datetime.now(UTC) < timedelta(seconds=91)


def test_a_problem_is_an_error_that_names_the_field(client: Client) -> None:
    with pytest.raises(ClientError) as caught:
        client.schedule("mock", cron="61 * * * *")
    assert (caught.value.status, caught.value.code) == (422, "invalid-fields")
    assert caught.value.errors[0]["pointer"] == "#/cron"
    assert "61" in str(caught.value)
    with pytest.raises(ClientError, match="404"):
        client.get(1)
    with pytest.raises(ValueError, match="run_at"):
        client.schedule("mock", run_at=datetime(2030, 1, 1))


def test_lists_go_over_their_pages(client: Client, database: Database) -> None:
    database.transaction(
        lambda c: c.execute(
            sa.text("INSERT INTO tasks (handler, payload, every_s) VALUES (:h, :p, 60)"),
            [{"h": "mock", "p": "null"} for _ in range(201)],
        )
    )
    ids = [task["id"] for task in client.tasks()]
    assert len(ids) == len(set(ids)) == 201
    assert ids == sorted(ids, reverse=True)


def test_one_idempotency_key_is_one_task(client: Client, database: Database) -> None:
    first, again = (client.schedule("mock", every_s=60, idempotency_key="k") for _ in range(2))
    assert first == again
    assert count(database) == 1


def test_a_registration_survives_the_death_of_the_producer(
    client: Client, producer: Producer, database: Database
) -> None:
    client.schedule("mock", every_s=60)
    assert producer.end(signal.SIGKILL) == -signal.SIGKILL
    listening: list[float] = []
    back = threading.Timer(1.0, lambda: (producer.start(), listening.append(time.monotonic())))
    back.start()
    began = time.monotonic()
    assert client.schedule("mock", every_s=60)["id"]
    answered = time.monotonic()
    back.join()
    assert answered - began >= 1
    assert answered - listening[0] < 10, "it waits too long before it asks again"
    assert count(database) == 2


def test_patience_ends(client: Client, producer: Producer) -> None:
    assert producer.end(signal.SIGKILL) == -signal.SIGKILL
    with Client(producer.url, "cj_a_b", patience_s=0.5) as impatient, pytest.raises(ClientError) as caught:
        impatient.schedule("mock", every_s=60)
    assert caught.value.status == 0


def test_a_lost_answer_is_asked_for_again_under_the_same_key(
    client: Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, lost = client._http.request, []

    def request(*args: Any, **parts: Any) -> httpx2.Response:
        response = real(*args, **parts)
        if not lost:
            lost.append(response)
            raise httpx2.ReadError("cut")
        return response

    monkeypatch.setattr(client._http, "request", request)
    assert client.schedule("mock", every_s=60) == lost[0].json()
    assert count(database) == 1


def test_sigterm_answers_what_was_asked_and_ends_well(client: Client, producer: Producer, database: Database) -> None:
    answers: list[dict[str, Any]] = []
    refused: list[ClientError] = []

    def ask() -> None:
        for _ in range(1000):
            try:
                answers.append(client.schedule("mock", every_s=60))
            except ClientError as error:
                refused.append(error)
                return

    asking = threading.Thread(target=ask)
    asking.start()
    give_up = time.monotonic() + 30
    for enough in (11, 13):
        while len(answers) < enough:
            assert refused == []
            assert time.monotonic() < give_up
            time.sleep(0.01)
        client._patience_s = 0.0  # from the next one on: it takes the first refusal
    assert producer.end(signal.SIGTERM) == 0
    asking.join()
    assert len(answers) < 1000
    assert count(database) == len(answers)


def test_a_producer_without_tables_says_what_to_do(redis_url: str, owner_url: str) -> None:
    url = owner_url.replace("/clockjack?", "/mysql?")
    done = subprocess.run(
        [sys.executable, "-m", "producer"],
        env={**os.environ, "CLOCKJACK_DATABASE_URL": url, "CLOCKJACK_REDIS_URL": redis_url},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    assert "clockjack migrate" in done.stderr


def test_the_public_names_are_loaded_when_asked_for() -> None:
    code = "import sys, clockjack; print('httpx2' in sys.modules, 'pydantic' in sys.modules); clockjack.Client"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"
    assert callable(clockjack.handler)
    with pytest.raises(AttributeError):
        clockjack.nothing  # noqa: B018


def test_an_answer_takes_milliseconds(client: Client) -> None:
    """A listener on which Nagle's algorithm is left on takes 40 ms more for every one; one without it proves it off."""
    took = []
    for _ in range(30):
        began = time.perf_counter()
        client.schedule("mock", every_s=60)
        took.append(time.perf_counter() - began)
    assert min(took) < 0.04


def test_the_forecast(client: Client) -> None:
    for hours in (1, 1, 2):
        client.schedule("mock", run_at=FUTURE + timedelta(hours=hours))
    found = client.forecast(begin=FUTURE, buckets=121)
    assert [one["due"] for one in found["buckets"] if one["due"]] == [2, 1]
    assert found["busiest"] == {"at": "2030-01-01T01:00:00.000000Z", "due": 2}
    begin = (FUTURE + timedelta(hours=1)).astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert client.forecast(bucket="1s", begin=begin)["buckets"][0]["due"] == 2
    assert len(client.forecast()["buckets"]) == 60
    with pytest.raises(ValueError, match="begin"):
        client.forecast(begin=datetime(2030, 1, 1))
    with pytest.raises(ClientError) as refused:
        client.forecast(buckets=0)
    assert (refused.value.status, refused.value.errors[0]["parameter"]) == (400, "buckets")
