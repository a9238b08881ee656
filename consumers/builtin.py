"""Handlers that every consumer has: `mock` for demos and tests, `http` for webhooks."""

import ipaddress
import json
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import quote, urlsplit

from clockjack.handlers import Run, registry
from clockjack.ledger.database import to_us
from clockjack.settings import Settings
from consumers import command

RESOLVE_S = 5.0
IN_URLS = "/?&=%:;,+~@!$'()*[]"
OUR_HEADERS = {"host", "idempotency-key", "webhook-id", "content-length", "transfer-encoding", "connection"}


class HandlerError(Exception):
    """A built-in handler could not do its work; the message is for people."""


def install(settings: Settings, now_us: Callable[[], int]) -> None:
    """The built-in handlers that the settings name are in the registry; `now_us` is the database's time."""
    if "mock" in settings.builtin:
        registry.setdefault("mock", lambda run: mock(run, settings.effects, now_us))
    if "http" in settings.builtin:
        registry.setdefault("http", lambda run: post(run, settings.http_allow))
    if settings.commands:
        registry.setdefault("command", lambda run: command.execute(run, settings.commands))


def mock(run: Run, effects: str | None, now_us: Callable[[], int]) -> Any:
    """Sleeps, fails or crashes as the payload says: {"sleep_ms": 0, "fail": n, "crash": n, "echo": any}.

    Each entry appends one line `run_key attempt due_us now_us pid` to the file `effects` (a setting), if there is one.
    """
    work = run.payload if isinstance(run.payload, dict) else {}
    if effects:
        due_us = to_us(run.due_at.replace(tzinfo=None))
        line = f"{run.key} {run.attempt} {due_us} {now_us()} {os.getpid()}\n"
        file = os.open(effects, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)
    wake_s = time.monotonic() + float(work.get("sleep_ms", 0)) / 1000
    while (left_s := wake_s - time.monotonic()) > 0:
        time.sleep(min(left_s, 0.1))  # in pieces, so that a timeout can end it
    if run.failures < int(work.get("crash", 0)):
        os.kill(os.getpid(), signal.SIGKILL)
    if run.failures < int(work.get("fail", 0)):
        raise HandlerError(f"mock: told to fail {work['fail']} times")
    return work.get("echo")


def post(run: Run, allowed: tuple[str, ...]) -> dict[str, Any]:
    """The receiver answered 2xx to a POST of the payload's `body`; raises HandlerError with the reason otherwise.

    Payload: {"url": "https://…", "body": any JSON, "headers": {…}}. No redirects, no proxies. The name is resolved
    once, every address of it must be public (or in a network of CLOCKJACK_HTTP_ALLOW), and that one is connected to.
    """
    work = run.payload if isinstance(run.payload, dict) else {}
    target = urlsplit(str(work.get("url", "")))
    if target.scheme not in ("http", "https") or not target.hostname or target.username or target.password:
        raise HandlerError("http: payload.url must be an http(s) URL without user or password")
    host, port = target.hostname, target.port or (443 if target.scheme == "https" else 80)
    address = resolve(host, port, allowed)
    path = quote((target.path or "/") + (f"?{target.query}" if target.query else ""), safe=IN_URLS)
    body = json.dumps(work["body"], ensure_ascii=False, separators=(",", ":")).encode() if "body" in work else b""
    given = dict(work.get("headers") or {}).items()
    headers = {str(k): str(v) for k, v in given if str(k).lower() not in OUR_HEADERS}
    if body and "content-type" not in {name.lower() for name in headers}:
        headers["Content-Type"] = "application/json"
    headers |= {"Host": target.netloc, "Idempotency-Key": run.key, "webhook-id": run.key}
    connection = HTTPConnection(host, port, timeout=run.timeout_s)
    try:
        connection.sock = socket.create_connection((address, port), run.timeout_s)  # that address, and no other
        if target.scheme == "https":
            connection.sock = _tls().wrap_socket(connection.sock, server_hostname=host)
        connection.request("POST", path, body, headers)
        status = connection.getresponse().status
    except (OSError, HTTPException, ValueError) as error:
        raise HandlerError(f"http: {type(error).__name__} from {host}:{port}") from None
    finally:
        connection.close()
    if not 200 <= status < 300:
        raise HandlerError(f"http: {host}:{port} answered {status}")
    return {"status": status}


@lru_cache(1)
def _tls() -> ssl.SSLContext:
    """One for all: to read the system's certificates takes tens of milliseconds."""
    return ssl.create_default_context()


def resolve(host: str, port: int, allowed: tuple[str, ...]) -> str:
    """One address of `host`, all of whose addresses may be connected to; HandlerError otherwise."""
    try:
        found, failed = [str(ipaddress.ip_address(host))], list[str]()
    except ValueError:
        found, failed = _look_up(host, port)
    if not found:
        raise HandlerError(f"http: {host} cannot be resolved" + ("" if failed else f" within {RESOLVE_S:g} s"))
    networks = [ipaddress.ip_network(text, strict=False) for text in allowed]
    for text in found:
        address = ipaddress.ip_address(text.split("%")[0])
        inner = _inner(address)
        if not (_public(inner) and _public(address)) and not any(
            inner in n for n in networks if n.version == inner.version
        ):
            raise HandlerError(f"http: {host} is {text}, which is not a public address; see CLOCKJACK_HTTP_ALLOW")
    return found[0]


def _look_up(host: str, port: int) -> tuple[list[str], list[str]]:
    """The addresses of the name, and why there are none; neither when the answer took too long."""
    found: list[str] = []
    failed: list[str] = []

    def look_up() -> None:
        try:
            infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found.extend(sorted({str(info[4][0]) for info in infos}))
        except (OSError, UnicodeError) as error:
            failed.append(str(error))

    thread = threading.Thread(target=look_up, name="resolve", daemon=True)  # nothing else can bound it in time
    thread.start()
    thread.join(RESOLVE_S)
    return list(found), list(failed)


Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NOT_PUBLIC = [
    ipaddress.ip_network(text)
    for text in ("64:ff9b:1::/48", "fec0::/10", "192.88.99.0/24", "2001::/32", "100.64.0.0/10", "0.0.0.0/8")
]


def _inner(address: Address) -> Address:
    """The IPv4 address that an IPv6 one carries (mapped, NAT64, 6to4), else the address itself."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return address.ipv4_mapped
        if address.sixtofour:
            return address.sixtofour
        if address in ipaddress.ip_network("64:ff9b::/96"):
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _public(address: Address) -> bool:
    return (
        address.is_global
        and not address.is_multicast
        and not any(address in n for n in _NOT_PUBLIC if n.version == address.version)
    )
