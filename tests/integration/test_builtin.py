"""The built-in `http` handler at work: which address it connects to, what it sends, and that nobody can hold it."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from clockjack.handlers import Run
from clockjack.targets import Policy
from consumers.delivery import Delivery
from consumers.handling import HandlerError

LOOPBACK = Policy.of(["127.0.0.0/8"])
PUBLIC = Policy()


class Receiver(BaseHTTPRequestHandler):
    seen: ClassVar[list[tuple[str, dict[str, str], bytes]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.seen.append((self.path, dict(self.headers), body))
        status = int(self.path.strip("/") or 200)
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "http://127.0.0.1:1/")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[str]:
    Receiver.seen.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class Dns:
    """Answers look-ups, each with the next answer; counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> None:
        self.asked: list[str] = []
        self._answers, self._real = list(answers), socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._look_up)

    def _look_up(self, host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        if not host.endswith(".example"):
            return self._real(host, port, *args, **kwargs)
        self.asked.append(host)
        found = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [(socket.AF_INET6 if ":" in a else socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in found]


def run(payload: Any, timeout_s: int = 3) -> Run:
    return Run(
        1, "7-1000000", 7, "default", None, "http", payload, datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), 1, 0, timeout_s
    )


def post(run: Run, policy: Policy) -> dict[str, Any]:
    return Delivery(policy, lambda: 1_000_000)(run)


def test_a_post_with_the_runs_key(receiver: str) -> None:
    assert post(run({"url": receiver + "/200", "body": {"a": 1}, "headers": {"X-A": "b"}}), LOOPBACK) == {"status": 200}
    path, headers, body = Receiver.seen[0]
    assert (path, body) == ("/200", b'{"a":1}')
    assert (headers["Idempotency-Key"], headers["webhook-id"], headers["X-A"]) == ("7-1000000", "7-1000000", "b")
    assert headers["Host"] == receiver.removeprefix("http://")
    assert headers["Content-Type"] == "application/json"


def test_a_payload_chooses_the_type_of_its_body(receiver: str) -> None:
    post(run({"url": receiver, "body": "x", "headers": {"content-type": "application/cloudevents+json"}}), LOOPBACK)
    types = [v for k, v in Receiver.seen[0][1].items() if k.lower() == "content-type"]
    assert types == ["application/cloudevents+json"]


@pytest.mark.parametrize("status", [302, 400, 500])
def test_anything_but_2xx_is_a_failure_and_redirects_are_not_followed(receiver: str, status: int) -> None:
    with pytest.raises(HandlerError, match=str(status)):
        post(run({"url": f"{receiver}/{status}"}), LOOPBACK)
    assert len(Receiver.seen) == 1


def test_nobody_there() -> None:
    with pytest.raises(HandlerError, match="ConnectionRefusedError"):
        post(run({"url": "http://127.0.0.1:9/"}), LOOPBACK)


def test_a_name_is_judged_by_all_its_addresses(receiver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Dns(monkeypatch, ["93.184.216.34", "10.0.0.1"])
    with pytest.raises(HandlerError, match=r"private \(10\.0\.0\.1\)"):
        post(run({"url": "http://mixed.example/"}), PUBLIC)
    assert Receiver.seen == []


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::ffff:127.0.0.1", "169.254.169.254", "fe80::1%eth0", "64:ff9b::a00:1"]
)
def test_a_name_with_an_address_that_is_not_public(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Dns(monkeypatch, [address])
    with pytest.raises(HandlerError, match=r"not a public address|never called"):
        post(run({"url": "http://evil.example/"}), PUBLIC)


def test_rebinding_a_name_between_the_look_and_the_call_gains_nothing(
    receiver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resolver's first answer may be called; its second one, given to whoever asks again, is another machine."""
    port = int(receiver.rpartition(":")[2])
    dns = Dns(monkeypatch, ["127.0.0.1"], ["127.66.6.6"])
    other = socket.create_server(("127.66.6.6", port))
    other.settimeout(0.2)
    post(run({"url": f"http://rebound.example:{port}/"}), LOOPBACK)
    assert dns.asked == ["rebound.example"]
    assert [headers["Host"] for _, headers, _ in Receiver.seen] == [f"rebound.example:{port}"]
    with pytest.raises(TimeoutError):
        other.accept()
    other.close()
    # and the next delivery looks anew, and judges what it finds
    with pytest.raises(HandlerError, match=r"127\.66\.6\.6"):
        post(run({"url": f"http://rebound.example:{port}/"}), Policy.of(["127.0.0.1/32"]))
    assert len(Receiver.seen) == 1


def test_the_certificate_is_asked_for_by_name_at_the_pinned_address(monkeypatch: pytest.MonkeyPatch) -> None:
    Dns(monkeypatch, ["127.0.0.1"])
    asked: list[Any] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def greet() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.sni_callback = lambda _, name, __: asked.append(name)
        connection, _ = listener.accept()
        try:
            context.wrap_socket(connection, server_side=True)  # it has no certificate: only the greeting counts
        except OSError:
            connection.close()

    thread = threading.Thread(target=greet)
    thread.start()
    with pytest.raises(HandlerError, match="SSL"):
        post(run({"url": f"https://tls.example:{listener.getsockname()[1]}/"}), LOOPBACK)
    thread.join(5)
    listener.close()
    assert asked == ["tls.example"]


def test_no_proxy_of_the_environment_is_asked(receiver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    assert post(run({"url": receiver}), LOOPBACK) == {"status": 200}


@pytest.fixture
def odd() -> Iterator[Callable[[Callable[[socket.socket], None]], str]]:
    """Starts a receiver that does with its one connection what it is told; returns its URL."""
    listeners: list[socket.socket] = []

    def start(talk: Callable[[socket.socket], None]) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    talk(connection)
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/"

    yield start
    for listener in listeners:
        listener.close()


def drip(head: bytes) -> Callable[[socket.socket], None]:
    def talk(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(head)
        for _ in range(200):
            connection.sendall(b"x")
            time.sleep(0.1)

    return talk


def test_a_receiver_that_says_a_byte_now_and_then_is_left_at_the_deadline(odd: Any) -> None:
    begun = time.monotonic()
    with pytest.raises(HandlerError, match="no answer in time"):
        post(run({"url": odd(drip(b"HTTP/1.1 200 "))}, timeout_s=1), LOOPBACK)
    assert time.monotonic() - begun < 3


def test_an_answer_that_never_ends_is_an_answer(odd: Any) -> None:
    begun = time.monotonic()
    done = post(run({"url": odd(drip(b"HTTP/1.1 200 OK\r\n\r\n"))}, timeout_s=30), LOOPBACK)
    assert done["status"] == 200
    assert time.monotonic() - begun < 10


def test_of_a_huge_answer_only_the_beginning_is_read(odd: Any) -> None:
    sent = [0]

    def talk(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n")
        for _ in range(1_000):
            sent[0] += connection.send(b"x" * 100_000)

    assert post(run({"url": odd(talk)}), LOOPBACK)["status"] == 200
    assert sent[0] < 50_000_000


@pytest.mark.parametrize("said", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1_000 + b"\r\n"])
def test_an_answer_that_is_none(odd: Any, said: bytes) -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(said)

    with pytest.raises(HandlerError, match="from 127"):
        post(run({"url": odd(talk)}), LOOPBACK)
