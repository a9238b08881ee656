"""Every writer at once for a few seconds: no deadlock, no lock-wait time-out, and every run once."""

import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from clockjack.ledger import aftermath, claim, control, runs, tasks, wake
from clockjack.ledger.advance import Ready
from clockjack.ledger.database import Database
from clockjack.ledger.finish import Outcome, finish
from tests.integration.life import deadlocks, held, latest_deadlock, popped, select, sql

pytestmark = [pytest.mark.mysql, pytest.mark.xdist_group("heavy")]
SECONDS = 4.0


class Load:
    """Threads that claim, start (each message twice), beat, finish, look again, edit and register, until `over`."""

    def __init__(self, url: str, overlaps: tuple[str, ...]) -> None:
        self.url, self.over, self.overlaps = url, threading.Event(), overlaps
        self.messages: list[Ready] = []
        self.executed: list[tuple[int, int]] = []
        self.errors: list[BaseException] = []
        self.lock = threading.Lock()

    def loop(self, step: Callable[[Database], Any]) -> threading.Thread:
        def work() -> None:
            database = Database(self.url, size=1)
            while not self.over.is_set():
                try:
                    step(database)
                except BaseException as error:
                    self.errors.append(error)
                    return

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread

    def register(self, database: Database) -> None:
        database.transaction(
            lambda c: tasks.register(
                c,
                "default",
                {
                    "handler": "mock",
                    "queue": "default",
                    "payload": "null",
                    "every_s": 1,
                    "timezone": "UTC",
                    "max_runs": 3,
                    "timeout_s": 60,
                    "max_failures": 9,
                    "backoff_s": 0,
                    "backoff_max_s": 0,
                    "overlap": self.overlap(),
                    "pause_after_failures": random.choice([None, 2]),
                },
                actor="test",
            )
        )
        sql(database, "INSERT INTO tasks (handler, run_at) VALUES ('mock', UTC_TIMESTAMP(6)), ('mock', NOW(6))")

    def overlap(self) -> str:
        return random.choice(self.overlaps)

    def claim(self, database: Database) -> None:
        ready = claim.claim(database, {}, 100).ready
        with self.lock:
            self.messages += ready * 2  # everything is delivered twice

    def look(self, database: Database) -> None:
        ready, _, _ = wake.look_again(database, {}, 100)
        with self.lock:
            self.messages += ready

    def consume(self, database: Database) -> None:
        with self.lock:
            random.shuffle(self.messages)
            batch, self.messages[:50] = self.messages[:50], []
        if not batch:
            time.sleep(0.005)
            return
        token, before = os.urandom(16), getattr(self.own, "held", [])

        def body(connection: Any) -> runs.Started:
            started = runs.start(connection, popped(batch), token, "test")
            if before:
                half = len(before) // 2
                ended = [Outcome(h, "succeeded") for h in before[:half]]
                ended += [Outcome(h, "failed", error="x", retry_in_s=random.choice([0.0, None])) for h in before[half:]]
                refused = finish(connection, ended).refused
                over[:] = [(rows_of[e.key], e.kind != "succeeded") for e in ended if e.key not in refused]
            return started

        rows_of, over = getattr(self.own, "rows", {}), []
        started = database.transaction(body)
        aftermath.settle(database, [one for one in over if aftermath.asks(one[0])])
        self.own.rows = {(run["id"], run["attempt"]): run for run in started.execute}
        self.own.held = held(started)
        with self.lock:
            self.executed += [(h.run_id, h.attempt) for h in self.own.held]
        if self.own.held:
            database.transaction(lambda c: runs.heartbeat(c, self.own.held))
        if len(self.own.held) > 4:
            database.transaction(lambda c: runs.hand_back(c, self.own.held[-1:]))

    own = threading.local()

    def control(self, database: Database) -> None:
        some = [r["id"] for r in select(database, "SELECT id FROM tasks ORDER BY id DESC LIMIT 20")]
        for i in some[:3]:
            database.transaction(lambda c, i=i: control.pause(c, "default", i, actor="test"))
            database.transaction(lambda c, i=i: control.resume(c, "default", i, actor="test"))
        if some:
            database.transaction(lambda c: control.run_now(c, "default", some[:5], actor="test"))
            for i in some[3:6]:
                database.transaction(lambda c, i=i: self.edit(c, i))
        if some[6:]:  # none of those above, also next time: registering may be slower than this
            database.transaction(lambda c: control.cancel(c, "default", some[-1], actor="test"))

    def edit(self, connection: Any, task_id: int) -> None:
        row = tasks.get(connection, "default", task_id, lock=True)
        if row and row["state"] == "active" and row["every_s"]:
            tasks.edit(connection, row, {"overlap": self.overlap(), "every_s": random.choice([1, 2])}, actor="test")

    def watch(self, database: Database) -> None:
        """Two runs of a task that must not overlap have never begun at the same time."""
        found = select(
            database,
            "SELECT live_task_id FROM runs WHERE live_task_id IS NOT NULL AND origin = 'schedule' AND state = 'running'"
            " GROUP BY live_task_id HAVING COUNT(*) > 1",
        )
        assert "allow" in self.overlaps or not found, f"runs of {found} overlap"
        time.sleep(0.02)


@pytest.mark.parametrize(
    "overlaps",
    [("allow",), ("skip",), ("queue_one",), ("replace",), ("allow", "skip", "queue_one", "replace")],
    ids=lambda overlaps: overlaps[0] if len(overlaps) == 1 else "each",
)
def test_all_writers_at_once(database: Database, database_url: str, overlaps: tuple[str, ...]) -> None:
    before = deadlocks(database)
    load = Load(database_url, overlaps)
    steps = [load.register, load.claim, load.claim, load.look, load.look, load.control, load.watch, *[load.consume] * 4]
    threads = [load.loop(step) for step in steps]
    time.sleep(SECONDS)
    load.over.set()
    for thread in threads:
        thread.join(10)
    assert load.errors == [], latest_deadlock(database)
    assert deadlocks(database) == before, latest_deadlock(database)
    assert len(load.executed) == len(set(load.executed)) > 50, "an attempt was started twice"
    if overlaps != ("allow",):
        live = select(database, "SELECT COUNT(*) AS n FROM runs WHERE live_task_id IS NOT NULL AND wake_at IS NULL")
        assert live == [{"n": 0}]
    twice = select(database, "SELECT task_id, due_at FROM runs GROUP BY task_id, due_at HAVING COUNT(*) > 1")
    assert twice == []
