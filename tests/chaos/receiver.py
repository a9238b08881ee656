"""`python -m tests.chaos.receiver FILE`: writes down every POST before it answers, and knows nothing of who sends it.

It prints its port. Each line of FILE is the JSON that was sent and the moment it came; what came together is synced by
one fsync.
"""

import asyncio
import contextlib
import json
import os
import sys
import time

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Book:
    """The file, and who waits for it to be on the disk."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._lines: list[tuple[bytes, asyncio.Future[None]]] = []
        self._some = asyncio.Event()

    async def write(self, body: bytes) -> None:
        """The effect is on the disk."""
        line = json.dumps({"at_us": time.time_ns() // 1000, **json.loads(body)}).encode() + b"\n"
        done = asyncio.get_running_loop().create_future()
        self._lines.append((line, done))
        self._some.set()
        await done

    async def sync(self) -> None:
        """Writes what there is, again and again."""
        loop = asyncio.get_running_loop()
        while True:
            await self._some.wait()
            self._some.clear()
            lines, self._lines = self._lines, []
            os.write(self._file, b"".join(line for line, _ in lines))
            await loop.run_in_executor(None, os.fsync, self._file)
            for _, done in lines:
                if not done.done():
                    done.set_result(None)


async def main(path: str) -> None:
    """Serves until stdin is closed."""
    book = Book(path)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
                await book.write(await reader.readexactly(length))
                writer.write(ANSWER)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    syncing = asyncio.create_task(book.sync())
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    syncing.cancel()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1]))
