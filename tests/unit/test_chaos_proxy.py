"""The proxy of the chaos runs cuts exactly around a COMMIT, and holds what it is told to hold."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.chaos.proxy import COMMIT, Edge, Proxy

INSERT = b"\x0b\x00\x00\x00\x03INSERT INTO"
SELECT = b"\x09\x00\x00\x00\x03SELECT 1"
Play = Callable[[Edge, asyncio.StreamReader, asyncio.StreamWriter, list[bytes]], Awaitable[None]]


def play(tmp_path: Path, body: Play) -> None:
    """`body` has an edge, a client's connection through it, and a list of what the server has seen."""

    async def run() -> None:
        seen: list[bytes] = []

        async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(1000):
                seen.append(data)
                writer.write(b"ok")
            writer.close()

        await asyncio.start_unix_server(server, tmp_path / "server")
        proxy = Proxy({"a>mysql": "mysql"}, {"mysql": str(tmp_path / "server")})
        edge = proxy.edges["a>mysql"]
        reader, writer = await asyncio.open_connection("127.0.0.1", await proxy.listen(edge))
        await asyncio.wait_for(body(edge, reader, writer, seen), 10)
        writer.transport.abort()
        await asyncio.sleep(0.05)

    asyncio.run(run())


async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> bytes:
    """What the server answers; empty when the connection ends instead."""
    writer.write(data)
    try:
        return await reader.read(100)
    except ConnectionError:
        return b""


@pytest.mark.parametrize(("where", "arrives"), [("before", False), ("after", True)])
def test_a_commit_of_writes_is_cut(tmp_path: Path, where: str, arrives: bool) -> None:
    async def body(edge: Edge, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: list[bytes]) -> None:
        edge.commits, edge.cuts_left = where, 1
        assert await say(reader, writer, SELECT) == b"ok"
        assert await say(reader, writer, COMMIT) == b"ok"  # it wrote nothing
        assert await say(reader, writer, INSERT) == b"ok"
        assert await say(reader, writer, COMMIT) == b""
        await asyncio.sleep(0.05)
        assert (seen[-1] == COMMIT) is arrives
        assert edge.count[f"commit_{where}"] == 1
        assert edge.count["unknown_commits"] == 1

    play(tmp_path, body)


@pytest.mark.parametrize(("mode", "arrives"), [("up", False), ("down", True), ("stall", False)])
def test_a_partition_holds_one_direction_and_delivers_when_it_heals(tmp_path: Path, mode: str, arrives: bool) -> None:
    async def body(edge: Edge, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: list[bytes]) -> None:
        edge.set(mode)
        writer.write(SELECT)
        await asyncio.sleep(0.1)
        assert bool(seen) is arrives
        assert not reader._buffer  # type: ignore[attr-defined]
        edge.set("pass")
        assert await reader.read(100) == b"ok"
        assert edge.count["held_down" if mode == "down" else "held_up"] == 1

    play(tmp_path, body)


def test_a_cut_ends_what_is_there_and_refuses_what_comes(tmp_path: Path) -> None:
    async def body(edge: Edge, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: list[bytes]) -> None:
        assert await say(reader, writer, SELECT) == b"ok"
        edge.set("cut")
        assert await say(reader, writer, SELECT) == b""
        port = writer.get_extra_info("peername")[1]
        late_reader, late_writer = await asyncio.open_connection("127.0.0.1", port)
        assert await say(late_reader, late_writer, SELECT) == b""
        assert seen == [SELECT]
        assert (edge.count["cut"], edge.count["refused"]) == (1, 1)
        late_writer.transport.abort()

    play(tmp_path, body)
