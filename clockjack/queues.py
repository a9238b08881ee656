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
| clockjack:epoch | string | gone or changed = Redis lost its data |
"""

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files
from typing import Any, cast

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry

from clockjack.ledger.advance import Ready
from clockjack.ledger.database import from_us, to_us
from clockjack.ledger.runs import Popped
from clockjack.reach import Reach

__all__ = ["Queues", "RedisError", "job_id"]

ENTRY = "consumers.entry.execute"
LONGEST_LIST = 100_000
PUSH_AT_ONCE = 100
RELEASE_AT_ONCE = 2_000
ANNOUNCED_S = 10
TIMEOUT_S = 1.0


class Client(Redis):
    """Calls fail at once while Redis is away."""

    reach: Reach | None = None

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """The answer."""
        self._check()
        return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, *args: Any, **options: Any) -> Any:
        """Commands that are sent together."""
        self._check()
        return super().pipeline(*args, **options)

    def _check(self) -> None:
        if self.reach is not None and self.reach.away:
            raise RedisConnectionError("Redis is away")


def connect(url: str, *, timeout_s: float = TIMEOUT_S) -> Client:
    """A client whose calls end within `timeout_s` and are never sent twice behind our back."""
    client = Client.from_url(
        url, socket_timeout=timeout_s, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0), protocol=2
    )
    return cast(Client, client)


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
            self.redis.register_script((lua / f"{name}.lua").read_text())
            for name in ("push", "release", "step", "give_back", "forget")
        )

    def probe(self) -> None:
        """`reach` knows whether Redis answers: a write that a full Redis accepts, too, and a read-only one does not."""
        try:
            self._probe.delete("clockjack:probe")
            self.reach.answered(suspended=bool(self._probe.exists("rq:suspended")))
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
        return [int(float(due)) for due in moved], int(soonest) if int(soonest) >= 0 else None

    def step(
        self, queue: str, worker: str, now_us: int, room: tuple[int, int, int], done: Sequence[str]
    ) -> tuple[list[Popped], bool]:
        """`done` jobs are acknowledged and some popped: (the popped, whether RQ is suspended).

        `room`: the most to pop; how many could begin at once; the consumers that share what is there beyond that.
        Messages that cannot be read are dropped: MySQL has the run, and it is looked at again.
        """
        suspended, *data = self._step(args=[queue, worker, now_us, _iso(now_us), *room, *done])
        return _popped(data), bool(suspended)

    def give_back(self, queue: str, worker: str, popped: Sequence[Popped], now_us: int) -> None:
        """Popped jobs are queued again, due ones at the head."""
        args = [value for p in popped for value in (job_id(p.run_id, p.attempt), to_us(p.due_at))]
        self._give_back(args=[queue, worker, now_us, *args])

    def keep(self, queue: str, worker: str, jobs: Sequence[str], now_us: int) -> None:
        """The jobs in hand stay in RQ's started registry for another minute; entries nobody keeps are gone."""
        key, now_s = f"rq:wip:{queue}", now_us // 1_000_000
        pipe = self.redis.pipeline(transaction=False)
        pipe.zremrangebyscore(key, "-inf", now_s)
        if jobs:
            pipe.zadd(key, {f"{job}:{worker}": now_s + 60 for job in jobs}, xx=True)
        pipe.execute()

    def nudge(self, what: str = "claim") -> None:
        """A dispatcher looks at the tasks (or, with `look`, at the runs) now instead of at its next poll."""
        pipe = self.redis.pipeline(transaction=False)
        pipe.lpush("clockjack:nudge", what)
        pipe.ltrim("clockjack:nudge", 0, 7)
        pipe.execute()

    def announce(self, name: str, queue: str, handlers: Iterable[str], concurrency: int) -> None:
        """For 10 s this consumer is known to serve `queue` and `handlers`."""
        value = json.dumps({"queue": queue, "handlers": sorted(handlers), "concurrency": concurrency})
        pipe = self.redis.pipeline(transaction=False)
        pipe.sadd("clockjack:consumers", name)
        pipe.set(f"clockjack:consumer:{name}", value, ex=ANNOUNCED_S)
        pipe.execute()

    def withdraw(self, name: str) -> None:
        """This consumer serves nothing any more."""
        self.redis.delete(f"clockjack:consumer:{name}")
        self.redis.srem("clockjack:consumers", name)

    def consumers(self) -> dict[str, dict[str, Any]]:
        """Live consumers by name: {queue, handlers, concurrency}."""
        names = sorted(_text(name) for name in self.redis.smembers("clockjack:consumers"))
        if not names:
            return {}
        values = self.redis.mget([f"clockjack:consumer:{name}" for name in names])
        gone = [name for name, value in zip(names, values, strict=True) if value is None]
        if gone:
            self.redis.srem("clockjack:consumers", *gone)
        return {name: json.loads(value) for name, value in zip(names, values, strict=True) if value is not None}

    def served(self) -> dict[str, set[str]]:
        """Handlers that live consumers announced, by queue."""
        found: dict[str, set[str]] = {}
        for consumer in self.consumers().values():
            found.setdefault(consumer["queue"], set()).update(consumer["handlers"])
        return found

    def names(self) -> list[str]:
        """The queues that hold or held something."""
        return sorted(_text(key).removeprefix("rq:queue:") for key in self.redis.smembers("rq:queues"))

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
        heads = pipe.execute()
        for head in heads:
            pipe.hget(f"rq:job:{(head or b'').decode(errors='replace')}", "data")
        found = [_popped([data]) if data else [] for data in pipe.execute()]
        return {
            name: max(0.0, (now_us - max(to_us(one[0].due_at), one[0].pushed_us)) / 1e6) if one else 0.0
            for name, one in zip(names, found, strict=True)
        }

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
            waiting, staged, started = pipe.execute()
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
        self.redis.set("clockjack:epoch", uuid.uuid4().hex, nx=True)
        return _text(self.redis.get("clockjack:epoch") or b"")

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


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode(errors="replace")


def _popped(data: Sequence[bytes]) -> list[Popped]:
    """What these messages say, without those that cannot be read."""
    try:  # all at once; one by one only if one of them spoils it
        return [_message(*one[2]) for one in json.loads(b"[" + b",".join(data) + b"]")]
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, RecursionError):
        return [p for one in data for p in _popped([one])] if len(data) > 1 else []


def _message(run_id: int, due_us: int, attempt: int, pushed_us: int = 0, task_id: int | None = None) -> Popped:
    return Popped(int(run_id), _due(int(due_us)), int(attempt), int(pushed_us), int(task_id) if task_id else None)


_due = lru_cache(4096)(from_us)  # runs of one batch are often due at the same instant


def _iso(us: int) -> str:
    return datetime.fromtimestamp(us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
