"""`python -m tests.bench.receiver DELAY_MS`: a receiver that prints its port and answers POSTs after a while.

Each request is marked by its Idempotency-Key, which is Clockjack's run key, at the moment its body is there.
"""

import asyncio
import sys
from contextlib import suppress

from tests.bench.mark import mark

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


async def serve(delay_s: float) -> None:
    """Answers until it is ended."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
                await reader.readexactly(int(headers.get("content-length", 0)))
                key = headers["idempotency-key"]
                mark(key, int(key.rsplit("-", 1)[1]))
                await asyncio.sleep(delay_s)
                writer.write(ANSWER)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.wait_for(asyncio.Event().wait(), 3600)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]) / 1000))
