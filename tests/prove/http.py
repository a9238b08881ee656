"""A client of the producer over plain HTTP, one connection a thread, that says what was acknowledged."""

import contextlib
import http.client
import json
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from clockjack.ledger.database import from_us

_local = threading.local()


class Api:
    """The producer of the moment: `port()` is asked before each request, so it may move."""

    def __init__(self, port: Callable[[], int], api_key: str) -> None:
        self._port, self._api_key = port, api_key

    def ask(
        self, method: str, path: str, document: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """The status and the JSON of the answer. Raises OSError or HTTPException when there is none."""
        port = self._port()
        connection = getattr(_local, "connection", None)
        if connection is None or connection.port != port:
            connection = _local.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
        body = None if document is None else json.dumps(document)
        known = {"Authorization": f"Bearer {self._api_key}", "Content-Type": "application/json", **(headers or {})}
        try:
            connection.request(method, path, body, known)
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text else None
        except (OSError, http.client.HTTPException):
            connection.close()
            _local.connection = None
            raise

    def insist(
        self,
        method: str,
        path: str,
        document: Any = None,
        *,
        accepted: tuple[int, ...] = (200, 201, 202),
        give_up_s: float = 30,
    ) -> tuple[Any, int]:
        """The JSON of the accepted answer and how many tries it took, the same Idempotency-Key each time."""
        headers = {"Idempotency-Key": str(uuid.uuid4())} if method == "POST" else {}
        deadline, tries = time.monotonic() + give_up_s, 0
        while True:
            tries += 1
            status: object = "no answer"
            with contextlib.suppress(OSError, http.client.HTTPException):
                status, answer = self.ask(method, path, document, headers)
                if status in accepted:
                    return answer, tries
                waits = status == 429 or (status == 409 and answer["code"] == "idempotency-key-in-flight")
                if isinstance(status, int) and status < 500 and not waits:
                    raise RuntimeError(f"{method} {path}: {status} {answer}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{method} {path}: {status} for {give_up_s:.0f} s")
            time.sleep(0.1)


def task(due_us: int, payload: Any = None, **fields: Any) -> dict[str, Any]:
    """The document that registers a one-time `mock` task."""
    run_at = from_us(due_us).isoformat(timespec="microseconds") + "Z"
    return {"handler": "mock", "payload": payload if payload is not None else {}, "run_at": run_at, **fields}
