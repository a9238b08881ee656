"""The unit of work is a batch: pop, start (one transaction), execute on the pool, finish (one transaction).

One step makes one Redis call (acknowledge what was finished, pop what fits) and one transaction (start the popped, then
finish what has ended: in this order, because the other way round deadlocks when a message is there twice). Nothing is
popped while MySQL cannot be reached; what was popped and could not be started goes back to the head of its queue.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from clockjack import telemetry
from clockjack.ledger import aftermath, runs
from clockjack.ledger import queues as switches
from clockjack.ledger.database import Database, Unavailable, UnknownCommit
from clockjack.ledger.effects import Effects
from clockjack.ledger.finish import Finished, Outcome
from clockjack.ledger.runs import Popped, Started
from clockjack.queues import Queues, RedisError, job_id
from consumers import beating
from consumers.direct import Direct
from consumers.execution import BEGIN_WITHIN_S, Job, Pool, boot_s
from consumers.handling import due_of
from consumers.limits import Limits
from consumers.returning import hand_back
from consumers.writing import write

log = logging.getLogger("clockjack.consumer")

BATCH = 500
PAUSE_S = 0.5
SLOW_COMMIT_S = 0.8
STALLED_S = 10.0  # a step waits for MySQL or Redis a few seconds at the most
T = TypeVar("T")
Ended = list[tuple[Job, Outcome]]


class Engine:
    """Steps that a worker makes; owns the pool. `bell` is set while its queue may hold something."""

    def __init__(
        self, database: Database, queues: Queues, queue: str, name: str, size: int, call: Callable[..., Any]
    ) -> None:
        self.database, self.queues, self.queue, self.name = database, queues, queue, name
        self.wake, self.bell = threading.Event(), threading.Event()
        self.pool = Pool(size, call, database.clock, self.wake)
        self.pool.effects = Effects(database.url, size)
        self.direct = Direct(database, queues.reach, queue)
        self.limits = Limits(queues, queue, database.clock)
        self.peers = 1
        self.stopping = self.paused = False
        self.stuck = False
        self._done: list[str] = []
        self._retry: Ended = []
        self._redis_off_until = 0.0
        self._suspended_until = 0.0
        self._stepped_s = time.monotonic()
        self._mysql_off_until = 0.0
        self._full_until_us = 0
        self._wait_free, self._wait_busy = telemetry.QUEUE_WAIT.labels("free"), telemetry.QUEUE_WAIT.labels("busy")
        self._lateness, self._duration = telemetry.LATENESS.labels(queue), telemetry.DURATION.labels(queue)

    def step(self) -> bool:
        """One batch went through; returns whether anything was done."""
        if time.monotonic() < self._mysql_off_until:
            return False
        ended, back = self._ended()
        closed = self.stopping or self.paused
        popped = self._pop() or self.direct.found(self.pool, BATCH, stopping=closed, idle=not self.bell.is_set())
        if self.limits.known and not closed and len(popped) < BATCH:
            popped = [*popped, *self.limits.next(self.pool.room(BATCH)[0] - len(popped))]
        try:
            worked = self._batch(popped, ended) if popped or ended else False
        finally:
            self.limits.settle()
            handed_back = self._hand_back(back)
        return handed_back or worked

    def _batch(self, popped: Sequence[Popped], ended: Ended) -> bool:
        sent_s, token = boot_s(), os.urandom(16)
        judged_s = sent_s
        outcomes = [outcome for _, outcome in ended if not outcome.written]
        try:
            started, finished = write(self.database, popped, outcomes, token, self.name)
            if started.execute and boot_s() - sent_s > SLOW_COMMIT_S:
                # the verdicts are old by now: what was paused or cancelled meanwhile must not begin
                again = self.database.transaction(lambda c: runs.mine(c, popped, token))
                judged_s = boot_s()
                started.execute, started.not_run = again.execute, started.not_run + again.not_run
        except (Unavailable, UnknownCommit) as error:
            self._mysql_away(error, popped, ended)
            return False
        except Exception:
            log.exception("a batch could not be started: one by one", extra={"action": "start_alone"})
            self._retry = ended + self._retry
            for one in popped:
                self._start_alone(one)
            return True
        self._begin(started, popped, sent_s, judged_s)
        self._report(ended, finished)
        return bool(popped) or any(outcome.key not in finished.later for _, outcome in ended)

    def watch(self) -> None:
        """Handlers past their timeout or lease were told to stop. Asks nobody, so that it never waits."""
        stuck = self.pool.watch()
        if stuck and not self.stuck:
            self.stuck = self.stopping = True
            log.error("a handler does not stop; this worker drains and exits", extra={"action": "stuck"})
        for job in stuck:
            self.pool.give_up(job, "the handler did not stop at its timeout; its worker was ended")

    def tick(self) -> None:
        """What waited too long to begin is on its way back; the loop was seen alive."""
        self._stepped_s = time.monotonic()
        self.limits.renew()
        self.pool.offer_again(0.05)
        waiting = self.pool.take_waiting(0.0 if self.stopping else BEGIN_WITHIN_S)
        if waiting:
            self.pool.outcomes.extend((job, Outcome(job.held, "handed_back")) for job in waiting)
            self.wake.set()

    def beat(self) -> None:
        """The leases of all runs in hand were extended; the clock was read, and whether the queue is paused."""
        self.hear()
        if time.monotonic() - self._stepped_s > STALLED_S:
            log.error("the loop stands still: its leases end", extra={"action": "stalled"})
            return
        beating.beat(self.database, self.pool)

    def hear(self) -> None:
        """The clock was read, and it is known whether the queue is paused: then nothing more is popped."""
        before, self.paused = self.paused, switches.heard(self.database, self.queue)
        if self.paused != before:
            log.warning("the queue is %s", "paused" if self.paused else "resumed", extra={"action": "queue_paused"})

    @property
    def empty(self) -> bool:
        """Nothing is in hand and nothing waits to be written or acknowledged."""
        return not self.pool.jobs and not self.pool.outcomes and not self._retry and not self._done

    def _ended(self) -> tuple[Ended, Ended]:
        """The attempts that have an outcome, and those to hand back."""
        ended, self._retry = self._retry, []
        while self.pool.outcomes and len(ended) < BATCH:
            one = self.pool.outcomes.popleft()
            ended.append(_true(*one) if one[0].done else one)
        back = [one for one in ended if one[1].kind == "handed_back"]
        return [one for one in ended if one[1].kind != "handed_back"] if back else ended, back

    def _pop(self) -> list[Popped]:
        if self.queues.reach.away:
            self._done.clear()  # what Redis still has of them expires
            return []
        most = free = 0
        wanted = not (self.stopping or self.paused) and self.bell.is_set() and time.monotonic() >= self._suspended_until
        if wanted:
            most, free = self.pool.room(BATCH)
            if not free:
                self._full_until_us = self.database.clock.now_us()
        if (not most and not self._done) or time.monotonic() < self._redis_off_until:
            return []
        done, self._done = self._done, []
        now_us = self.database.clock.now_us()
        try:
            popped, suspended = self.queues.step(self.queue, self.name, now_us, (most, free, self.peers), done)
        except RedisError as error:
            self._done = done
            self._redis_off_until = time.monotonic() + PAUSE_S
            telemetry.ERRORS.labels("pop", "redis").inc()
            log.warning("Redis does not answer: %s", type(error).__name__, extra={"action": "redis_away"})
            return []
        if suspended:  # by `rq suspend`; asked again until `rq resume`
            self._suspended_until = time.monotonic() + PAUSE_S
        elif len(popped) < most:
            self.bell.clear()
        if wanted and free <= len(popped):
            self._full_until_us = now_us
        return popped

    def _start_alone(self, one: Popped) -> None:
        """The run was started, or its message dropped: MySQL looks at it again, and the queue's head is free."""
        sent_s = boot_s()
        try:
            self._begin(write(self.database, [one], [], os.urandom(16), self.name)[0], [one], sent_s, sent_s)
        except Unavailable as error:
            self._mysql_away(error, [one], [])
        except Exception:
            telemetry.ERRORS.labels("start", "error").inc()
            log.exception("a run cannot be started", extra={"action": "poison", "run_id": one.run_id})

    def _begin(self, started: Started, popped: Sequence[Popped], sent_s: float, judged_s: float) -> None:
        if started.now is not None and boot_s() - sent_s < SLOW_COMMIT_S:  # it is as old as the transaction
            self.database.clock.observe(started.now)
        started.execute = self.limits.admit(started.execute, self.pool, sent_s)
        self.pool.add(started.execute, sent_s, judged_s)
        late_us, full_until_us = {run["id"]: run["late_us"] for run in started.execute}, self._full_until_us
        for p in popped:
            if p.run_id in late_us:
                due_us = due_of(p.due_at)[0]
                queued_us = max(p.pushed_us, due_us)
                wait = self._wait_busy if queued_us < full_until_us else self._wait_free
                wait.observe(max(0, due_us + late_us[p.run_id] - queued_us) / 1e6)
        for run, verdict in started.not_run:
            self._log(run, "put off" if verdict == "later" else verdict)
        if started.refused:
            telemetry.FENCED.labels("start").inc(started.refused)
        if started.early:
            try:
                self.queues.give_back(self.queue, self.name, started.early, self.database.clock.now_us())
            except RedisError:
                started.early.clear()  # looked at again at its wake_at
        if len(started.execute) < len(popped):
            executing = {(run["id"], run["attempt"]) for run in started.execute}
            early = {(p.run_id, p.attempt) for p in started.early}
            rest = {(p.run_id, p.attempt) for p in popped} - executing - early
            self._done += [job_id(*one) for one in sorted(rest)]

    def _report(self, ended: Ended, finished: Finished) -> None:
        over, counted = [], dict[str, int]()
        later, refused, forget = finished.later, finished.refused, self.pool.forget
        for job, outcome in ended:
            if later and outcome.key in later:
                self._retry.append((job, outcome))
                continue
            if finished.succeeded and outcome.key in finished.succeeded:
                outcome.kind, outcome.retry_in_s = "succeeded", None
            forget(job)
            self._done.append(job.id)
            self._duration.observe(job.spent_s)
            if job.late_s is not None:
                self._lateness.observe(job.late_s)
            fenced = bool(refused) and outcome.key in refused
            if fenced:
                telemetry.FENCED.labels("finish").inc()
            name = "fenced" if fenced else outcome.kind
            counted[name] = counted.get(name, 0) + 1
            if name != "succeeded":
                self._log(job.row, name, outcome.error, outcome.retry_in_s)
            if not fenced and outcome.retry_in_s is None and aftermath.asks(job.row):
                over.append((job.row, outcome.kind != "succeeded"))
        self.limits.release([job.id for job, _ in ended if job.id not in self.pool.jobs])
        for name, number in counted.items():
            telemetry.OUTCOMES.labels(self.queue, name).inc(number)
        if counted:
            log.info("runs ended", extra={"action": "runs", **counted})
        if over:
            self._settle(over)

    def _settle(self, over: list[tuple[dict[str, Any], bool]]) -> None:
        try:
            if aftermath.settle(self.database, over):
                self.queues.nudge("look")
        except Exception as error:  # seen to later: what waits looks for itself
            log.warning("after the end of a run: %s", type(error).__name__, extra={"action": "aftermath"})

    def _log(
        self, row: dict[str, Any], outcome: str, error: str | None = None, retry_in_s: float | None = None
    ) -> None:
        fields = {"run_id": row["id"], "task_id": row["task_id"], "attempt": row["attempt"], "outcome": outcome}
        fields["handler"] = row["handler"]
        if error:
            fields["error"] = error.split(":")[0]  # the type only: a message may hold what a payload held
            fields["retry_in_s"] = None if retry_in_s is None else round(retry_in_s, 3)
        log.info("run %s", outcome, extra={"action": "run"} | fields)

    def _hand_back(self, ended: Ended) -> bool:
        """Runs that have not begun are READY again. What cannot be written now is tried again at the next step."""
        back, later = hand_back(self.database, ended)
        self._retry += later
        for job, outcome in back:
            self.pool.forget(job)
            self._done.append(job.id)
            telemetry.OUTCOMES.labels(self.queue, "limited" if outcome.waits else "handed_back").inc()
        self.limits.release([job.id for job, _ in back])
        self.limits.wait([job.row for job, outcome in back if outcome.waits])
        if not all(outcome.waits for _, outcome in back):
            with contextlib.suppress(RedisError):
                self.queues.nudge("look")
        return bool(back)

    def _mysql_away(self, error: Exception, popped: Sequence[Popped], ended: Ended) -> None:
        self._retry = ended + self._retry
        self._mysql_off_until = time.monotonic() + PAUSE_S
        telemetry.ERRORS.labels("write", "mysql").inc()
        log.warning("MySQL cannot be reached: %s", error, extra={"action": "mysql_away"})
        if popped:
            try:
                self.queues.give_back(self.queue, self.name, popped, self.database.clock.now_us())
            except RedisError:
                log.warning("popped jobs could not be given back; MySQL looks at them again")


def _true(job: Job, outcome: Outcome) -> tuple[Job, Outcome]:
    """What the handler may not know or may deny: its run has succeeded by its transaction."""
    if outcome.kind != "succeeded":
        error = (outcome.error or "").split(":")[0]
        log.warning("a handler went wrong after its transaction", extra={"action": "after_success", "error": error})
    return job, Outcome(job.held, "succeeded", written=True)
