"""The whole life of tasks and runs against a small model, in stories that hypothesis makes up.

Clients, dispatchers and consumers act one after the other; consumers die and freeze, Redis forgets, time passes. The
model knows who holds which run until when, and which occurrences every schedule has; each step must do to the rows what
the model says and nothing else. STORIES=1000 tells so many, new ones each time; without it they are always the same.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from clockjack.ledger import claim, control, tasks
from clockjack.ledger.database import Database
from clockjack.queues import Queues
from deploy import servers
from tests.integration.agreement import check
from tests.integration.world import LIST, OVER, QUEUE, STAGED, Consumer, World, values, world

STORIES = int(os.environ.get("STORIES", "0"))
FIRST_LEASE, LEASE = timedelta(seconds=6), timedelta(seconds=20)
KEYS = st.sampled_from(["a", "b"])
SIDE = st.integers(0, 1)
SCHEDULES = st.sampled_from(["minute", "half", "once"])
POLICIES = st.fixed_dictionaries(
    {
        "misfire": st.sampled_from(["once", "skip", "all"]),
        "overlap": st.sampled_from(["allow", "skip", "queue_one", "replace"]),
        "max_failures": st.sampled_from([2, 5]),
        "pause_after_failures": st.sampled_from([None, None, 1]),
    }
)
CHANGES = st.sampled_from(
    ["register", "pause", "resume", "catch_up", "cancel", "minute", "half", "once", "work", "run_now", "run_now"]
)
# what a rule may do to a run: from state to state, "" is no row; (x, x) is always fine
ENDS_UNBEGUN = {("ready", "skipped"), ("ready", "cancelled")}
LAW: dict[str, set[tuple[str, str]]] = {
    "change": {("", "skipped"), ("", "cancelled")},
    "run_now": {("", "ready")},
    "claim": {("", "ready"), ("", "skipped"), ("skipped", "ready"), ("cancelled", "ready")},
    "consume": {("ready", "running"), ("running", "cancelled"), *ENDS_UNBEGUN},
    "write": {("running", "succeeded"), ("running", "failed"), ("running", "ready")},
    "look": {("running", "ready"), ("running", "failed")},
    "hand_back": {("running", "ready")},
    "nothing": set(),
}


@dataclass
class Span:
    """From `since` on (a moment in [since, known]) the task had this schedule; None: it was cancelled."""

    since: datetime
    known: datetime
    schedule: tuple[str, datetime | None] | None
    version: int


@dataclass
class Known:
    """What the model knows of a task."""

    id: int
    state: str = "active"
    spans: list[Span] = field(default_factory=list)

    def has(self, moment: datetime) -> bool:
        """Whether its schedule, as it is now, has this occurrence."""
        return self.spans[-1].schedule is not None and moment in occurrences(self.spans[-1].schedule, moment, moment)


@dataclass
class Hold:
    """A consumer has started this attempt of a run, and its lease lasts until then if nobody extends it."""

    consumer: Consumer
    attempt: int
    until: datetime


def occurrences(schedule: tuple[str, datetime | None], low: datetime, high: datetime) -> list[datetime]:
    """Those in [low, high]: by arithmetic, not by a library."""
    kind, at = schedule
    if at is not None:
        return [at] if low <= at <= high else []
    second = {"minute": 0, "half": 30}[kind]
    moment = low.replace(second=second, microsecond=0)
    found = []
    while moment <= high:
        if moment >= low:
            found.append(moment)
        moment += timedelta(minutes=1)
    return found


class Life(RuleBasedStateMachine):
    """A story. `act` says which law the rows are to be judged by."""

    def __init__(self, w: World) -> None:
        super().__init__()
        self.w, self.act = w, "nothing"
        self.tasks: dict[str, Known] = {}
        self.before: dict[int, dict[str, Any]] = {}
        self.holds: dict[int, Hold] = {}
        self.queued = self.staged = self.due = self.waking = False

    @initialize(kind=SCHEDULES, policies=POLICIES)
    def begin(self, kind: str, policies: dict[str, Any]) -> None:
        self.w.reset()
        self.register("a", kind, policies)

    def columns(self, kind: str) -> tuple[dict[str, Any], tuple[str, datetime | None]]:
        if kind == "once":
            at = (self.w.time.at + timedelta(seconds=12)).replace(microsecond=0)
            return {"run_at": at, "cron": None}, (kind, at)
        return {"run_at": None, "cron": "* * * * *" if kind == "minute" else "30 * * * * *"}, (kind, None)

    def rescheduled(self, known: Known, since: datetime, schedule: tuple[str, datetime | None] | None) -> None:
        if not known.spans or known.spans[-1].schedule != schedule:
            version = self.w.read("SELECT schedule_version AS v FROM tasks WHERE id = :i", i=known.id)[0]["v"]
            known.spans.append(Span(since, self.w.time.at, schedule, version))

    # clients

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        """Somebody does something that can be done now. One rule: of many, hypothesis leaves out some in each story."""
        name = data.draw(st.sampled_from(self.possible()))
        what = getattr(self, name)
        if name == "clients":
            what(*(data.draw(one) for one in (KEYS, CHANGES, SCHEDULES, POLICIES)))
        elif name == "time_passes":
            what(data.draw(st.sampled_from([0.3, 2.0, 5.0, 8.0, 25.0])))
        elif name == "handlers_end":
            what(data.draw(SIDE), data.draw(st.booleans()))
        elif name in ("claim", "release", "look", "consume", "handlers_begin", "beat", "hand_back", "dies"):
            what(data.draw(SIDE))
        else:
            what()

    def possible(self) -> list[str]:
        """What can be done; what leads on is there more often."""
        names = ["clients", "time_passes", "something_comes"]
        names += ["claim", "claim", "claim_and_die"] if self.due else ["something_comes"]
        names += ["release", "release", "hasty"] if self.staged else []
        names += ["consume"] * 4 if self.queued else []
        names += ["redis_forgets"] if self.queued or self.staged else []
        names += ["look"] * 3 if self.waking else []
        if self.holds:
            names += ["handlers_begin"] * 8 + ["beat", "hand_back", "dies"]
        if any(consumer.pool.running() or consumer.pool.outcomes for consumer in self.w.consumers):
            names += ["handlers_end"] * 8
        return names

    def clients(self, key: str, what: str, kind: str, policies: dict[str, Any]) -> None:
        if key not in self.tasks or what == "register":
            self.register(key, kind, policies)
        elif what == "run_now":
            self.run_now(key)
        else:
            self.change(key, what)

    def register(self, key: str, kind: str, policies: dict[str, Any]) -> None:
        self.act, since = "change", self.w.time.at
        columns, schedule = self.columns(kind)
        self.w.register(task_key=key, **policies, **{n: v for n, v in columns.items() if v is not None})
        if key not in self.tasks:
            self.tasks[key] = Known(self.w.read("SELECT id FROM tasks WHERE task_key = :k", k=key)[0]["id"])
        known = self.tasks[key]
        known.state = "active" if known.state == "cancelled" else known.state
        self.rescheduled(known, since, schedule)
        self.w.off.pop(known.id, None)

    def change(self, key: str, what: str) -> None:
        known, since = self.tasks[key], self.w.time.at
        self.act = "change"
        try:
            if what == "pause":
                self.w.change(control.pause, task_id=known.id)
                known.state, self.w.off[known.id] = "paused", ("paused", self.w.time.seconds())
            elif what in ("resume", "catch_up"):
                self.w.change(control.resume, task_id=known.id, catch_up=what == "catch_up")
                known.state = "active"
                self.w.off.pop(known.id, None)
            elif what == "cancel":
                self.w.change(control.cancel, task_id=known.id)
                known.state, self.w.off[known.id] = "cancelled", ("cancelled", self.w.time.seconds())
                self.rescheduled(known, since, None)
            elif what == "work":
                self.w.change(control.edit, values(payload=f'"{since}"'), task_id=known.id)
            else:
                columns, schedule = self.columns(what)
                self.w.change(control.edit, values(**columns), task_id=known.id)
                self.rescheduled(known, since, schedule)
        except tasks.StateConflict:
            assert known.state == "cancelled"

    def run_now(self, key: str) -> None:
        self.act = "run_now"
        if self.tasks[key].state != "cancelled":
            self.w.run_now(self.tasks[key].id)

    # time and disasters

    def time_passes(self, seconds: float) -> None:
        self.act = "nothing"
        self.w.on(seconds)

    def something_comes(self) -> None:
        """It is time for the next occurrence, or to claim it, or for the next look at a run."""
        self.act = "nothing"
        moments = [run["wake_at"] for run in self.before.values()] + [run["due_at"] for run in self.before.values()]
        for task in self.w.read("SELECT next_run_at FROM tasks WHERE next_run_at IS NOT NULL"):
            moments += [task["next_run_at"], task["next_run_at"] - timedelta(seconds=4)]
        if coming := [moment for moment in moments if moment is not None and moment > self.w.time.at]:
            self.w.on((min(coming) - self.w.time.at).total_seconds())

    def redis_forgets(self) -> None:
        self.act = "nothing"
        self.w.queues.redis.flushall()

    def dies(self, side: int) -> None:
        """A consumer is gone with all that it had in hand; another one comes in its place."""
        self.act = "nothing"
        name = ("w1", "w2")[side]
        setattr(self.w, name, Consumer(self.w, name))

    # dispatchers

    def claim(self, side: int) -> None:
        self.act = "claim"
        self.dispatcher(side).claim_step()

    def claim_and_die(self) -> None:
        """A dispatcher dies between its COMMIT and its push."""
        self.act = "claim"
        claim.claim(self.w.database, {})

    def release(self, side: int) -> None:
        self.act = "nothing"
        self.dispatcher(side).release_step()

    def hasty(self) -> None:
        """A dispatcher whose clock is ahead releases what is not due."""
        self.act = "nothing"
        self.w.queues.release([QUEUE], self.w.clock.now_us() + 5_000_000)

    def look(self, side: int) -> None:
        self.act = "look"
        self.dispatcher(side).look_step()

    # consumers

    def consume(self, side: int) -> None:
        """What is queued is popped and started, and what may start is what the model thinks may."""
        self.act, consumer = "consume", self.consumer(side)
        if consumer.pool.outcomes:
            return
        had = set(consumer.pool.jobs)
        consumer.pop()
        by_id = {known.id: known for known in self.tasks.values()}
        for job in [job for name, job in consumer.pool.jobs.items() if name not in had]:
            row, known = job.row, by_id[job.row["task_id"]]
            self.holds[row["id"]] = Hold(consumer, row["attempt"], self.w.time.at + FIRST_LEASE)
            assert known.state != "cancelled", "a run of a cancelled task has started"
            if row["origin"] == "schedule":
                assert known.state != "paused" or self.paused_by_itself(known), "a run of a paused task has started"
                assert not row["fresh"] or known.has(row["due_at"]), "a run of an old schedule has started"

    def handlers_begin(self, side: int) -> None:
        self.act = "nothing"
        self.consumer(side).pool.begin()

    def handlers_end(self, side: int, fails: bool) -> None:
        """What they said is written for the runs that are held, and refused for the others."""
        self.act, consumer = "write", self.consumer(side)
        jobs = consumer.pool.running()
        mine = {job: self.held_by(job.held.run_id, consumer, job.held.attempt) for job in jobs}
        for job in jobs:
            consumer.pool.end(job, fails)
        handed_back = {outcome.key for job, outcome in consumer.pool.outcomes if outcome.kind == "handed_back"}
        consumer.bell.clear()
        consumer.step()
        now = {run["id"]: run for run in self.w.runs()}
        for job, held in mine.items():
            run_id = job.held.run_id
            before, run = self.before[run_id], now[run_id]
            if not held:
                others = run_id in {one.held.run_id for one in mine if mine[one]} | {one for one, _ in handed_back}
                assert others or run["state"] == before["state"], "who holds nothing wrote an outcome"
                continue
            failures = before["failures"] + fails
            assert run["state"] in (("ready", "failed") if fails else ("succeeded",))
            assert run["failures"] == failures
            del self.holds[run_id]
        for run_id, attempt in handed_back:
            if self.held_by(run_id, consumer, attempt):
                del self.holds[run_id]

    def beat(self, side: int) -> None:
        self.act, consumer = "nothing", self.consumer(side)
        consumer.tick()
        begun = [job for job in consumer.pool.jobs.values() if job.state in ("running", "over")]
        consumer.beat()
        for job in begun:
            if self.held_by(job.held.run_id, consumer, job.held.attempt):
                self.holds[job.held.run_id].until = self.w.time.at + LEASE

    def hand_back(self, side: int) -> None:
        """A consumer that is told to stop gives back what has not begun; then it is told to go on."""
        self.act, consumer = "hand_back", self.consumer(side)
        if consumer.pool.outcomes:
            return
        consumer.stopping = True
        consumer.tick()
        back = [job for job, outcome in consumer.pool.outcomes]
        consumer.step()
        consumer.stopping = False
        for job in back:
            if self.held_by(job.held.run_id, consumer, job.held.attempt):
                del self.holds[job.held.run_id]

    # what holds after each step

    @invariant()
    def rows_follow_the_law(self) -> None:
        now = {run["id"]: run for run in self.w.runs()}
        assert set(self.before) <= set(now), "a row is gone"
        for run_id, run in now.items():
            before = self.before.get(run_id, {"state": "", "attempt": 0, "failures": 0, "first_started_at": None})
            step = before["state"], run["state"]
            if step[0] != step[1]:
                assert step in LAW[self.act], f"{self.act} made a run {step[1]} that was {step[0] or 'not there'}"
                if step[0] in OVER:
                    assert before["first_started_at"] is None, "what was over goes on"
            if self.act == "look" and step[0] == "running" and step[1] != "running":
                assert self.holds.pop(run_id).until <= self.w.time.at, "a lease was taken from its holder"
            if step == ("running", "cancelled"):
                self.holds.pop(run_id, None)
            assert run["attempt"] >= before["attempt"]
            assert run["failures"] - before["failures"] in ((0, 1) if self.act in ("write", "look") else (0,))
        assert {i for i, run in now.items() if run["state"] == "running"} == set(self.holds), "who holds what"
        self.w.compare([*now.values()])
        assert not self.w.troubles, self.w.troubles
        self.before, self.act = now, "nothing"
        self.queued, self.staged = bool(self.w.queues.redis.llen(LIST)), bool(self.w.queues.redis.zcard(STAGED))
        self.waking = any(run["wake_at"] and run["wake_at"] <= self.w.time.at for run in now.values())
        due = "SELECT id FROM tasks WHERE next_run_at <= UTC_TIMESTAMP(6) + INTERVAL 5 SECOND"
        self.due = bool(self.w.read(due))
        for known in self.tasks.values():
            if known.state == "active" and self.paused_by_itself(known):
                known.state = "paused"

    def teardown(self) -> None:
        """At the end all work until nothing is left, and every occurrence has its row."""
        if not self.tasks:
            return
        self.w.calm()
        troubles = check(self.w)
        assert not troubles, troubles
        runs = self.w.runs()
        open_since = {task["id"]: task["missed_since"] for task in self.w.read("SELECT id, missed_since FROM tasks")}
        for known in self.tasks.values():
            mine = [run for run in runs if run["task_id"] == known.id and run["origin"] == "schedule"]
            for span, after in zip(known.spans, [*known.spans[1:], None], strict=True):
                if span.schedule is None:
                    continue
                until = after.since if after else self.w.time.at - timedelta(seconds=1)
                for due in occurrences(span.schedule, span.known, until):
                    rows = [run for run in mine if covers(run, due, span.version, open_since[known.id])]
                    assert len(rows) == 1, f"{due} of {known} has {len(rows)} rows of {mine}"

    # who is who

    def dispatcher(self, side: int) -> Any:
        return (self.w.d1, self.w.d2)[side]

    def consumer(self, side: int) -> Consumer:
        return (self.w.w1, self.w.w2)[side]

    def held_by(self, run_id: int, consumer: Consumer, attempt: int) -> bool:
        hold = self.holds.get(run_id)
        return hold is not None and hold.consumer is consumer and hold.attempt == attempt

    def paused_by_itself(self, known: Known) -> bool:
        """After failures in a row."""
        row = self.w.read("SELECT state, error FROM tasks WHERE id = :i", i=known.id)[0]
        return row["state"] == "paused" and row["error"] is not None


def covers(run: dict[str, Any], due: datetime, version: int, open_since: datetime | None) -> bool:
    """The run's row is about this occurrence of the schedule of that version.

    A range is one of its own schedule's occurrences; that of a pause that is not over goes on.
    """
    if run["due_at"] == due:
        return True
    if run["schedule_version"] != version:
        return False
    until = run["skipped_until"]
    return run["due_at"] < due and (run["due_at"] == open_since if until is None else due < until)


@pytest.fixture
def there(users: dict[str, str], emptier: sa.Engine, redis_server: servers.Server) -> Iterator[World]:
    database = Database(users["stages"], size=4)
    with world(database, Queues(redis_server.url), emptier) as one:
        yield one
    database.close()


@pytest.mark.mysql
@pytest.mark.slow
@pytest.mark.timeout(3600 if STORIES else 120)
def test_life(there: World) -> None:
    run_state_machine_as_test(
        lambda: Life(there),
        settings=settings(
            max_examples=STORIES or 60,
            derandomize=not STORIES,
            stateful_step_count=50,
            deadline=None,
            database=None,
            print_blob=True,
            # a failure is told as it came; making it short takes minutes
            phases=[Phase.generate, Phase.shrink] if STORIES else [Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
