"""Limits by key: how many runs of one `limit_key` are at work at once, and how many begin in a second.

Judged when a run has been started and before its handler begins, in Redis, in one call for all keys of a batch: no row
is hot, no lock is held, and runs without a limit_key are asked nothing. A run that finds its limit full is READY again,
as if it had never begun, with a `wake_at` some time ahead; then its entry waits in Redis in the order of due times, and
the consumer that makes room, or sees it come, starts it by the same compare-and-swap as ever. What Redis forgets costs
a wait until wake_at. While Redis is away each consumer keeps the limits for itself.
"""

import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from clockjack.ledger.clock import from_us
from clockjack.ledger.database import Clock, to_us
from clockjack.ledger.finish import Outcome
from clockjack.ledger.runs import FIRST_LEASE_S, Held, Popped
from clockjack.queues import Queues, RedisError, job_id
from consumers.execution import Job, Pool

KEPT_S, RENEW_S, NEXT_S = 20.0, 2.0, 0.1
MOST_AT_ONCE = 200  # limits asked about in one call
MOST_REMEMBERED = 10_000
SHORTEST_WAIT_S, LONGEST_WAIT_S, ALONE_WAIT_S = 10.0, 60.0, 1.0


@dataclass(frozen=True, slots=True)
class Limit:
    """What one key allows. 0: no bound."""

    name: str
    most: int
    often: int
    window_us: int

    @classmethod
    def of(cls, row: dict[str, Any]) -> "Limit":
        """Of a started run of a task that has one. 2.5 a second are 2 in 0.8 s."""
        rate = row["per_second"]
        often = max(1, int(rate)) if rate else 0
        window_us = int(often / rate * 1_000_000) if rate else 1
        name = f"{len(row['namespace'])}:{row['namespace']}:{row['limit_key']}"  # whatever characters both have
        return cls(name, row["max_concurrent"] or 0, often, window_us)

    def each_s(self) -> float:
        """How long a place takes to come free, at a guess: only a wait that nobody ends early depends on it."""
        return max(0.2 / self.most if self.most else 0.0, self.window_us / 1e6 / self.often if self.often else 0.0)


class Limits:
    """What one consumer knows of limits: those that runs of its queue wait for, and the places that it holds."""

    def __init__(self, queues: Queues, queue: str, clock: Clock) -> None:
        self._queues, self._queue, self._clock = queues, queue, clock
        lua = files("clockjack") / "lua"
        self._admit, self._next = (
            queues.redis.register_script((lua / "typed.lua").read_text() + (lua / f"{name}.lua").read_text())
            for name in ("limit_admit", "limit_next")
        )
        self.known: dict[str, Limit] = {}  # runs of this queue wait for them
        self._held: dict[str, str] = {}  # job id: the limit whose place it has
        self._kept: dict[str, str] = {}  # the same, of runs that are about to be started
        self._begun: dict[str, deque[float]] = {}
        self._next_s = self._renew_s = 0.0

    def admit(self, execute: list[dict[str, Any]], pool: Pool, sent_s: float) -> list[dict[str, Any]]:
        """Those of the started runs that may begin; the others are handed back by the pool, to wait."""
        if not any(row.get("limit_key") for row in execute):
            return execute
        by_limit: dict[Limit, list[dict[str, Any]]] = {}
        for row in execute:
            if row.get("limit_key"):
                by_limit.setdefault(Limit.of(row), []).append(row)
        denied: dict[int, float] = {}
        for limit, answers in self._ask(by_limit).items():
            for row, waiting in zip(by_limit[limit], answers, strict=True):
                if not waiting:
                    job = job_id(row["id"], row["attempt"])
                    self._kept.pop(job, None)
                    self._held[job] = limit.name
                    row["fresh"] = row["fresh"] and row["attempt"] == 1  # what has waited for its limit is not late
                else:
                    denied[row["id"]] = self._wait_s(limit, waiting)
        for row in execute:
            if row["id"] in denied:
                held = Held(row["id"], row["due_at"], row["attempt"], row["token"])
                back = Job(row, held, sent_s, sent_s, sent_s + FIRST_LEASE_S, state="handed_back")
                pool.jobs[back.id] = back
                pool.outcomes.append((back, Outcome(held, "handed_back", retry_in_s=denied[row["id"]])))
        return [row for row in execute if row["id"] not in denied]

    def wait(self, rows: Sequence[dict[str, Any]]) -> None:
        """These runs, which are READY again now, are started when their limits have room, the earliest due first."""

        def add(pipe: Any) -> None:
            for row in rows:
                limit, due_us = Limit.of(row), to_us(row["due_at"])
                self.known[limit.name] = limit
                key = f"clockjack:limit:{limit.name}:waiting:{self._queue}"
                pipe.zadd(key, {_entry(row, due_us, row["attempt"] + 1): due_us})
                pipe.expire(key, 120)

        if rows and not self._queues.reach.away:
            self._tell(add)

    def next(self, room: int) -> list[Popped]:
        """At most `room` runs that waited and may begin now; asked again after a tenth of a second, or a release."""
        now_s = time.monotonic()
        if not self.known or room <= 0 or now_s < self._next_s or not self._asked():
            return []
        self._next_s = now_s + NEXT_S
        some = [self.known.pop(name) for name in list(self.known)[:MOST_AT_ONCE]]
        self.known |= {limit.name: limit for limit in some}  # those asked now come last the next time
        now_us = self._clock.now_us()
        args: list[Any] = [self._queue, now_us, now_us + int(FIRST_LEASE_S * 1e6), room]
        for limit in some:
            args += (limit.name, limit.most, limit.often, limit.window_us)
        try:
            answers = self._next(args=args)
        except RedisError:
            return []
        for limit, waiting in zip(some, answers, strict=False):
            if not waiting:
                self.known.pop(limit.name, None)
        found = []
        for entry in answers[len(some) :]:
            try:
                which, job, run_id, due_us, attempt, live = _text(entry).split(" ")
                one = Popped(int(run_id), from_us(int(due_us)), int(attempt), now_us, int(live) or None)
            except (ValueError, OverflowError):  # somebody else's: MySQL has the run
                continue
            self._kept[job] = some[int(which)].name
            found.append(one)
        return found

    def settle(self) -> None:
        """The places kept for runs that were not started after all (their task was cancelled, say) are free."""
        self._held |= self._kept
        kept, self._kept = list(self._kept), {}
        self.release(kept)

    def release(self, jobs: Sequence[str]) -> None:
        """The places of these jobs, if they have any, are free."""
        mine = [(job, name) for job in jobs if (name := self._held.pop(job, None))]
        if mine:
            self._next_s = 0.0
            self._tell(lambda pipe: [pipe.zrem(f"clockjack:limit:{name}:held", job) for job, name in mine])

    def renew(self) -> None:
        """The places of what is in hand are kept for another 20 s, also in a Redis that has forgotten them."""
        now_s = time.monotonic()
        if not self._held or now_s < self._renew_s or self._queues.reach.away:
            return
        self._renew_s, until_us = now_s + RENEW_S, self._clock.now_us() + int(KEPT_S * 1e6)
        self._tell(lambda pipe: [self._keep(pipe, name, job, until_us) for job, name in self._held.items()])

    @staticmethod
    def _keep(pipe: Any, name: str, job: str, until_us: int) -> None:
        key = f"clockjack:limit:{name}:held"
        pipe.zadd(key, {job: until_us})
        pipe.expire(key, 60)

    def _asked(self) -> bool:
        return not self._queues.reach.away and not self._queues.reach.suspended

    def _ask(self, by_limit: Mapping[Limit, Sequence[dict[str, Any]]]) -> dict[Limit, Sequence[int]]:
        """For each run 0, or how many wait for its limit. However many limits a batch has, Redis is asked at once."""
        if not self._queues.reach.away:
            try:
                pipe = self._queues.redis.pipeline(transaction=False)
                for limit, rows in by_limit.items():
                    self._admit(args=self._question(limit, rows), client=pipe)
                answers: dict[Limit, Sequence[int]] = dict(zip(by_limit, pipe.execute(), strict=True))
            except RedisError:
                pass
            else:
                self.known |= {limit.name: limit for limit, found in answers.items() if any(found)}
                return answers
        return {limit: self._alone(limit, rows) for limit, rows in by_limit.items()}

    def _question(self, limit: Limit, rows: Sequence[dict[str, Any]]) -> list[Any]:
        now_us = self._clock.now_us()
        args: list[Any] = [limit.name, self._queue, now_us, now_us + int(KEPT_S * 1e6)]
        args += (limit.most, limit.often, limit.window_us)
        for row in rows:
            args += (job_id(row["id"], row["attempt"]), _entry(row, to_us(row["due_at"]), row["attempt"]))
        return args

    def _alone(self, limit: Limit, rows: Sequence[dict[str, Any]]) -> list[int]:
        """Without Redis: the limit is kept among the runs of this consumer."""
        if len(self._begun) > MOST_REMEMBERED:
            self._begun.clear()
        begun, now_s = self._begun.setdefault(limit.name, deque()), time.monotonic()
        while begun and begun[0] <= now_s - limit.window_us / 1e6:
            begun.popleft()
        at_work = sum(name == limit.name for name in self._held.values())
        answers = []
        for _ in rows:
            full = (limit.most and at_work >= limit.most) or (limit.often and len(begun) >= limit.often)
            answers.append(len(rows) if full else 0)
            if not full:
                at_work += 1
                if limit.often:
                    begun.append(now_s)
        return answers

    def _wait_s(self, limit: Limit, waiting: int) -> float:
        """How long it waits if nobody starts it before; spread, so that they do not all come at once."""
        shortest_s = ALONE_WAIT_S if self._queues.reach.away else SHORTEST_WAIT_S
        return min(LONGEST_WAIT_S, shortest_s + waiting * limit.each_s()) * random.uniform(0.5, 1.0)

    def _tell(self, commands: Callable[[Any], object]) -> None:
        try:
            pipe = self._queues.redis.pipeline(transaction=False)
            commands(pipe)
            pipe.execute(raise_on_error=False)
        except RedisError:
            return  # what is not told is over in 20 s


def _entry(row: dict[str, Any], due_us: int, attempt: int) -> str:
    live = row["task_id"] if row["overlap"] != "allow" else 0
    return f"{job_id(row['id'], attempt)} {row['id']} {due_us} {attempt} {live}"


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
