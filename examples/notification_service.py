"""A notification service: users of many tenants get their notices at the times they chose, by the tenant's webhook.

Each user's notice is a task of its own, so users change theirs without anybody else noticing. A tenant is a tag here;
give each an API key of a namespace of its own if tenants are to be kept apart.
"""

import asyncio
import json
import sys
from collections.abc import Iterable
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from clockjack import AsyncClient

AT_ONCE = 32  # requests under way


def notice(tenant: str, user: str, url: str, **when: Any) -> dict[str, Any]:
    """The registration of a user's notice: sent again, or with another time, it changes the one that is there."""
    body = {"tenant": tenant, "user": user, "text": f"Good morning, {user}"}
    return {
        "handler": "http",
        "payload": {"url": url, "body": body},
        "task_key": f"notice/{tenant}/{user}",
        "tags": [f"tenant:{tenant}"],
        "max_lateness_s": 3600,  # good morning at noon is worse than none
        **when,
    }


async def register(client: AsyncClient, notices: Iterable[dict[str, Any]]) -> int:
    """All are registered, some at a time; returns how many. After an error: the same again changes nothing."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(fields: dict[str, Any]) -> None:
        async with slots:
            await client.schedule(**fields)

    done = await asyncio.gather(*(one(fields) for fields in notices))
    return len(done)


async def pause_tenant(client: AsyncClient, tenant: str) -> int:
    """Nobody of the tenant gets a notice until they are resumed; returns how many had one."""
    return (await client.control("pause", tag=f"tenant:{tenant}"))["changed"]


class Receiver(ThreadingHTTPServer):
    """A tenant's end: it answers, and takes each notice once, however often it comes."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Request)
        self.taken: dict[str, Any] = {}

    @property
    def url(self) -> str:
        """Where notices are sent to."""
        return f"http://127.0.0.1:{self.server_port}/notices"


class _Request(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.taken.setdefault(
            self.headers["Idempotency-Key"], body
        )  # a key that is known: the same notice again
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""


async def main(users: int) -> None:
    """`users` users of two tenants are notified in a moment, all but those of the tenant that was paused."""
    receiver = Receiver()
    Thread(target=receiver.serve_forever, daemon=True).start()
    async with AsyncClient() as client:
        now = datetime.fromisoformat((await client.forecast(buckets=1, bucket="1s"))["buckets"][0]["at"])
        due = now + timedelta(seconds=10 + users // 200)
        wanted = [notice(("acme", "globex")[n % 2], f"user-{n}", receiver.url, run_at=due) for n in range(users)]
        print(await register(client, wanted), "notices registered for", due.isoformat())
        print(await pause_tenant(client, "globex"), "of them paused: the tenant globex")
    while len(receiver.taken) < (users + 1) // 2:
        await asyncio.sleep(0.5)
    print(len(receiver.taken), "notices received, of", {body["tenant"] for body in receiver.taken.values()})
    receiver.shutdown()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100))
