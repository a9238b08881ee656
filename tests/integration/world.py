"""Dispatchers, consumers and clients on real servers, stepped by hand at a time that the test moves.

Consumers are the engine of `consumers/` with a pool without threads: the test begins and ends handlers itself.
"""

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from clockjack.handlers import Run
from clockjack.ledger import acceptance, claim
from clockjack.ledger.database import Database, rows
from clockjack.queues import Queues
from consumers import engine as engines
from consumers import execution
from consumers.execution import Job, Pool, Stopped
from dispatcher.loops import Dispatcher
from tests.integration.failpoints import Failpoints, Time

BEGIN = datetime(2027, 3, 1, 11, 59, 50)
QUEUE = "default"
LIST, STAGED = f"rq:queue:{QUEUE}", f"clockjack:staged:{QUEUE}"
TABLES = ("tasks", "runs", "attempts", "task_events")
TASKS = "SELECT id, state, version, next_run_at, missed_since FROM tasks"
RUNS = (
    "SELECT id, task_id, due_at, schedule_version, origin, state, reason, attempt, failures, run_token,"
    " first_started_at, finished_at, wake_at, result, skipped_until FROM runs ORDER BY id"
)
KEPT = ("state", "reason", "attempt", "run_token", "finished_at", "result", "failures")
OVER = ("succeeded", "failed", "skipped", "cancelled")


@dataclass(slots=True)
class Begun:
    """A handler began: this run, as that attempt, by that consumer; its start was sent then."""

    row: dict[str, Any]
    worker: str
    sent_s: float
    again_s: float | None = None  # it failed: not to be tried again before

    @property
    def key(self) -> tuple[int, int]:
        return self.row["id"], self.row["attempt"]


class ByHand(Pool):
    """A pool without threads. `begin` and `end` are the two halves of what a thread does with a job."""

    def __init__(self, world: "World", worker: str, size: int) -> None:
        super().__init__(0, self._handle, world.clock, threading.Event())
        self.world, self.worker, self.size = world, worker, size
        self.isolated = True  # no thread is told to stop: `end` sees that the job was
        self.fails = False

    def begin(self) -> list[Job]:
        """The handlers of what was started have begun, unless that is too old."""
        begun = []
        while True:
            try:
                hand = self._hands.get_nowait()
            except queue.Empty:
                return begun
            for job in hand:
                if self._begins(job):
                    begun.append(job)
                    self.world.began(job, self)

    def end(self, job: Job, fails: bool = False) -> None:
        """The job's handler has ended; its outcome waits to be written."""
        self.fails = fails
        outcome = self._outcome(job)
        with self._lock:
            if job.state != "running":
                return
            job.state = "over"
        self.outcomes.append((job, outcome))
        if outcome.retry_in_s is not None:
            begun = next(one for one in self.world.begun if one.row is job.row)
            begun.again_s = self.world.time.seconds() + outcome.retry_in_s

    def running(self) -> list[Job]:
        return [job for job in self.jobs.values() if job.state == "running"]

    def _handle(self, job: Job, run: Run) -> str:
        if job.why is not None:
            raise Stopped
        if self.fails:
            raise RuntimeError("no")
        return said(self.worker, job.held.attempt)


def said(worker: str, attempt: int) -> str:
    """What a handler of this consumer returns: an outcome tells whose it is."""
    return f"{worker} {attempt}"


class Consumer(engines.Engine):
    """A consumer's engine whose handlers are begun and ended by hand."""

    pool: ByHand

    def __init__(self, world: "World", name: str, size: int = 4) -> None:
        super().__init__(world.database, world.queues, QUEUE, name, 0, lambda job, run: None)
        self.pool = ByHand(world, name, size)

    def take(self) -> list[Job]:
        """What its queue holds was popped and started, and the handlers have begun."""
        self.pop()
        return self.pool.begin()

    def pop(self) -> None:
        """What its queue holds was popped and started; what had ended was written."""
        self.bell.set()
        self.step()

    def end(self, fails: bool = False) -> None:
        """All handlers have ended, and what they said was given to MySQL."""
        for job in self.pool.running():
            self.pool.end(job, fails)
        self.step()


class World:
    """One database, one Redis, and the processes `d1`, `d2` (dispatchers), `w1`, `w2`, `w3` (consumers)."""

    def __init__(self, database: Database, queues: Queues, owner: sa.Engine) -> None:
        self.database, self.queues, self.owner, self.time = database, queues, owner, Time(BEGIN)
        self.points = Failpoints(database, queues, self.time)
        self.troubles: list[str] = []
        self.reset()

    def reset(self) -> None:
        """Nothing is there, and it is BEGIN."""
        self.time.at, self.clock = BEGIN, self.time.clock()
        self.database.clock = self.clock
        with self.owner.begin() as connection:  # the product's users may delete nothing
            for table in TABLES:
                connection.exec_driver_sql(f"DELETE FROM {table}")
        self.queues.redis.flushall()
        self.database.now()
        self.d1, self.d2 = Dispatcher(self.database, self.queues), Dispatcher(self.database, self.queues)
        self.w1, self.w2, self.w3 = (Consumer(self, name) for name in ("w1", "w2", "w3"))
        self.begun: list[Begun] = []
        self.off: dict[int, tuple[str, float]] = {}  # tasks: cancelled, paused or edited, acknowledged then
        self.old_due: frozenset[datetime] = frozenset()
        self.troubles.clear()
        self.points.locking.clear()
        self.points.stops.clear()
        self.ended: dict[int, dict[str, Any]] = {}

    @property
    def consumers(self) -> tuple[Consumer, ...]:
        return self.w1, self.w2, self.w3

    def on(self, seconds: float) -> None:
        """So much time has passed, for everybody."""
        self.time.on(seconds)
        self.database.now()

    # what clients do

    def register(self, **fields: Any) -> None:
        values = {"handler": "mock", "queue": QUEUE, "payload": "null", "timeout_s": 3000, "max_failures": 5}
        values |= {"backoff_s": 0, "backoff_max_s": 0} | fields
        acceptance.register(self.database, "default", values, actor="test", write=lambda task, notes: "")

    def change(self, change: Callable[..., Any], *values: Any, task_id: int | None = None, **how: Any) -> None:
        """One of control's pause, resume, cancel, edit."""
        one = task_id or self.task()["id"]
        acceptance.change_one(
            self.database, lambda c: change(c, "default", one, *values, actor="test", **how), write=lambda row: ""
        )

    def run_now(self, task_id: int | None = None) -> None:
        one = task_id or self.task()["id"]
        acceptance.run_now(self.database, "default", [one], actor="test", write=lambda made: "")

    # what is there

    def read(self, statement: str, **values: Any) -> list[dict[str, Any]]:
        return self.database.transaction(lambda c: rows(c, statement, **values))

    def task(self) -> dict[str, Any]:
        return self.read(TASKS)[0]

    def runs(self) -> list[dict[str, Any]]:
        return self.read(RUNS)

    # what happens

    def began(self, job: Job, pool: ByHand) -> None:
        """A handler begins: nobody else may think that it holds this run, and it may not be off."""
        one = Begun(job.row, pool.worker, job.sent_s)
        if any(one.key == other.key for other in self.begun):
            self.troubles.append(f"attempt {one.key} began twice")
        for consumer in self.consumers:
            for other in consumer.pool.jobs.values():
                alive = other.state in ("waiting", "running") and other.stopped_s is None
                same = other is not job and other.held.run_id == job.held.run_id
                if same and alive and other.lease_s > self.time.seconds():
                    self.troubles.append(f"run {one.key} began while {consumer.name} holds a lease of it")
        if self.time.at < job.row["due_at"]:
            self.troubles.append(f"run {one.key} began early")
        why, since_s = self.off.get(job.row["task_id"], ("", 0.0))
        if why and job.sent_s > since_s:
            row = job.row
            old = why == "edited" and row["fresh"] and row["due_at"] in self.old_due and row["origin"] == "schedule"
            if why == "cancelled" or old or (why == "paused" and row["origin"] == "schedule"):
                self.troubles.append(f"run {one.key} began after its task was {why}")
        self.begun.append(one)

    def look(self) -> None:
        """What is over stays as it is; called whenever nobody is in the middle of a transaction that ends runs."""
        self.compare(self.runs())

    def compare(self, runs: list[dict[str, Any]]) -> None:
        """What was over when somebody looked is as it was."""
        for run in runs:
            before = self.ended.get(run["id"])
            if before is not None and any(before[n] != run[n] for n in KEPT) and not revived(before):
                self.troubles.append(f"run {run['id']} was {before['state']} and is {run['state']} now")
            if run["state"] in OVER:
                self.ended[run["id"]] = run
        if gone := set(self.ended) - {run["id"] for run in runs}:
            self.troubles.append(f"rows of runs are gone: {gone}")

    def calm(self, rounds: int = 60) -> None:
        """Everybody works and nobody fails until nothing is left to do."""
        for consumer in self.consumers:
            consumer.stopping = False
        for n in range(rounds):
            if self.quiet():
                return
            dispatcher = (self.d1, self.d2)[n % 2]
            dispatcher.look_step()
            while dispatcher.claim_step():
                pass
            dispatcher.release_step()
            for consumer in self.consumers:
                if consumer.pool.jobs:
                    consumer.end()
                    consumer.watch()
                    consumer.beat()
                    consumer.tick()
                if not consumer.empty or self.queues.redis.llen(LIST):
                    consumer.take()
                    consumer.end()
            self.on(2)
        self.troubles.append(f"it does not come to rest: {[(r['state'], r['wake_at']) for r in self.runs()]}")

    def quiet(self) -> bool:
        """Nothing is due, live, queued or in hand; what began before its task was paused waits for its resumption."""
        if not all(c.empty for c in self.consumers) or self.queues.redis.llen(LIST) or self.queues.redis.zcard(STAGED):
            return False
        return not self.read(
            "SELECT id FROM tasks WHERE next_run_at <= UTC_TIMESTAMP(6)"
            " UNION ALL SELECT r.id FROM runs r JOIN tasks t ON t.id = r.task_id WHERE r.wake_at IS NOT NULL"
            " AND NOT (t.state = 'paused' AND r.state = 'ready' AND r.first_started_at IS NOT NULL)"
        )


def revived(run: Mapping[str, Any]) -> bool:
    """What never began comes back when its task is due at that time again, or a pause's range is caught up."""
    return run["state"] in ("skipped", "cancelled") and run["first_started_at"] is None


@contextmanager
def world(database: Database, queues: Queues, owner: sa.Engine) -> Iterator[World]:
    """A world whose processes' own clocks are its time; what they log as an error is a trouble."""
    one = World(database, queues, owner)
    log, keep = logging.getLogger("clockjack"), Keep(one.troubles)
    log.addHandler(keep)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "boot_s", one.time.seconds)
        patch.setattr(execution, "boot_s", one.time.seconds)
        patch.setattr(claim, "time", SimpleNamespace(monotonic=one.time.seconds))  # its pace and its pauses
        try:
            yield one
        finally:
            log.removeHandler(keep)


class Keep(logging.Handler):
    """Errors are troubles."""

    def __init__(self, troubles: list[str]) -> None:
        super().__init__(logging.ERROR)
        self.troubles = troubles

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else ""
        self.troubles.append(f"logged: {record.getMessage()} {error!r:.300}")


def values(**columns: Any) -> Callable[[dict[str, Any], datetime], dict[str, Any]]:
    """What an edit brings the task to."""
    return lambda row, now: columns
