"""The loops of a dispatcher. Each is a step that can be called by hand; none waits for another.

* claim: due tasks become runs, which are staged in Redis until they are due.
* release: staged runs that are due are moved to their queues.
* look again: live runs whose wake_at has come are pushed again, or lost.
* expect: who was not heard of for too long is told of.
* measure and maintain: the gauges say how it stands; partitions are made ahead, and old history goes.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from clockjack import telemetry
from clockjack.ledger import claim, direct, expectations, partitions, reports, wake
from clockjack.ledger import queues as switches
from clockjack.ledger.advance import Ready
from clockjack.ledger.database import Database, Unavailable
from clockjack.queues import Queues, RedisError, connect
from clockjack.reach import PROBE_S

log = logging.getLogger("clockjack.dispatcher")

POLL_S = 0.2
RELEASE_S = 0.5  # what others stage sooner than this they release themselves, while they live
GATHER_S = 0.005  # due times that lie closer together are released together: what few runs cost, many cost, too
EAR_S = 2.0
LOOK_S = 1.0
EXPECT_S = 5.0
MAINTAIN_S, MAINTAIN_SOON_S = 600.0, 1.0
SHOWN_QUEUES = 100
ERROR_PAUSE_S = 0.5


class Dispatcher:
    """Any number of these work on the same tables at once; there is no leader."""

    def __init__(
        self, database: Database, queues: Queues, maintenance: Database | None = None, retention_days: int = 30
    ) -> None:
        self.database, self.queues, self.retention_days = database, queues, retention_days
        self.maintenance = maintenance or database
        self.ages: dict[str, float] = {}
        self.paused: list[str] | None = None  # these queues; None: not asked yet
        self.stop = False
        self.stopping = threading.Event()
        self._staged = threading.Event()
        self._look = threading.Event()
        self._nudged = threading.Event()
        self._memory = claim.Memory()
        self._names: set[str] = set()
        self._epoch: str | None = None
        self._peaks: dict[str, float] = {}
        self._cursor = 0

    def claim_step(self) -> bool:
        """One batch was claimed and staged; True when more may be waiting."""
        begun = time.monotonic()
        staged = not self.queues.reach.away
        done = claim.claim(self.database, self.ages, memory=self._memory, staged=staged, paused=self.paused or ())
        if done.tasks:
            telemetry.CLAIM_SECONDS.observe(time.monotonic() - begun)
            telemetry.CLAIMED.inc(len(done.ready))
            telemetry.INVALID.inc(done.invalid)
        self._stage(done.ready)
        return done.full

    def release_step(self) -> int | None:
        """Staged runs that are due are in their queues; returns the next due time in µs, if any is known here."""
        if self.queues.reach.away:
            return None
        now_us = self.database.clock.now_us()
        moved, soonest = self.queues.release(sorted(self._names), now_us)
        after_us = self.database.clock.now_us()
        for due_us in moved:
            telemetry.RELEASE.observe(max(0, after_us - due_us) / 1e6)
        return soonest

    def look_step(self) -> bool:
        """Runs whose wake_at has come were pushed again or lost; True when more are waiting."""
        if away := self.queues.reach.away:
            self.ages = direct.ages(self.database)
        else:
            self._check_redis()
        ready, lost, more = wake.look_again(self.database, self.ages, pushes=not away)
        telemetry.LOST.inc(lost)
        if ready and not away:
            telemetry.REPUSHED.inc(self.queues.push(ready, self.database.clock.now_us()))
            self._names.update(run.queue for run in ready)
            self._staged.set()
        return more

    def expect_step(self) -> None:
        """Expectations that have fallen silent, or are heard of again, have their alert."""
        for row, state in self.database.transaction(expectations.look):
            telemetry.EXPECTATIONS.labels(state).inc()
            level = logging.ERROR if state == "silent" else logging.INFO
            fields = {"action": "expectation", "namespace": row["namespace"], "expectation": row["name"]}
            log.log(level, "an expectation is %s", state, extra=fields | {"state": state})

    def hear_step(self) -> None:
        """It is known which queues are paused; asked before the first claim, and then by `measure_step`."""
        self.paused = self.database.transaction(switches.paused)

    def measure_step(self) -> None:
        """The gauges say how it stands; queues that hold nothing and that nobody serves are forgotten."""
        health, self.paused = self.database.transaction(
            lambda c: (reports.health(c, self.database.clock), switches.paused(c))
        )
        telemetry.OLDEST_DUE.set(float(health["oldest_due_age_s"]))
        telemetry.CLOCK_JUMPS.set(self.database.clock.jumps)
        status = self.queues.status(self.database.clock.now_us())
        for gauge in (telemetry.WAITING, telemetry.WAITING_AGE, telemetry.SERVED, telemetry.PAUSED):
            gauge.clear()  # names come from SQL too: only those that are there now are shown, and not all of many
        for queue in status[:SHOWN_QUEUES]:
            telemetry.WAITING.labels(queue["queue"]).set(queue["waiting"])
            telemetry.WAITING_AGE.labels(queue["queue"]).set(queue["oldest_age_s"])
            telemetry.SERVED.labels(queue["queue"]).set(queue["consumers"])
        for name in self.paused[:SHOWN_QUEUES]:
            telemetry.PAUSED.labels(name).set(1)
        for queue in status:
            if not queue["consumers"] and self.queues.forget(queue["queue"]):
                self._names.discard(queue["queue"])

    def maintain_step(self) -> bool:
        """Partitions are ahead and one page of old history is gone; True when more may be waiting."""
        done = partitions.maintain(self.maintenance, self.retention_days, self._cursor)
        self._cursor, more = int(done.pop("cursor", self._cursor)), bool(done.pop("more", False))
        if any(done.values()):
            log.info("history kept in bounds", extra={"action": "retention", **done})
        return more

    def _stage(self, ready: list[Ready]) -> None:
        if not ready:
            return
        self._names.update(run.queue for run in ready)
        if self.queues.reach.away:
            return  # consumers look for them; whoever can reach Redis pushes them at their wake_at
        self.queues.push(ready, self.database.clock.now_us())
        self._staged.set()
        now = self.database.clock.now()
        ahead, due_now = telemetry.STAGING.labels("ahead"), telemetry.STAGING.labels("now")
        for run in ready:
            if run.claimable_at is not None:
                stage = ahead if run.noticed else due_now
                stage.observe(max(0.0, (now - run.claimable_at).total_seconds()))

    def _check_redis(self) -> None:
        """The ages of the queues are known; after a loss of data, what waits for a far look is looked at now."""
        try:
            self.ages = self.queues.ages(self.database.clock.now_us())
            epoch = self.queues.epoch()
        except RedisError:
            return
        self._names.update(self.ages)
        for queue, age_s in self.ages.items():
            self._peaks[queue] = max(age_s, self._peaks.get(queue, 0.0))
        if self._epoch is not None and epoch != self._epoch:
            woken = wake.wake_all(self.database)
            log.warning("Redis lost its data", extra={"action": "redis_lost", "runs": woken})
            self._peaks.clear()
        calm = [q for q, peak_s in self._peaks.items() if peak_s > claim.SATURATED_S and self._calmer(q, peak_s)]
        if calm:
            wake.wake_all(self.database, calm)
        self._peaks = {q: age_s for q, age_s in self._peaks.items() if q in self.ages and q not in calm}
        self._epoch = epoch

    def _calmer(self, queue: str, peak_s: float) -> bool:
        """Its backlog is a quarter of what it was when its runs were told to wait for a far look."""
        return self.ages.get(queue, 0.0) <= peak_s / 4

    def run(self) -> None:
        """Work until `stop` is true: a signal handler sets it, and may not touch an Event that this thread waits on."""
        loops: list[Callable[[], None]] = [self._claim_loop, self._ear_loop, self._release_loop, self._look_loop]
        loops += [self._expect_loop, self._measure_loop, self._maintain_loop, self._probe_loop]
        threads = [threading.Thread(target=loop, name=loop.__name__, daemon=True) for loop in loops]
        for thread in threads:
            thread.start()
        while not self.stop:
            time.sleep(POLL_S)
        self.stopping.set()
        for event in (self._nudged, self._staged, self._look):
            event.set()
        for thread in threads:
            thread.join(5)

    def _claim_loop(self) -> None:
        while self.paused is None and not self.stopping.is_set():
            self._guarded("claim", self.hear_step)
        while not self.stopping.is_set():
            self._nudged.clear()
            if not self._guarded("claim", self.claim_step):
                self._nudged.wait(POLL_S)

    def _ear_loop(self) -> None:
        """Who registers something that is due soon, or frees a run that waits, is heard at once."""
        ear = connect(self.queues.url, timeout_s=EAR_S + 1)
        while not self.stopping.is_set():
            if self.queues.reach.away:
                self.stopping.wait(POLL_S)
                continue
            try:
                heard = ear.blpop(["clockjack:nudge"], timeout=EAR_S)
            except RedisError:
                self.stopping.wait(POLL_S)
                continue
            if heard:
                (self._look if heard[1] == b"look" else self._nudged).set()

    def _release_loop(self) -> None:
        while not self.stopping.is_set():
            self._staged.clear()
            soonest = self._guarded("release", self.release_step)
            self.stopping.wait(GATHER_S)
            wait_s = RELEASE_S
            if isinstance(soonest, int) and soonest > 1 and self.database.clock.known:
                wait_s = min(RELEASE_S, (soonest - self.database.clock.now_us()) / 1e6)
            if wait_s > 0:
                self._staged.wait(wait_s)

    def _look_loop(self) -> None:
        while not self.stopping.is_set():
            if not self._guarded("look_again", self.look_step):
                self._look.wait(LOOK_S)
                self._look.clear()

    def _expect_loop(self) -> None:
        while not self.stopping.is_set():
            self._guarded("expect", self.expect_step)
            self.stopping.wait(EXPECT_S)

    def _measure_loop(self) -> None:
        while not self.stopping.is_set():
            self._guarded("measure", self.measure_step)
            self.stopping.wait(2.0)

    def _maintain_loop(self) -> None:
        while not self.stopping.is_set():
            more = self._guarded("maintain", self.maintain_step)
            self.stopping.wait(MAINTAIN_SOON_S if more else MAINTAIN_S)

    def _probe_loop(self) -> None:
        while not self.stopping.is_set():
            self.queues.probe()
            self.stopping.wait(PROBE_S)

    def _guarded(self, name: str, step: Callable[[], Any]) -> Any:
        """The step's value; None when it failed, which is logged and counted, and after which the loop pauses."""
        try:
            value = step()
        except (Unavailable, RedisError) as error:
            kind = "redis" if isinstance(error, RedisError) else "mysql"
            log.warning("%s: %s cannot be reached", name, kind, extra={"action": f"{name}_failed", "kind": kind})
        except Exception:
            kind = "error"
            log.exception("%s failed", name, extra={"action": f"{name}_failed", "kind": kind})
        else:
            if name != "maintain":  # its turn comes every ten minutes; a tick is for what must happen each second
                telemetry.ticked(name)
            return value
        telemetry.ERRORS.labels(name, kind).inc()
        self.stopping.wait(ERROR_PAUSE_S)
        return None
