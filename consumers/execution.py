"""The pool: threads that execute what was started, and the watch over leases, timeouts and what has not begun.

A job is in hand from its start transaction until its outcome is written. It begins only within a second of its start
and while its lease, reckoned on the boot clock from the moment the statement was sent, is good; else it is handed back.
"""

import asyncio
import inspect
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from clockjack.handlers import Run
from clockjack.ledger.database import Clock, chunks
from clockjack.ledger.effects import Effects
from clockjack.ledger.finish import Outcome
from clockjack.ledger.runs import FIRST_LEASE_S, Held
from clockjack.queues import job_id
from consumers.ending import Stopped, failed, of_error, of_value
from consumers.handling import due_of, raise_in, run_of
from consumers.holding import Hold
from consumers.waiting import Loop

log = logging.getLogger("clockjack.consumer")

WITHIN_S = 0.2
AHEAD_S = 0.015  # so long at most what is started waits for a thread, by the average of the past
BEGIN_WITHIN_S = 1.0
STOP_WITHIN_S = 5.0
HAND_S, LARGEST_HAND = 0.005, 50  # what one thread is handed at once: about so much work, at most so many runs


def boot_s() -> float:
    """Seconds on the boot clock, which also runs while the machine sleeps (CLOCK_MONOTONIC where there is none)."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(slots=True, eq=False)
class Job:
    """A started run in hand. All `_s` moments are on the boot clock."""

    row: dict[str, Any]
    held: Held
    sent_s: float
    judged_s: float
    lease_s: float
    state: str = "waiting"
    deadline_s: float = 0.0
    begun_s: float = 0.0
    why: str | None = None
    stopped_s: float | None = None
    thread: int = 0
    child: Any = None  # what can be killed instead of the thread: a process, or a coroutine
    waits: bool = False  # its handler is a coroutine, and has left its thread
    progress: str | None = None  # what its handler said and no heartbeat has written yet
    cancelled: bool = False  # somebody has asked it to stop
    commits: bool = False  # run.transaction() is at its last statement, or behind it
    done: bool = False  # it has succeeded by run.transaction(): nothing is left to be written
    spent_s: float = 0.0
    late_s: float | None = None
    offered: bool = False
    id: str = ""  # the RQ job's

    def __post_init__(self) -> None:
        self.id = job_id(self.held.run_id, self.held.attempt)


class Pool:
    """`size` threads; `call(job, run)` is what each does with a run. Outcomes go to `outcomes`, then `wake` is set."""

    def __init__(self, size: int, call: Callable[[Job, Run], Any], clock: Clock, wake: threading.Event) -> None:
        self.size, self._call, self._clock, self._wake = size, call, clock, wake
        self.isolated = False
        self.effects: Effects | None = None
        self.outcomes: deque[tuple[Job, Outcome]] = deque()
        self.jobs: dict[str, Job] = {}
        self.ewma_s: float | None = None
        self.waiting: set[Job] = set()  # started, not begun
        self._hands: queue.SimpleQueue[Sequence[Job]] = queue.SimpleQueue()
        self._slots: queue.SimpleQueue[None] = queue.SimpleQueue()  # one for each handler that may be at work
        self._loop: Loop | None = None
        self._lock = threading.Lock()  # of the states of all jobs: held for microseconds
        for i in range(size):
            self._slots.put(None)
            threading.Thread(target=self._work, name=f"handler-{i}", daemon=True).start()

    def add(self, rows: list[dict[str, Any]], sent_s: float, judged_s: float) -> None:
        """The started runs wait for a thread: their leases count from `sent_s`, their verdicts from `judged_s`.

        A thread is handed so many at once as should take it about 5 ms, so that handlers of microseconds do not pay for
        a switch of threads each. What waits behind a slow one longer than a second is handed back.
        """
        lease_s, jobs = sent_s + FIRST_LEASE_S, []
        for row in rows:
            held = Held(row["id"], row["due_at"], row["attempt"], row["token"])
            jobs.append(Job(row, held, sent_s, judged_s, lease_s))
        self.jobs.update((job.id, job) for job in jobs)
        with self._lock:
            self.waiting.update(jobs)
        at_once = 1 if self.ewma_s is None else max(1, min(LARGEST_HAND, int(HAND_S / max(self.ewma_s, 1e-6))))
        for hand in chunks(jobs, at_once):
            self._hands.put(hand)

    def room(self, most: int) -> tuple[int, int]:
        """How many more runs (at most `most`) can begin within 15 ms, and how many of them at once.

        As many again may be in hand without being at work: else a tiny batch would follow each full one.
        """
        now_s, waiting, jobs = boot_s(), len(self.waiting), list(self.jobs.values())
        running = [now_s - job.begun_s for job in jobs if job.state == "running"]
        free = self.size - len(running)
        quick = self.size - sum(spent_s > WITHIN_S for spent_s in running)
        ahead = int(quick * AHEAD_S / max(self.ewma_s, 0.0005)) if self.ewma_s is not None else 0
        idle = len(jobs) - len(running)
        return max(0, min(most, free + ahead - waiting, 2 * most - idle)), max(0, min(most, free - waiting))

    def offer_again(self, older_than_s: float) -> None:
        """What waits behind a slow handler can be begun by any thread: the first that comes to it does."""
        edge = boot_s() - older_than_s
        with self._lock:
            again = [job for job in self.waiting if job.judged_s <= edge and not job.offered]
            for job in again:
                job.offered = True
        for job in again:
            self._hands.put((job,))

    def take_waiting(self, older_than_s: float) -> list[Job]:
        """Jobs that were started longer ago and have not begun: no thread will begin them any more."""
        edge = boot_s() - older_than_s
        with self._lock:
            taken = [job for job in self.waiting if job.judged_s <= edge]
            for job in taken:
                job.state = "handed_back"
            self.waiting.difference_update(taken)
        return sorted(taken, key=lambda job: job.held.run_id)

    def forget(self, job: Job) -> None:
        """The job is no longer in hand."""
        self.jobs.pop(job.id, None)

    def stop(self, job: Job, why: str) -> None:
        """The job's handler is told to end: its child is killed, or `Stopped` is raised in its thread."""
        with self._lock:
            if job.state != "running" or job.stopped_s is not None:
                return
            job.why, job.stopped_s = why, boot_s()
            if job.child is not None:
                job.child.kill()
            elif not self.isolated and not job.commits:
                raise_in(job.thread, Stopped)

    def owns(self, job: Job, child: Any) -> bool:
        """The handler runs in this child, its time counts from now; None: no more. Whether the job was not stopped."""
        with self._lock:
            job.child = child
            job.deadline_s = boot_s() + job.row["timeout_s"]
            if job.why is not None and child is not None:
                child.kill()
            return job.why is None

    def lost(self, job: Job) -> bool:
        """Whether another attempt may have begun."""
        return job.why == "lost" or boot_s() > job.lease_s

    def give_up(self, job: Job, error: str) -> None:
        """The attempt is over although its handler is not; what the handler still answers does not count."""
        with self._lock:
            if job.state != "running":
                return
            job.state = "over"
        self.outcomes.append((job, failed(job, "timeout", error)))
        self._wake.set()

    def watch(self) -> list[Job]:
        """Handlers past their timeout or their lease are told to stop; returns those that do not end."""
        now_s, stuck = boot_s(), []
        for job in list(self.jobs.values()):
            if job.state != "running":
                continue
            if job.stopped_s is not None:
                if now_s - job.stopped_s > STOP_WITHIN_S:
                    stuck.append(job)
            elif now_s > job.lease_s:
                self.stop(job, "lost")
            elif now_s > job.deadline_s:
                self.stop(job, "timeout")
        return stuck

    def close(self) -> None:
        """Idle threads end."""
        for _ in range(self.size):
            self._hands.put(())
        if self._loop is not None:
            self._loop.close()
        if self.effects is not None:
            self.effects.close()

    def _work(self) -> None:
        while hand := self._hands.get():
            for job in hand:
                self._slots.get()
                if not self._execute(job):
                    self._slots.put(None)

    def _begins(self, job: Job) -> bool:
        """Whether this thread may begin the job now; one whose verdict or lease has become old is handed back."""
        now_s = boot_s()
        with self._lock:
            if job.state != "waiting":
                return False
            self.waiting.discard(job)
            if now_s - job.judged_s > BEGIN_WITHIN_S or now_s > job.lease_s:
                job.state = "handed_back"
            else:
                job.thread, job.begun_s, job.deadline_s = threading.get_ident(), now_s, now_s + job.row["timeout_s"]
                job.state = "running"
                return True
        self.outcomes.append((job, Outcome(job.held, "handed_back")))
        self._wake.set()
        return False

    def _execute(self, job: Job) -> bool:
        """Whether its handler keeps the slot: a job that was offered again is met twice, and takes one only once."""
        if job.state != "waiting":
            return False
        outcome, given_up, begun, me = None, False, False, threading.get_ident()
        try:
            try:
                if self._begins(job):
                    outcome = self._outcome(job)
            finally:
                # nobody raises here once the state is set, and no call comes before that; then it is taken back
                with self._lock:
                    begun = job.thread == me
                    if begun:
                        given_up, job.state = job.state == "over", "over"
                        if job.stopped_s is not None:
                            raise_in(job.thread, None)
        except Stopped:
            pass
        if begun:
            self._ended(job, outcome, given_up)
        return job.waits

    def _ended(self, job: Job, outcome: Outcome | None, given_up: bool) -> None:
        spent_s = job.spent_s = boot_s() - job.begun_s
        known_s = self.ewma_s
        # one long one among short ones may be this thread having waited for its turn: it counts for four
        self.ewma_s = spent_s if known_s is None else 0.9 * known_s + 0.1 * min(spent_s, 4 * known_s)
        if given_up:
            return
        self.outcomes.append((job, outcome or failed(job, job.why or "stopped", "the handler was stopped")))
        if not self._wake.is_set():
            self._wake.set()

    def _outcome(self, job: Job) -> Outcome | None:
        row = job.row
        if row["failures"] == 0 and row["fresh"] and row["origin"] == "schedule":
            job.late_s = max(0.0, (self._clock.now_us() - due_of(row["due_at"])[0]) / 1e6)
        try:
            run = run_of(row)
            run.hold = Hold(self, job)
            value = self._call(job, run)
            if value is not None and inspect.isawaitable(value):
                self._wait(job, value)
                return None
            return of_value(job, value)
        except BaseException as error:
            return of_error(job, error, boot_s() - job.begun_s)

    def _wait(self, job: Job, awaitable: Awaitable[Any]) -> None:
        """The handler goes on in the loop, unless it was stopped by now; its slot stays taken."""
        with self._lock:
            if job.stopped_s is None:
                self._loop = self._loop or Loop()
                job.thread, job.waits = 0, True
                job.child = self._loop.begin(awaitable, lambda task: self._waited(job, task))

    def _waited(self, job: Job, task: asyncio.Task[Any]) -> None:
        try:
            outcome = of_value(job, task.result())
        except BaseException as error:
            outcome = of_error(job, error, boot_s() - job.begun_s)
        with self._lock:
            given_up, job.state, job.child = job.state == "over", "over", None
        self._ended(job, outcome, given_up)
        self._slots.put(None)
