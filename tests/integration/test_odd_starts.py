"""Starts that did not go as usual: a lost COMMIT, wrong messages, a locked task, a batch that does not all begin."""

import os
import threading
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest

from clockjack.ledger import claim, control, runs
from clockjack.ledger.advance import Ready
from clockjack.ledger.database import Database, rows
from clockjack.ledger.runs import Popped
from clockjack.queues import Queues
from tests.integration.life import TOKEN, claim_all, insert, popped, run_of, sql, start, task
from tests.integration.test_consumer import Bench

pytestmark = pytest.mark.mysql
ASKING = {"overlap": "skip"}, {"max_lateness_s": 100}, {"pause_after_failures": 3}


@pytest.fixture
def bench(database: Database, queues: Queues) -> Iterator[Bench]:
    bench = Bench(database, queues)
    yield bench
    bench.engine.pool.close()


def test_a_lost_commit_is_found_for_runs_of_every_policy(database: Database) -> None:
    ids = [insert(database), *(insert(database, **policy) for policy in ASKING)]
    manual = insert(database, 3600)
    database.transaction(lambda c: control.run_now(c, "default", [manual], actor="test"))
    run = run_of(database, manual)
    ready = [*claim_all(database), Ready(run["id"], run["due_at"], 1, "default")]
    assert len(start(database, ready).execute) == 5
    sql(database, "UPDATE tasks SET state = 'cancelled' WHERE id = :i", i=ids[0])
    found = database.transaction(lambda c: runs.mine(c, popped(ready), TOKEN))
    assert sorted(r["task_id"] for r in found.execute) == sorted([*ids[1:], manual])
    assert [(r["task_id"], why) for r, why in found.not_run] == [(ids[0], "cancelled")]


def test_two_messages_of_one_run_keep_no_other_from_being_judged(database: Database) -> None:
    one = insert(database, max_lateness_s=100)
    (message,) = popped(claim_all(database))
    twice = [Popped(message.run_id, message.due_at, 2), message]
    started = database.transaction(lambda c: runs.start(c, twice, TOKEN, "w"))
    assert ([r["task_id"] for r in started.execute], started.refused) == ([one], 1)


def test_a_message_with_another_due_time_starts_nothing(database: Database) -> None:
    for ago in (3, 2, 1):
        insert(database, -ago)
    first, second, third = popped(claim_all(database))
    wrong = Popped(second.run_id, second.due_at + timedelta(milliseconds=300), 1)
    started = database.transaction(lambda c: runs.start(c, [first, wrong, third], TOKEN, "w"))
    assert [r["id"] for r in started.execute] == [first.run_id, third.run_id]


def test_a_locked_task_stalls_no_batch(database: Database) -> None:
    asks, other = insert(database, overlap="skip"), insert(database)
    ready = claim_all(database)

    def locked(connection: object) -> runs.Started:
        rows(connection, "SELECT id FROM tasks WHERE id = :i FOR UPDATE", i=asks)  # type: ignore[arg-type]
        return start(database, ready)

    started = database.transaction(locked, attempts=1)
    assert [r["task_id"] for r in started.execute] == [other]
    assert [why for _, why in started.not_run] == ["again"]
    assert run_of(database, asks)["state"] == "ready"


@pytest.mark.parametrize("policy", ["skip", "queue_one", "replace"])
def test_a_run_that_will_not_begin_is_in_nobodys_way(database: Database, policy: str) -> None:
    one = insert(database, None, every_s=1, overlap=policy, max_lateness_s=30, misfire="all")
    ready = [run for _ in range(3) for run in claim.claim(database, {}).ready][:2]
    while len(ready) < 2 or database.now() < ready[-1].due_at:
        ready = (ready + claim.claim(database, {}).ready)[:2]
        time.sleep(0.05)
    shift = "due_at = due_at - INTERVAL 60 SECOND"
    sql(database, f"UPDATE runs SET {shift} WHERE id = :i", i=ready[0].run_id)  # too late by now
    messages = [Popped(ready[0].run_id, ready[0].due_at - timedelta(seconds=60), 1, live_task_id=one)]
    messages += popped(ready[1:])
    started = database.transaction(lambda c: runs.start(c, messages, os.urandom(16), "w"))
    assert [why for _, why in started.not_run] == ["too_late"]
    assert [r["id"] for r in started.execute] == [ready[1].run_id]


def test_an_exception_without_a_text_ends_its_run_and_no_thread(bench: Bench) -> None:
    class Bad(Exception):
        def __str__(self) -> str:
            return self.args[0]  # type: ignore[no-any-return]

    def fail(run: object) -> None:
        raise Bad(42)

    bench.handle = fail
    ids = [bench.due(max_failures=1) for _ in range(8)]  # more than there are threads
    bench.until(lambda: all(bench.state(one) == "failed" for one in ids))


def test_what_waits_behind_a_slow_handler_is_begun_by_a_free_thread(bench: Bench) -> None:
    slow, release, begun = threading.Event(), threading.Event(), []

    def handle(run: object) -> None:
        begun.append(time.monotonic())
        if not slow.is_set():
            slow.set()
            release.wait(10)

    bench.handle = handle
    bench.engine.pool.ewma_s = 0.0001  # they have been short: one thread is handed many
    ids = [bench.due() for _ in range(20)]
    bench.until(lambda: len(begun) == len(ids), within_s=8)
    assert not release.is_set()
    release.set()
    bench.until(lambda: bench.engine.empty)
    assert all(run_of(bench.database, one)["attempt"] == 1 for one in ids)


def test_a_one_time_task_paused_when_it_was_claimed_still_runs_after_a_resume(database: Database) -> None:
    one = insert(database, max_runs=1)
    ready = claim_all(database)
    database.transaction(lambda c: control.pause(c, "default", one, actor="test"))
    assert start(database, ready).execute == []
    assert run_of(database, one)["reason"] == "paused"
    database.transaction(lambda c: control.resume(c, "default", one, actor="test"))
    (again,) = claim_all(database)
    assert [r["task_id"] for r in start(database, [again]).execute] == [one]
    assert task(database, one)["next_run_at"] is None


NAMES = [
    "plain",
    'say "no"',
    "back\\slash",
    "tab\tnew\nline",
    "nul\x00bell\x07del\x7f",
    "ümlaut €",
    "🕰️",
    "','\x1f",
    "\\u0041",
]


def test_names_of_any_characters_reach_their_handler_as_they_are(database: Database) -> None:
    """They come through the server's own JSON_QUOTE."""
    ids = [insert(database, name=name, handler=f"h {name}", namespace=f"n {name}") for name in NAMES]
    found = {run["task_id"]: run for run in start(database, claim_all(database)).execute}
    for task_id, name in zip(ids, NAMES, strict=True):
        run = found[task_id]
        assert (run["name"], run["handler"], run["namespace"]) == (name, f"h {name}", f"n {name}")


def test_a_head_that_is_no_json_is_read_by_its_columns(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = insert(database), insert(database)
    monkeypatch.setattr(runs, "PLAIN", runs.PLAIN.replace("JSON_QUOTE(t.handler)", "'no json'"))
    assert [run["task_id"] for run in start(database, claim_all(database)).execute] == [one, other]
