"""One POST to one address that was judged, within one deadline.

The name is looked up once, every address of it is judged, and one of these is connected to: there is no second look-up
that could answer otherwise. No redirect is followed, no proxy is asked. The deadline holds for each byte: a receiver
that sends one now and then holds no thread longer than the run may last.
"""

import contextlib
import io
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any

from clockjack.targets import BadTarget, Policy, Target, judge, judge_address, literal

RESOLVE_S = 5.0
ANSWER_BYTES = 2_048  # so much of an answer's body is kept
ANSWER_S = 2.0  # and so long it is waited for, once the status is there


class PostFailed(Exception):
    """There is no answer; the message says why, for people."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the receiver said. `body` is the beginning of it."""

    status: int
    body: str
    retry_after: str | None


def send(target: Target, policy: Policy, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Answer:
    """The receiver's answer to the POST; PostFailed when there is none, BadTarget when it may not be asked."""
    until_s = time.monotonic() + timeout_s
    judge(target, policy)
    place = f"{target.host}:{target.port}"
    connection, wire = HTTPConnection(target.host, target.port), None
    try:
        connection.sock = wire = _connect(target, addresses(target, policy, until_s), until_s)
        connection.putrequest("POST", target.path, skip_host=True, skip_accept_encoding=True)
        # the length is there, and nothing is unpacked
        said = {"Host": target.netloc, "Content-Length": str(len(body)), "Accept-Encoding": "identity"}
        for name, value in (said | {"User-Agent": "clockjack", "Connection": "close"} | dict(headers)).items():
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        return Answer(response.status, _beginning(response, wire), response.getheader("Retry-After"))
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, BadTarget):
            raise
        raise PostFailed(f"{_words(error)} from {place}") from None
    finally:
        connection.close()
        if wire is not None:
            wire.socket.close()


def addresses(target: Target, policy: Policy, until_s: float) -> list[str]:
    """The addresses of the target's host, each of which may be called; BadTarget if one of them may not."""
    within_s = min(RESOLVE_S, _left(until_s))
    found, failed = ([target.host], []) if literal(target.host) else _look_up(target, within_s)
    if not found:
        raise PostFailed(f"{target.host} cannot be resolved" + ("" if failed else f" within {within_s:.3g} s"))
    for text in found:
        judge_address(target, text, policy)
    return found


def _look_up(target: Target, within_s: float) -> tuple[list[str], list[str]]:
    """The addresses of the name, and why there are none; neither when the answer took too long."""
    found: list[str] = []
    failed: list[str] = []

    def look_up() -> None:
        try:
            infos = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
            found.extend(dict.fromkeys(str(info[4][0]) for info in infos))
        except (OSError, UnicodeError) as error:
            failed.append(str(error))

    thread = threading.Thread(target=look_up, name="resolve", daemon=True)  # nothing else can bound it in time
    thread.start()
    thread.join(within_s)
    return list(found), list(failed)


def _connect(target: Target, found: list[str], until_s: float) -> "_Wire":
    """A socket to the first of these addresses that can be connected to; none is looked up again."""
    last: OSError = OSError("no address")
    for text in found:
        family = socket.AF_INET6 if ":" in text else socket.AF_INET
        plain = socket.socket(family, socket.SOCK_STREAM)
        try:
            plain.settimeout(_left(until_s))
            plain.connect((text, target.port))
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if target.scheme == "https":
                return _Wire(_tls().wrap_socket(plain, server_hostname=target.host), until_s)
            return _Wire(plain, until_s)
        except OSError as error:
            plain.close()
            last = error
        except BaseException:
            plain.close()
            raise
    raise last


def _left(until_s: float) -> float:
    left_s = until_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


class _Wire(io.RawIOBase):
    """A connected socket as http.client uses it, whose every step ends at the deadline. Its maker closes `socket`."""

    def __init__(self, connected: socket.socket, until_s: float) -> None:
        self.socket, self.until_s = connected, until_s

    def sendall(self, data: Any) -> None:
        """All of it was sent."""
        view = memoryview(data)
        while view:
            self.socket.settimeout(_left(self.until_s))
            view = view[self.socket.send(view) :]

    def readinto(self, buffer: Any) -> int:
        """As of a raw stream."""
        self.socket.settimeout(_left(self.until_s))
        return self.socket.recv_into(buffer)

    def readable(self) -> bool:
        """It is."""
        return True

    def makefile(self, mode: str) -> io.BufferedReader:
        """What the answer is read from."""
        return io.BufferedReader(self)

    def close(self) -> None:
        """Nothing: http.client closes connection and answer each at its own time."""


def _beginning(response: HTTPResponse, wire: "_Wire") -> str:
    """What comes of the body soon. The status has decided: an answer that never ends spoils nothing."""
    wire.until_s = min(wire.until_s, time.monotonic() + ANSWER_S)
    parts, size = list[bytes](), 0
    with contextlib.suppress(OSError, HTTPException, ValueError):
        while size < ANSWER_BYTES and (part := response.read1(ANSWER_BYTES - size)):
            parts.append(part)
            size += len(part)
    return b"".join(parts).decode("utf-8", "replace")


def _words(error: Exception) -> str:
    """The kind of the error: its text may hold what was sent."""
    return "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__


@lru_cache(1)
def _tls() -> ssl.SSLContext:
    """One for all: to read the system's certificates takes tens of milliseconds."""
    return ssl.create_default_context()
