"""The built-in `http` handler: a POST that reaches public receivers only, and says plainly what went wrong."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from clockjack.handlers import Run
from consumers.builtin import HandlerError, post, resolve

LOOPBACK = ("127.0.0.0/8",)


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


def run(payload: Any, timeout_s: int = 3) -> Run:
    return Run(
        1, "7-1000000", 7, "default", None, "http", payload, datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), 1, 0, timeout_s
    )


def test_a_post_with_the_runs_key(receiver: str) -> None:
    assert post(run({"url": receiver + "/200", "body": {"a": 1}, "headers": {"X-A": "b"}}), LOOPBACK) == {"status": 200}
    path, headers, body = Receiver.seen[0]
    post(run({"url": receiver, "headers": {"idempotency-key": "forged", "HOST": "x"}}), LOOPBACK)
    assert [v for k, v in Receiver.seen[1][1].items() if k.lower() == "idempotency-key"] == ["7-1000000"]
    assert (path, body) == ("/200", b'{"a":1}')
    assert (headers["Idempotency-Key"], headers["X-A"]) == ("7-1000000", "b")


@pytest.mark.parametrize("status", [302, 400, 500])
def test_anything_but_2xx_is_a_failure_and_redirects_are_not_followed(receiver: str, status: int) -> None:
    with pytest.raises(HandlerError, match=str(status)):
        post(run({"url": f"{receiver}/{status}"}), LOOPBACK)
    assert len(Receiver.seen) == 1


def test_nobody_there(receiver: str) -> None:
    with pytest.raises(HandlerError, match="ConnectionRefusedError"):
        post(run({"url": "http://127.0.0.1:9/"}), LOOPBACK)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "127.1",
        "0x7f.1",
        "2130706433",
        "10.0.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "0.0.0.0",
        "224.0.0.1",
        "100.64.0.1",
        "::1",
        "::ffff:169.254.169.254",
        "64:ff9b::10.0.0.1",
        "2002:7f00:1::",
        "fe80::1",
        "fec0::1",
        "fd00::1",
        "::",
        "ff02::1",
        "2001::1",
    ],
)
def test_addresses_that_are_not_public_are_refused(host: str) -> None:
    with pytest.raises(HandlerError, match=r"not a public address|cannot be resolved"):
        resolve(host, 80, ())


@pytest.mark.parametrize("host", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::5db8:d822"])
def test_public_addresses_are_allowed(host: str) -> None:
    assert resolve(host, 80, ())


def test_a_setting_lists_what_else_is_allowed() -> None:
    assert resolve("10.1.2.3", 80, ("10.0.0.0/8",)) == "10.1.2.3"
    with pytest.raises(HandlerError):
        resolve("10.1.2.3", 80, ("192.168.0.0/16",))


@pytest.mark.parametrize(
    "url", ["", "ftp://x/", "file:///etc/passwd", "http://", "http://u:p@127.0.0.1/", "javascript:1", "//x", 7, None]
)
def test_other_urls_are_refused(url: Any) -> None:
    with pytest.raises(HandlerError, match=r"payload\.url"):
        post(run({"url": url}), LOOPBACK)
