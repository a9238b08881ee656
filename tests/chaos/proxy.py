"""`python -m tests.chaos.proxy SOCKET`: every edge between a process and a server, as a TCP port that can be hurt.

The edges and the servers' sockets are one line of JSON on stdin; the ports are one line of JSON on stdout. Orders come
on the unix socket SOCKET, one JSON object a line, each answered by one.

TCP loses no bytes inside a connection, so a partition holds them and delivers them when it heals, to whoever is still
there: a COMMIT that a client has long given up may arrive late. Of MySQL's protocol it knows what PyMySQL sends alone
in one packet: COM_QUERY COMMIT, and with which words a statement begins.
"""

import asyncio
import contextlib
import json
import os
import socket
import struct
import sys
from collections import Counter
from typing import Any

COMMIT = b"\x07\x00\x00\x00\x03COMMIT"
WRITES = (b"INSERT", b"UPDATE", b"DELETE")
HELD = {"stall": ("up", "down"), "up": ("up",), "down": ("down",)}
RESET = struct.pack("ii", 1, 0)


class Edge:
    """One process's way to one server. `mode`: pass, cut, stall (both directions), up or down (that one held), slow."""

    def __init__(self, name: str, server: str) -> None:
        self.name, self.server, self.mode, self.delay_s = name, server, "pass", 0.0
        self.gates = {"up": asyncio.Event(), "down": asyncio.Event()}
        self.links: set[Link] = set()
        self.count = Counter[str]()
        self.commits: str | None = None  # "before" or "after": where the next COMMITs of writes are cut
        self.cuts_left = 0
        self.trip: dict[str, Any] | None = None
        self.set("pass")

    def set(self, mode: str, ms: float = 0) -> None:
        """From now on the edge behaves like this."""
        self.mode, self.delay_s = mode, ms / 1000 if mode == "slow" else 0.0
        for way, gate in self.gates.items():
            gate.clear() if way in HELD.get(mode, ()) else gate.set()
        if mode == "cut":
            for link in list(self.links):
                self.count["cut"] += 1
                link.abort()


class Link:
    """One connection through an edge."""

    def __init__(self, edge: Edge, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.edge, self.ends = edge, (client, server)
        self.wrote = self.pending = False
        self.cut_after = False

    def abort(self) -> None:
        """Both ends see a reset."""
        for writer in self.ends:
            with contextlib.suppress(OSError):
                raw = writer.get_extra_info("socket")
                if raw is not None and raw.family != socket.AF_UNIX:
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()

    def asks(self, data: bytes) -> bool:
        """Whether what the client sends may go on to the server."""
        edge = self.edge
        if data.startswith(COMMIT):
            if not self.wrote:
                return True
            self.wrote, self.pending = False, True
            edge.count["commits"] += 1
            if edge.commits and edge.cuts_left > 0:
                edge.cuts_left -= 1
                edge.count[f"commit_{edge.commits}"] += 1
                if edge.commits == "before":
                    self.abort()
                    return False
                self.cut_after = True
            return True
        if data[4:5] == b"\x03":
            text = data[5:60].lstrip()
            self.wrote = self.wrote or text.startswith(WRITES)
            if edge.trip and text.startswith(edge.trip["text"].encode()):
                os.kill(edge.trip["pid"], edge.trip["signal"])
                edge.count["tripped"] += 1
                edge.trip = None
        return True

    def answers(self) -> bool:
        """Whether what the server answers may go on to the client."""
        if self.cut_after:
            self.abort()
            return False
        self.pending = False
        return True


class Proxy:
    """All edges, and the sockets of the servers behind them."""

    def __init__(self, edges: dict[str, str], backends: dict[str, str]) -> None:
        self.edges = {name: Edge(name, server) for name, server in edges.items()}
        self.backends = backends

    async def listen(self, edge: Edge) -> int:
        """The port of the edge."""

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self.link(edge, reader, writer)

        server = await asyncio.start_server(accept, "127.0.0.1", 0, backlog=512)
        return int(server.sockets[0].getsockname()[1])

    async def link(self, edge: Edge, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The connection was served to its end."""
        if edge.mode == "cut":
            edge.count["refused"] += 1
            writer.transport.abort()
            return
        try:
            from_server, to_server = await asyncio.open_unix_connection(self.backends[edge.server])
        except OSError:
            edge.count["away"] += 1
            writer.transport.abort()
            return
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        edge.links.add(link := Link(edge, writer, to_server))
        try:
            ways = (pump(link, "up", reader, to_server), pump(link, "down", from_server, writer))
            tasks = [asyncio.create_task(way) for way in ways]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
        finally:
            edge.links.discard(link)
            edge.count["unknown_commits"] += link.pending
            for end in link.ends:
                end.close()

    def order(self, what: dict[str, Any]) -> Any:
        """The order was carried out; its answer."""
        edges = [self.edges[name] for name in what.get("edges", [])]
        match what["do"]:
            case "set":
                for edge in edges:
                    edge.set(what["mode"], what.get("ms", 0))
            case "commits":
                for edge in edges:
                    edge.commits, edge.cuts_left = what["where"], what["count"]
            case "trip":
                for edge in edges:
                    edge.trip = what["trip"]
            case "backend":
                self.backends[what["server"]] = what["socket"]
                for edge in self.edges.values():
                    for link in list(edge.links) if edge.server == what["server"] else []:
                        link.abort()
        return {name: dict(edge.count) for name, edge in self.edges.items()}

    async def obey(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Orders of one connection were answered until it ended."""
        while line := await reader.readline():
            try:
                answer = self.order(json.loads(line))
            except Exception as error:
                answer = {"error": repr(error)}
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()


async def pump(link: Link, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What comes from `reader` was passed on, as the edge allows, until an end."""
    edge, gate, mysql = link.edge, link.edge.gates[way], link.edge.server == "mysql"
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            if not gate.is_set():
                edge.count[f"held_{way}"] += 1
                await gate.wait()
            if edge.delay_s:
                edge.count["slowed"] += 1
                await asyncio.sleep(edge.delay_s)
            if mysql and not (link.asks(data) if way == "up" else link.answers()):
                return
            writer.write(data)
            await writer.drain()


async def main(path: str) -> None:
    """Serves until stdin is closed."""
    config = json.loads(sys.stdin.readline())
    proxy = Proxy(config["edges"], config["backends"])
    ports = {name: await proxy.listen(edge) for name, edge in proxy.edges.items()}
    await asyncio.start_unix_server(proxy.obey, path)
    print(json.dumps(ports), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1]))
