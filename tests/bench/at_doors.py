"""`python -m tests.bench.at_doors DOOR SIZE`: registers at one door of Clockjack's, as `tests.bench.casting` asks for.

The environment says where: CLOCKJACK_URL and CLOCKJACK_API_KEY, or CLOCKJACK_DATABASE_URL.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pymysql
import sqlalchemy as sa

from clockjack import Client, enqueue
from tests.bench.casting import Caller, Dues, asked, serve, told

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DUES = Dues()


def _moment(due_us: int) -> datetime:
    return EPOCH + timedelta(microseconds=due_us)


def _payload(number: int, due_us: int) -> dict[str, object]:
    return {"key": str(number), "due_us": due_us}


def _task(number: int, due_us: int) -> str:
    at = datetime.fromtimestamp(due_us // 1_000_000, UTC).isoformat()
    return f'{{"handler":"mock","payload":{{"key":"{number}","due_us":{due_us}}},"run_at":"{at}"}}'


def _sql() -> Caller:
    """INSERT and COMMIT by the driver: rows of plain SQL."""
    url = sa.make_url(os.environ["CLOCKJACK_DATABASE_URL"])
    connection = pymysql.connect(
        unix_socket=url.query["unix_socket"], user=url.username, password=url.password or "", database=url.database
    )

    def call(size: int) -> None:
        found = DUES.more(size)
        values = [("mock", json.dumps(_payload(*one)), _moment(one[1]).replace(tzinfo=None)) for one in found]
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO tasks (handler, payload, run_at) VALUES " + ", ".join(["(%s, %s, %s)"] * size),
                [value for row in values for value in row],
            )
        connection.commit()

    return call


def _enqueue() -> Caller:
    """clockjack.enqueue in a transaction of the caller's, on a pool of one connection for each thread."""
    engine = sa.create_engine(os.environ["CLOCKJACK_DATABASE_URL"])

    def call(size: int) -> None:
        (number, due_us) = DUES.more(size)[0]
        with engine.begin() as connection:
            enqueue(connection, "mock", _payload(number, due_us), run_at=_moment(due_us))

    return call


def _client() -> Caller:
    """clockjack.Client, a connection for each thread."""
    client = Client()

    def call(size: int) -> None:
        found = DUES.more(size)
        if size == 1:
            client.schedule("mock", _payload(*found[0]), run_at=_moment(found[0][1]))
        else:
            many = [{"handler": "mock", "payload": _payload(*one), "run_at": _moment(one[1])} for one in found]
            client.schedule_many(many)

    return call


def _cli(size: int) -> None:
    """`clockjack add`: a process for each task."""
    number, due_us = DUES.more(size)[0]
    argv = [sys.executable, "-m", "clockjack", "add", "mock", "--payload", json.dumps(_payload(number, due_us))]
    subprocess.run([*argv, "--at", _moment(due_us).isoformat()], check=True, capture_output=True)


class Wire(asyncio.Protocol):
    """One kept connection that sends requests as bytes: the least that a client in any language does."""

    def __init__(self) -> None:
        self._got, self._answer = b"", asyncio.get_running_loop().create_future()
        self._transport: Any = None
        self.open = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, found, body = self._got.partition(b"\r\n\r\n")
        if found and len(body) >= int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]):
            self._got = b""
            self._answer.set_result(int(head.split(b" ", 2)[1]))

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        if not self._answer.done():
            self._answer.set_exception(error or ConnectionError("the connection was closed"))

    async def ask(self, request: bytes) -> int:
        """The status of the answer."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        status: int = await self._answer
        return status


def _request(path: str, document: str) -> bytes:
    body = document.encode()
    head = f"POST {path} HTTP/1.1\r\nHost: clockjack\r\nAuthorization: Bearer {os.environ['CLOCKJACK_API_KEY']}\r\n"
    head += f"Content-Type: application/json\r\nIdempotency-Key: {uuid.uuid4().hex}\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


async def _post(wire: Wire, size: int) -> None:
    tasks = [_task(*one) for one in DUES.more(size)]
    request = (
        _request("/v1/tasks", tasks[0]) if size == 1 else _request("/v1/tasks/bulk", f'{{"tasks":[{",".join(tasks)}]}}')
    )
    status = await wire.ask(request)
    if status != 201:
        raise RuntimeError(f"answered with {status}")


async def _http(size: int) -> None:
    wires: list[Wire] = []
    while line := await asyncio.to_thread(asked):
        concurrency, seconds = line[0]
        wires = [wire for wire in wires if wire.open]  # the producer closes what was idle for a while
        wires += [await _connected() for _ in range(concurrency - len(wires))]
        chosen = wires[:concurrency]
        await asyncio.gather(*(_post(wire, size) for wire in chosen))
        begun, us = time.perf_counter(), list[int]()

        async def work(wire: Wire, us: list[int] = us, until: float = begun + seconds) -> None:
            while time.perf_counter() < until:
                since = time.perf_counter_ns()
                await _post(wire, size)
                us.append((time.perf_counter_ns() - since) // 1000)

        await asyncio.gather(*(work(wire) for wire in chosen))
        told(len(us) * size, time.perf_counter() - begun, us, size * concurrency)


async def _connected() -> Wire:
    where = urlsplit(os.environ["CLOCKJACK_URL"])
    _, wire = await asyncio.get_running_loop().create_connection(Wire, where.hostname, where.port)
    return wire


if __name__ == "__main__":
    door, size = sys.argv[1], int(sys.argv[2])
    if door == "http":
        asyncio.run(_http(size))
    elif door == "cli":
        serve(lambda: _cli, size, warm=False)
    else:
        serve({"sql": _sql, "enqueue": _enqueue, "client": _client}[door], size)
