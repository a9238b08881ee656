"""Processes of the product, a receiver that verifies and counts, a consumer that is killed: a webhook's whole way."""

import base64
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook
from starlette.testclient import TestClient

from clockjack.ledger.database import Database
from clockjack.settings import Settings
from producer.app import create_app
from tests.integration.life import select, task
from tests.integration.test_end_to_end import Stages, wait

pytestmark = [pytest.mark.mysql, pytest.mark.xdist_group("heavy")]
KEY = b"k" * 32
AT_ONCE = 2


class Book:
    """What came, verified, and how many deliveries were at work at once."""

    def __init__(self) -> None:
        self.secret, self.ids, self.alerts = "", list[str](), list[Any]()
        self.now = self.peak = 0
        self.lock = threading.Lock()

    def take(self, headers: dict[str, str], body: bytes) -> None:
        event = Webhook(self.secret).verify(body, headers)
        with self.lock:
            self.now += 1
            self.peak = max(self.peak, self.now)
        time.sleep(0.05)
        with self.lock:
            self.now -= 1
            if event["type"].startswith("expectation."):
                self.alerts.append(event)
            else:
                self.ids.append(headers["webhook-id"])


@pytest.fixture
def book() -> Book:
    return Book()


@pytest.fixture
def url(book: Book) -> Iterator[str]:
    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            book.take({name.lower(): value for name, value in self.headers.items()}, body)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture
def app(users: dict[str, str], redis_url: str) -> Any:
    settings = Settings(
        database_url=users["producer"], redis_url=redis_url, http_allow=("127.0.0.0/8",), secret_keys=(KEY,)
    )
    return create_app(settings)


@pytest.fixture
def stages(users: dict[str, str], redis_url: str, tmp_path: Path) -> Iterator[Stages]:
    env = os.environ | {
        "CLOCKJACK_REDIS_URL": redis_url,
        "CLOCKJACK_HTTP_ALLOW": "127.0.0.0/8",
        "CLOCKJACK_SECRET_KEYS": base64.b64encode(KEY).decode(),
        "CLOCKJACK_BUILTIN": "http",
        "PORT": "0",
    }
    stages = Stages(env, tmp_path / "effects", users)
    yield stages
    stages.stop()


@pytest.mark.parametrize("isolated", ["0", "1"])
def test_the_whole_way(
    stages: Stages, http: TestClient, database: Database, book: Book, url: str, isolated: str
) -> None:
    stages.env["CLOCKJACK_ISOLATED"] = isolated
    made = http.post("/v1/endpoints", json={"name": "orders", "url": url}).json()
    book.secret = made["secret"]
    given = {"name": "imports", "expect_every_s": 3, "endpoint": "orders"}
    assert http.post("/v1/expectations", json=given).status_code == 201
    stages.start("dispatcher")
    doomed = stages.start("consumers")
    stages.start("consumers")
    new = {"handler": "http", "in_s": 0, "limit_key": "orders", "max_concurrent": AT_ONCE, "backoff_s": 1}
    ids = []
    for n in range(40):
        payload = {"endpoint": "orders", "body": {"type": "order", "n": n}}
        ids.append(http.post("/v1/tasks", json=new | {"payload": payload}).json()["id"])
    wait(lambda: len(book.ids) >= 5)
    doomed.kill()
    wait(
        lambda: select(database, "SELECT COUNT(*) AS n FROM runs WHERE state = 'succeeded'")[0]["n"] >= 41,
        within_s=60,
    )
    assert {int(key.split("-")[0]) for key in book.ids} == set(ids), "each came, under the key of its own run"
    assert len(book.ids) <= len(ids) + AT_ONCE, "what the killed consumer had at work may have come twice"
    # its places are taken again only when what it began there is over by far
    assert book.peak <= AT_ONCE + 1, "of orders so many at once; the alert has no limit"
    assert [event["type"] for event in book.alerts] == ["expectation.silent"]
    assert task(database, ids[0])["limit_key"] == "orders"
