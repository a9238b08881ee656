"""What a socket may bring to a producer: every limit is kept, the others are answered, and logs stay lines of JSON."""

import io
import json
import logging
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from clockjack import telemetry
from clockjack.ledger import claim, keys
from clockjack.ledger.database import Database
from producer import requests
from producer.__main__ import _listen
from tests.integration.life import insert, owner, select, sql
from tests.integration.test_consumer import Bench

SECRET = "hunter2-of-the-payload"


class Producer:
    """The application behind its real server, on a thread."""

    def __init__(self, app: Any, key: str) -> None:
        self.key, listener = key, _listen("127.0.0.1", 0)
        self.port = int(listener.getsockname()[1])
        self.server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, server_header=False))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]}, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def open(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def send(self, *parts: bytes) -> bytes:
        """What is answered until the producer closes or has answered once."""
        with self.open() as connection:
            try:
                for part in parts:
                    connection.sendall(part)
            except OSError:
                pass  # it was refused before the end
            return answer_of(connection)

    def request(self, head: str = "", body: bytes = b"", first: str = "POST /v1/tasks HTTP/1.1") -> bytes:
        """What is answered to a request with our key and these lines."""
        known = f"{first}\r\nHost: x\r\nAuthorization: Bearer {self.key}\r\n"
        if "length" not in head.lower() and "encoding: chunked" not in head.lower():
            head += f"Content-Length: {len(body)}\r\n"
        return self.send((known + head + "\r\n").encode("latin-1") + body)


def answer_of(connection: socket.socket) -> bytes:
    got = b""
    try:
        while b"\r\n\r\n" not in got or len(got.split(b"\r\n\r\n", 1)[1]) < length_of(got):
            part = connection.recv(65_536)
            if not part:
                break
            got += part
    except OSError:
        pass
    return got


def length_of(got: bytes) -> int:
    found = [line for line in got.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return int(found[0].split(b":")[1]) if found else 0


def status(got: bytes) -> int:
    return int(got.split(b" ", 2)[1]) if got else 0


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What the process writes to its log."""
    root, out = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(sys, "stdout", out)
    telemetry.log_to_stdout("DEBUG", "producer")
    yield out
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def producer(app: Any, database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Producer]:
    monkeypatch.setattr(requests, "BODY_WITHIN_S", 0.5)
    producer = Producer(app, owner(database).transaction(lambda c: keys.create(c, "default", "test")))
    yield producer
    producer.server.should_exit = True
    producer.thread.join(10)


GOOD = b'{"handler": "mock", "run_at": "2030-01-01T00:00:00Z"}'
CHUNKED = "Transfer-Encoding: chunked\r\n"


def chunks(body: bytes, size: int) -> bytes:
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def test_bounds_of_bodies_headers_and_urls(producer: Producer, database: Database) -> None:
    large, small = b" " * 131_073, GOOD + b" " * (131_072 - len(GOOD))
    deep = b'{"handler":"mock","every_s":60,"payload":' + b"[" * 21 + b"]" * 21 + b"}"
    number = b'{"handler":"mock","every_s":60,"payload":' + b"9" * 10_000 + b"}"
    refused: list[tuple[int, bytes]] = [
        (413, producer.request(body=large)),
        (413, producer.request("Content-Length: 99999999999999999999\r\n", b"{}")),
        (413, producer.request(CHUNKED, chunks(large, 1000))),
        (413, producer.request(CHUNKED, chunks(large, 131_073))),
        (400, producer.request("Content-Length: -1\r\n")),
        (400, producer.request("Content-Length: 1e3\r\n")),
        (400, producer.request("Content-Length: 1\r\nContent-Length: 2\r\n", b"{}")),
        (400, producer.request(CHUNKED, b"zz\r\n")),
        (400, producer.request(f"X: {'x' * 100_000}\r\n")),
        (400, producer.request("X: y\x00z\r\n")),
        (400, producer.request("".join(f"X-{i}: {i}\r\n" for i in range(10_000)))),
        (400, producer.request(first=f"GET /v1/tasks?task_key={'x' * 100_000} HTTP/1.1")),
        (400, producer.request(first=f"GET /v1/tasks?task_key={'x' * 10_000} HTTP/1.1")),
        (400, producer.request(first="GET /v1/tasks?tag=%00&state=%ff HTTP/1.1")),
        (404, producer.request(first=f"GET /v1/tasks/{'9' * 30_000} HTTP/1.1")),
        (405, producer.request(first="TRACE /v1/tasks HTTP/1.1")),
        (400, producer.request(first="POST /v1/tasks HTTP/9.9")),
        (400, producer.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n\r\n")),
        (422, producer.request(body=deep)),
        (400, producer.request(body=b"[" * 101 + b"]" * 101)),
        (400, producer.request(body=number)),
        (400, producer.request(body=number.replace(b"9" * 10_000, b"1e" + b"9" * 5000))),
        (400, producer.request(body=b"\xef\xbb\xbf" + GOOD)),
        (400, producer.request(body=GOOD.decode().encode("utf-16"))),
        (400, producer.request("Content-Encoding: gzip\r\n", b"\x1f\x8b\x08\x00")),
        (400, producer.request("Content-Type: application/x-www-form-urlencoded\r\n", b"handler=mock&every_s=60")),
        (400, producer.request("Content-Type: multipart/form-data; boundary=x\r\n", b"--x\r\n\r\n{}\r\n--x--")),
        (400, producer.request("Idempotency-Key: a\r\nIdempotency-Key: b\r\n", GOOD)),
        (400, producer.request(f"Idempotency-Key: {'k' * 256}\r\n", GOOD)),
        (401, producer.send(b"GET /v1/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n\r\n")),
    ]
    wrong = [(n, want, got[:200]) for n, (want, got) in enumerate(refused) if status(got) != want]
    assert not wrong
    assert select(database, "SELECT id FROM tasks") == []
    for head, body in (
        ("", small), (CHUNKED, chunks(small, 50_000)), (CHUNKED, chunks(GOOD, 1)),
        ("Content-Type: text/plain\r\n", GOOD), ("Content-Type: \r\n", GOOD), ("X: é\r\n", GOOD),
    ):  # fmt: skip
        assert status(producer.request(head, body)) == 201, (head, body[:50])


def test_a_slow_body_is_given_up_and_holds_nobody_up(producer: Producer) -> None:
    head = f"POST /v1/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {producer.key}\r\nContent-Length: 50\r\n\r\n"
    slow = [producer.open() for _ in range(60)]  # more than there are threads
    for connection in slow:
        connection.sendall(head.encode() + b"{")
    begun = time.monotonic()
    assert status(producer.request(body=GOOD)) == 201
    assert time.monotonic() - begun < 5
    for connection in slow:
        answer = answer_of(connection)
        assert (status(answer), b"too-slow" in answer, b"onnection: close" in answer) == (408, True, True)
        connection.close()


def test_logs_are_lines_of_json_without_payloads_and_keys(
    logged: io.StringIO, producer: Producer, database: Database, bench: Bench
) -> None:
    evil = 'x\r\n{"level": "INFO", "action": "forged"}\x1b[2J\x7f\u009b31m\u2028\u202e'
    body = json.dumps({"handler": "mock", "every_s": 60, "name": SECRET, "payload": {"password": SECRET}})
    assert status(producer.request(body=body.encode())) == 201
    for sent in (
        body.replace('"handler"', '"handler\\n"'), body + "x", body.replace("60", '"\\u001b[2J"'), SECRET,
        json.dumps({"handler": evil, "every_s": 60, "payload": SECRET}),
    ):  # fmt: skip
        assert status(producer.request(body=sent.encode())) in (400, 422)
    producer.request(first=f"GET /v1/tasks/{SECRET}%0d%0a%1b[2J HTTP/1.1")
    producer.request(f"X: {SECRET}\r\n bad\x00\r\n")
    producer.send(b"GARBAGE " + SECRET.encode() + b"\r\n\r\n")
    bench.handle = lambda run: (_ for _ in ()).throw(ValueError(f"{SECRET} {evil}"))
    insert(database, queue="default", handler=evil[:150], name=evil, payload=json.dumps(SECRET), max_failures=1)
    insert(database, None, cron="* * * * *", timezone=evil[:60])
    insert(database, None, every_s=60, payload="{" + SECRET)
    claimed = bench.dispatcher.claim_step()
    assert claimed is False
    bench.until(lambda: select(database, "SELECT id FROM runs WHERE state = 'failed'"))
    sql(database, "UPDATE tasks SET state = 'active', next_run_at = UTC_TIMESTAMP(6) WHERE state = 'invalid'")
    claim.claim(database, {})
    text = logged.getvalue()
    lines = [json.loads(line) for line in text.splitlines()]
    assert any(line.get("outcome") == "failed" for line in lines)
    assert {line["process"] for line in lines} == {"producer"}
    assert not [line for line in lines if line.get("action") == "forged"]
    assert not [c for c in text if not (" " <= c <= "~" or c == "\n")]
    for secret in (SECRET, producer.key, producer.key.split("_", 2)[2]):
        assert secret not in text, [line for line in text.splitlines() if secret in line]


@pytest.fixture
def bench(database: Database, queues: Any) -> Iterator[Bench]:
    bench = Bench(database, queues)
    yield bench
    bench.engine.pool.close()
