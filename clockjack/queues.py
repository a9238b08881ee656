"""The Redis contract: RQ's own keys, so that `rq info`, suspend/resume and the RQ dashboard work, and a few of ours.

Redis holds only what can be rebuilt from MySQL. A message names its run, due time and attempt, and its task where its
runs must not overlap; handler and payload come from MySQL, which also decides whether the message still counts.

| key | type | what |
|---|---|---|
| rq:queues, rq:queue:Q | set, list | RQ's queues; the list holds job ids that are due |
| rq:job:r{run}-a{attempt} | hash | RQ's job: status, data (JSON), description, and our popped_us |
| rq:wip:Q | sorted set | RQ's started registry: `{job}:{worker}` by the time until which it is believed |
| clockjack:staged:Q | sorted set | job ids by due time in µs |
| clockjack:consumers, clockjack:consumer:NAME | set, string | who serves which queue and handlers; JSON, 10 s |
| clockjack:nudge | list | wakes one dispatcher |
| clockjack:rate:PREFIX | string | when the whole burst of an API key is free again (`rates`) |
| clockjack:epoch | string | gone or changed = Redis lost its data |
"""

import json
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from redis.exceptions import RedisError, ResponseError

from clockjack import messages
from clockjack.ledger.advance import Ready
from clockjack.ledger.database import to_us
from clockjack.ledger.runs import Popped
from clockjack.reach import Reach, connect

__all__ = ["Queues", "RedisError", "connect", "job_id"]

ENTRY = "consumers.entry.execute"
LONGEST_LIST = 100_000
PUSH_AT_ONCE = 100
RELEASE_AT_ONCE = 2_000
ANNOUNCED_S = 10
OLDEST_AGE_S = 86_400.0  # so long a job is kept
MOST_QUEUES, LONGEST_NAME = 10_000, 64
TYPES = {
    "rq:queues": b"set",
    "clockjack:consumers": b"set",
    "clockjack:nudge": b"list",
    "clockjack:epoch": b"string",
}


def job_id(run_id: int, attempt: int) -> str:
    """The RQ job id of one attempt of a run."""
    return f"r{run_id}-a{attempt}"


class Queues:
    """The commands that the three stages use. Every call may raise RedisError within a second; at once while Redis is
    away, as `probe` found.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.reach = Reach()
        self.redis, self._probe = connect(url), connect(url)
        self.redis.reach = self.reach
        lua = files("clockjack") / "lua"
        self._push, self._release, self._step, self._give_back, self._forget = (
            self.redis.register_script((lua / "typed.lua").read_text() + (lua / f"{name}.lua").read_text())
            for name in ("push", "release", "step", "give_back", "forget")
        )

    def probe(self) -> None:
        """`reach` knows whether Redis answers: a write that a full Redis accepts, too, and a read-only one does not."""
        try:
            pipe = self._probe.pipeline(transaction=False)
            pipe.delete("clockjack:probe")
            pipe.exists("rq:suspended")
            self.reach.answered(suspended=bool(pipe.execute()[1]))
        except RedisError as error:
            self.reach.missed(type(error).__name__)

    def push(self, ready: Sequence[Ready], now_us: int) -> int:
        """Each of these runs is staged or in its queue; returns how many had to be written."""
        written = 0
        now = _iso(now_us)
        for i in range(0, len(ready), PUSH_AT_ONCE):
            args: list[Any] = [now_us, now, LONGEST_LIST]
            for run in ready[i : i + PUSH_AT_ONCE]:
                due_us, task = to_us(run.due_at), f",{run.live_task_id}" if run.live_task_id else ""
                data = f'["{ENTRY}",null,[{run.run_id},{due_us},{run.attempt},{now_us}{task}],{{}}]'
                name = job_id(run.run_id, run.attempt)
                args += (name, run.queue, due_us, data, f"run {run.run_id} attempt {run.attempt}")
            written += int(self._push(args=args)[0])
        return written

    def release(self, queues: Iterable[str], now_us: int) -> tuple[list[int], int | None]:
        """Staged jobs that are due are in their lists: (their due times in µs, the next due time or None)."""
        names = list(queues)
        if not names:
            return [], None
        soonest, *moved = self._release(args=[now_us, RELEASE_AT_ONCE, LONGEST_LIST, *names])
        due_us = [int(score) for score in map(float, moved) if 0 < score < messages.LAST_US]
        return due_us, int(soonest) if int(soonest) >= 0 else None

    def step(
        self, queue: str, worker: str, now_us: int, room: tuple[int, int, int], done: Sequence[str]
    ) -> tuple[list[Popped], bool]:
        """`done` jobs are acknowledged and some popped: (the popped, whether RQ is suspended).

        `room`: the most to pop; how many could begin at once; the consumers that share what is there beyond that.
        Messages that cannot be read are dropped: MySQL has the run, and it is looked at again.
        """
        suspended, *data = self._step(args=[queue, worker, now_us, *room, *done])
        return messages.popped(data), bool(suspended)

    def give_back(self, queue: str, worker: str, popped: Sequence[Popped], now_us: int) -> None:
        """Popped jobs are queued again, due ones at the head."""
        args = [value for p in popped for value in (job_id(p.run_id, p.attempt), to_us(p.due_at))]
        self._give_back(args=[queue, worker, now_us, *args])

    def keep(self, queue: str, worker: str, jobs: Sequence[str], now_us: int) -> None:
        """The jobs in hand stay in RQ's started registry for another minute; entries nobody keeps are gone."""
        key, now_s = f"rq:wip:{queue}", now_us // 1_000_000

        def write() -> None:
            pipe = self.redis.pipeline(transaction=False)
            pipe.zremrangebyscore(key, "-inf", now_s)
            if jobs:
                pipe.zadd(key, {f"{job}:{worker}": now_s + 60 for job in jobs}, xx=True)
            pipe.execute()

        self._typed(write, {key: b"zset"})

    def nudge(self, what: str = "claim") -> None:
        """A dispatcher looks at the tasks (or, with `look`, at the runs) now instead of at its next poll."""

        def write() -> None:
            pipe = self.redis.pipeline(transaction=False)
            pipe.lpush("clockjack:nudge", what)
            pipe.ltrim("clockjack:nudge", 0, 7)
            pipe.execute()

        self._typed(write)

    def announce(self, name: str, queue: str, handlers: Iterable[str], concurrency: int) -> None:
        """For 10 s this consumer is known to serve `queue` and `handlers`."""
        value = json.dumps({"queue": queue, "handlers": sorted(handlers), "concurrency": concurrency})

        def write() -> None:
            pipe = self.redis.pipeline(transaction=False)
            pipe.sadd("clockjack:consumers", name)
            pipe.set(f"clockjack:consumer:{name}", value, ex=ANNOUNCED_S)
            pipe.execute()

        self._typed(write)

    def withdraw(self, name: str) -> None:
        """This consumer serves nothing any more."""
        self.redis.delete(f"clockjack:consumer:{name}")
        self.redis.srem("clockjack:consumers", name)

    def consumers(self) -> dict[str, dict[str, Any]]:
        """Live consumers by name: {queue, handlers, concurrency}."""
        names: list[bytes] = sorted(self._typed(lambda: self.redis.smembers("clockjack:consumers")))
        if not names:
            return {}
        values: Any = self.redis.mget([_CONSUMER + name for name in names])
        found = dict(zip(names, map(messages.consumer, values), strict=True))
        gone = [name for name, told in found.items() if told is None]
        if gone:
            self.redis.srem("clockjack:consumers", *gone)
        return {_text(name): told for name, told in found.items() if told is not None}

    def served(self) -> dict[str, set[str]]:
        """Handlers that live consumers announced, by queue."""
        found: dict[str, set[str]] = {}
        for consumer in self.consumers().values():
            found.setdefault(consumer["queue"], set()).update(consumer["handlers"])
        return found

    def names(self) -> list[str]:
        """The queues that hold or held something, the first 10,000; what can be none of ours is taken out."""
        keys: set[bytes] = self._typed(lambda: self.redis.smembers("rq:queues"))
        names = {key: _text(key).removeprefix("rq:queue:") for key in keys}
        odd = [key for key, name in names.items() if f"rq:queue:{name}".encode() != key or len(name) > LONGEST_NAME]
        if odd:
            self.redis.srem("rq:queues", *odd)
        return sorted(names[key] for key in keys.difference(odd))[:MOST_QUEUES]

    def forget(self, queue: str) -> bool:
        """The queue is no longer listed, if it holds nothing; returns whether it was. A push lists it again."""
        return bool(self._forget(args=[queue]))

    def ages(self, now_us: int) -> dict[str, float]:
        """How long (s) the oldest due run of each queue has waited for a consumer; 0 where none waits.

        It waits since it is due and in Redis: what is late already when it comes here, as of a backfill, does not say
        that nobody keeps up.
        """
        names = self.names()
        pipe = self.redis.pipeline(transaction=False)
        for name in names:
            pipe.lindex(f"rq:queue:{name}", 0)
        heads = pipe.execute(raise_on_error=False)  # of a key that is no list there is no head
        for head in heads:
            pipe.hget(b"rq:job:" + (head if isinstance(head, bytes) else b""), "data")
        jobs = pipe.execute(raise_on_error=False)
        return {name: _age_s(data, now_us) for name, data in zip(names, jobs, strict=True)}

    def status(self, now_us: int | None = None) -> list[dict[str, Any]]:
        """Each queue: waiting, staged, started (counts), oldest_age_s, consumers."""
        if now_us is None:
            seconds, micros = self.redis.time()
            now_us = int(seconds) * 1_000_000 + int(micros)
        live: Mapping[str, dict[str, Any]] = self.consumers()
        ages = self.ages(now_us)
        found = []
        for name in sorted({*ages, *(c["queue"] for c in live.values())}):
            pipe = self.redis.pipeline(transaction=False)
            pipe.llen(f"rq:queue:{name}")
            pipe.zcard(f"clockjack:staged:{name}")
            pipe.zcount(f"rq:wip:{name}", now_us // 1_000_000, "+inf")
            counts = pipe.execute(raise_on_error=False)
            waiting, staged, started = (number if isinstance(number, int) else 0 for number in counts)
            found.append(
                {
                    "queue": name,
                    "waiting": waiting,
                    "staged": staged,
                    "started": started,
                    "oldest_age_s": round(ages.get(name, 0.0), 3),
                    "consumers": sum(c["queue"] == name for c in live.values()),
                }
            )
        return found

    def epoch(self) -> str:
        """The name of the data that Redis holds now; a new one where it had none."""

        def read() -> Any:
            self.redis.set("clockjack:epoch", uuid.uuid4().hex, nx=True)
            return self.redis.get("clockjack:epoch") or b""

        return _text(self._typed(read)[:100])

    def check(self) -> list[str]:
        """What is wrong with this Redis, in words; an empty list when nothing is."""
        self.redis.ping()
        try:
            policy = self.redis.config_get("maxmemory-policy").get("maxmemory-policy", "noeviction")
        except RedisError:
            return []  # a managed Redis may refuse CONFIG; eviction then costs lateness, never a run
        if policy != "noeviction":
            return [
                f"Redis: maxmemory-policy is {policy}; set it to noeviction, or queued runs are late when it evicts"
            ]
        return []

    def _typed(self, call: Callable[[], Any], types: Mapping[str, bytes] | None = None) -> Any:
        """What `call` answers. A key whose type is not ours was written by somebody else: it is deleted, once."""
        try:
            return call()
        except ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise
        for key, kind in {**TYPES, **(types or {})}.items():
            if self.redis.type(key) not in (kind, b"none"):
                self.redis.delete(key)
        return call()


_CONSUMER = b"clockjack:consumer:"


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode(errors="replace")


def _age_s(data: Any, now_us: int) -> float:
    """How long the job with this data has waited; of what is no job of ours, 0."""
    one = messages.popped([data]) if isinstance(data, bytes) and data else []
    waits_us = now_us - max(to_us(one[0].due_at), one[0].pushed_us) if one else 0
    return min(OLDEST_AGE_S, max(0.0, waits_us / 1e6))


def _iso(us: int) -> str:
    return datetime.fromtimestamp(us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
