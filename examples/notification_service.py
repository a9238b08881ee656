"""A notification service: users of many tenants get their notices at the times they chose, by the tenant's webhook.

Each user's notice is a task of its own, so users change theirs without anybody else noticing. A tenant is a tag, an
endpoint and a limit; give each an API key of a namespace of its own if tenants are to be kept apart.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

from clockjack import AsyncClient

TENANTS = ("acme", "globex", "initech", "umbrella")
MANY, AT_ONCE = 1_000, 4  # notices a request, requests under way
PER_SECOND, CONCURRENT = 500, 50  # of each tenant: what its receiver is to bear
WORK_S = 0.01  # what a receiver does with a notice


def notice(tenant: str, user: str, **when: Any) -> dict[str, Any]:
    """The registration of a user's notice: sent again, or with another time, it changes the one that is there."""
    body = {"type": "notice", "tenant": tenant, "user": user, "text": f"Good morning, {user}"}
    return {
        "handler": "http",
        "payload": {"endpoint": tenant, "body": body},
        "task_key": f"notice/{tenant}/{user}",
        "tags": [f"tenant:{tenant}"],
        "limit_key": f"tenant:{tenant}",
        "per_second": PER_SECOND,
        "max_concurrent": CONCURRENT,
        "max_lateness_s": 3600,  # good morning at noon is worse than none
        **when,
    }


async def register(client: AsyncClient, notices: Sequence[dict[str, Any]]) -> int:
    """All are registered, 1,000 a request; returns how many. After an error: the same again changes nothing."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def some(part: Sequence[dict[str, Any]]) -> int:
        async with slots:
            answer = await client.schedule_many(part)
        return int(answer["created"] + answer["updated"])

    parts = (notices[i : i + MANY] for i in range(0, len(notices), MANY))
    return sum(await asyncio.gather(*(some(part) for part in parts)))


async def pause_tenant(client: AsyncClient, tenant: str) -> int:
    """Nobody of the tenant gets a notice until they are resumed; returns how many had one."""
    return (await client.control("pause", tag=f"tenant:{tenant}"))["changed"]


async def resume_tenant(client: AsyncClient, tenant: str) -> int:
    """The tenant's notices go on, and what their pause missed is sent now; returns how many they are."""
    return (await client.control("resume", tag=f"tenant:{tenant}", catch_up=True))["changed"]


class Receiver:
    """The tenants' end: takes what is signed with the tenant's secret, and each notice once, however often it comes."""

    def __init__(self) -> None:
        self.secrets: dict[str, Webhook] = {}
        self.taken: dict[str, tuple[str, str]] = {}
        self.arrivals: defaultdict[str, list[float]] = defaultdict(list)
        self.at_work, self.most_at_work = Counter[str](), Counter[str]()
        self.refused = self.again = 0
        self.url = ""

    async def start(self) -> None:
        """It listens at `url`."""
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0, backlog=1024)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                body = await reader.readexactly(int(headers["content-length"]))
                status = await self.take(head.split()[1].strip("/"), headers, body)
                writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def take(self, tenant: str, headers: dict[str, str], body: bytes) -> str:
        """The answer to a notice that came to this tenant."""
        try:
            event = self.secrets[tenant].verify(body, headers)
        except (KeyError, WebhookVerificationError):
            self.refused += 1
            return "401 Unauthorized"
        self.arrivals[tenant].append(time.monotonic())
        self.at_work[tenant] += 1
        self.most_at_work[tenant] = max(self.most_at_work[tenant], self.at_work[tenant])
        await asyncio.sleep(WORK_S)
        self.at_work[tenant] -= 1
        key = headers["webhook-id"]  # known: the same notice again
        self.again += key in self.taken
        self.taken[key] = (event["tenant"], event["user"])
        return "200 OK"


def endpoint(tenant: str, url: str) -> Webhook:
    """There is an endpoint of the tenant's name; returns what verifies its signatures."""

    env = {"CLOCKJACK_HTTP_ALLOW": "127.0.0.1/32", **os.environ}  # this receiver is on this machine

    def clockjack(*words: str, check: bool = True) -> str:
        argv = [sys.executable, "-m", "clockjack", "endpoints", *words]
        told = None if check else subprocess.DEVNULL  # who is not there need not be deleted
        return subprocess.run(argv, check=check, stdout=subprocess.PIPE, stderr=told, text=True, env=env).stdout

    clockjack("delete", tenant, check=False)  # of an earlier try, with another address
    return Webhook(json.loads(clockjack("create", tenant, f"{url}/{tenant}", "--json"))["secret"])


def most_within(moments: Iterable[float], seconds: float) -> int:
    """How many of the moments lie together within so many seconds, at most."""
    ordered = sorted(moments)
    return max((n + 1 - bisect_left(ordered, at - seconds) for n, at in enumerate(ordered)), default=0)


async def main(users: int) -> None:
    """All users are notified at their time, those of a tenant that is paused when it is resumed."""
    receiver = Receiver()
    await receiver.start()
    receiver.secrets = {tenant: endpoint(tenant, receiver.url) for tenant in TENANTS}
    async with AsyncClient(timeout_s=60) as client:
        now = datetime.fromisoformat((await client.forecast(buckets=1, bucket="1s"))["buckets"][0]["at"])
        first, span = now + timedelta(seconds=10 + users // 5_000), max(1, users // 1_000)
        wanted = [
            notice(TENANTS[n % len(TENANTS)], f"user-{n}", run_at=first + timedelta(seconds=n % span))
            for n in range(users)
        ]
        begun = time.monotonic()
        done = await register(client, wanted)
        print(f"{done} notices registered, {done / (time.monotonic() - begun):.0f} a second; due from {first} on")
        print(await pause_tenant(client, "globex"), "of them paused: the tenant globex")
        others = sum(n % len(TENANTS) != TENANTS.index("globex") for n in range(users))
        while len(receiver.taken) < others:
            await asyncio.sleep(0.5)
        print(len(receiver.taken), "notices received, of", *sorted({tenant for tenant, _ in receiver.taken.values()}))
        print(await resume_tenant(client, "globex"), "resumed: the tenant globex")
        while len(receiver.taken) < users:
            await asyncio.sleep(0.5)
    once = len(set(receiver.taken.values())) == len(receiver.taken) == users
    print(f"{len(receiver.taken)} notices received, each user's once: {once}; signatures refused: {receiver.refused}")
    print(f"{receiver.again} deliveries of a notice that was known")
    for tenant in TENANTS:
        a_second, ten = (most_within(receiver.arrivals[tenant], seconds) for seconds in (1, 10))
        together = receiver.most_at_work[tenant]
        held = ten <= 11 * PER_SECOND and together <= CONCURRENT  # begun in 10 s; they arrive a moment later
        print(
            f"{tenant}: at most {a_second} in a second and {ten} in ten ({PER_SECOND} a second allowed), {together} at"
            f" once ({CONCURRENT} allowed): {'held' if held else 'NOT HELD'}"
        )


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100))
