"""Every writer at once for a few seconds: no deadlock, no lock-wait time-out, and every run once."""

import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from clockjack.ledger import claim, control, runs, tasks, wake
from clockjack.ledger.advance import Ready
from clockjack.ledger.database import Database
from clockjack.ledger.finish import Outcome, finish
from tests.integration.life import held, popped, select, sql

pytestmark = pytest.mark.mysql
SECONDS = 4.0


def deadlocks(database: Database) -> int:
    found = select(database, "SHOW GLOBAL STATUS LIKE 'Innodb_deadlocks'")  # MariaDB
    if not found:
        found = select(
            database,
            "SELECT name AS Variable_name, count AS Value FROM information_schema.innodb_metrics"
            " WHERE name = 'lock_deadlocks'",
        )
    return int(found[0]["Value"])


class Load:
    """Threads that claim, start (each message twice), beat, finish, look again, edit and register, until `over`."""

    def __init__(self, url: str) -> None:
        self.url, self.over = url, threading.Event()
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
                },
                actor="test",
            )
        )
        sql(database, "INSERT INTO tasks (handler, run_at) VALUES ('mock', UTC_TIMESTAMP(6)), ('mock', NOW(6))")

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
                ended += [Outcome(h, "failed", error="x", retry_in_s=0.0) for h in before[half:]]
                finish(connection, ended)
            return started

        started = database.transaction(body)
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
            database.transaction(lambda c: control.cancel(c, "default", some[-1], actor="test"))


def test_all_writers_at_once(database: Database, database_url: str) -> None:
    before = deadlocks(database)
    load = Load(database_url)
    steps = [load.register, load.claim, load.claim, load.look, load.look, load.control, *[load.consume] * 4]
    threads = [load.loop(step) for step in steps]
    time.sleep(SECONDS)
    load.over.set()
    for thread in threads:
        thread.join(10)
    assert load.errors == []
    assert deadlocks(database) == before
    assert len(load.executed) == len(set(load.executed)) > 200, "an attempt was started twice"
    twice = select(database, "SELECT task_id, due_at FROM runs GROUP BY task_id, due_at HAVING COUNT(*) > 1")
    assert twice == []
