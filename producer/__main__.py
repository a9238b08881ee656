"""`python -m producer`: the HTTP API of this machine, one process; more of them stand behind a load balancer."""

import gc
import logging
import signal
import socket
import sys

import uvicorn

from clockjack import telemetry
from clockjack.ledger.database import LoginRefused
from clockjack.ledger.server import Unfit
from clockjack.settings import for_process
from producer.app import create_app

log = logging.getLogger("producer")


def main() -> int:
    """Serves until SIGTERM or SIGINT, answers what was asked by then, and returns the exit code."""
    settings = for_process("producer")
    telemetry.log_to_stdout(settings.log_level, "producer")
    app = create_app(settings)
    try:
        app.state.watch.require()
    except Unfit as error:
        print(f"producer: {error}", file=sys.stderr)
        return 1
    except LoginRefused as error:
        print(f"producer: {error}", file=sys.stderr)
        return 2
    config = uvicorn.Config(
        app,
        settings.http_host,
        settings.http_port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(settings.grace_s),
    )
    try:
        listener = _listen(settings.http_host, settings.http_port)
    except OSError as error:
        print(f"producer: cannot listen on {settings.http_host}:{settings.http_port}: {error}", file=sys.stderr)
        return 1
    host, port = listener.getsockname()[:2]
    log.info("listening", extra={"action": "listening", "host": host, "port": port})
    gc.freeze()  # a request of many tasks makes thousands of objects that live for milliseconds
    gc.set_threshold(50_000, 20, 100)
    # uvicorn raises the signal again when it has shut down in good order; that must not become a failure
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    uvicorn.Server(config).run(sockets=[listener])
    return 0


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket that says it is TCP: for others asyncio leaves Nagle on, and each answer takes 40 ms more."""
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family, kind, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    return listener


if __name__ == "__main__":
    sys.exit(main())
