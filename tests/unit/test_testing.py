"""`clockjack.testing`: what users' own tests see of schedules, retries, policies and control, without any server."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any, get_type_hints

import pytest
import sqlalchemy as sa

from clockjack import AsyncClient, Client, ClientError, Discard, Fail, Retry, Run, Snooze, handler
from clockjack.answers import Task, TaskRun
from clockjack.handlers import registry
from clockjack.simulation import simulate
from clockjack.testing import Clockwork

NEW_YEAR = datetime(2030, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.fixture
def clock() -> Clockwork:
    return Clockwork(NEW_YEAR, handlers={"ok": lambda run: run.payload})


@pytest.fixture
def _declared() -> Iterator[None]:
    before = dict(registry)
    yield
    registry.clear()
    registry.update(before)


def begun(clock: Clockwork) -> list[float]:
    return [(a.started_at - NEW_YEAR).total_seconds() for a in clock.attempts]


def test_a_task_runs_at_its_time_and_not_before(clock: Clockwork) -> None:
    task = clock.schedule("ok", {"a": [1]}, in_s=3600, name="n")
    assert clock.advance(3599.9) == []
    clock.assert_not_ran("ok")
    [ran] = clock.advance(0.1)
    assert (ran.due_at, ran.started_at, ran.lateness_s) == (NEW_YEAR + 3600 * SECOND, NEW_YEAR + 3600 * SECOND, 0.0)
    assert (ran.payload, ran.result, ran.outcome, ran.attempt) == ({"a": [1]}, {"a": [1]}, "succeeded", 1)
    assert clock.now == NEW_YEAR + 3600 * SECOND
    [run] = clock.runs(task["id"])
    assert (run["state"], run["run_key"], run["lateness_ms"]) == ("succeeded", ran.run_key, 0.0)
    assert run["result"] == {"a": [1]}
    assert clock.get(task["id"])["next_run_at"] is None
    assert clock.run_next() is None


def test_a_handler_gets_what_production_gives_it(clock: Clockwork) -> None:
    seen: list[Run] = []
    clock = Clockwork(NEW_YEAR, handlers={"see": seen.append}, namespace="shop")
    task = clock.schedule("see", {"a": 1}, in_s=5, name="n", timeout_s=7)
    clock.advance(10)
    due = NEW_YEAR + 5 * SECOND
    key = f"{task['id']}-{int(due.timestamp()) * 1_000_000}"
    assert seen == [Run(1, key, task["id"], "shop", "n", "see", {"a": 1}, due, 1, 0, 7)]


@pytest.mark.usefixtures("_declared")
def test_registered_handlers_are_called_and_coroutines_awaited() -> None:
    @handler("plain")
    def plain(run: Run) -> str:
        return "plain"

    @handler("later")
    async def later(run: Run) -> str:
        await asyncio.sleep(0)
        return "later"

    def both(clock: Clockwork) -> list[Any]:
        clock.schedule("later", in_s=2)
        clock.schedule("plain", in_s=1)
        return [ran.result for ran in clock.advance(2)]

    async def on_a_loop() -> list[Any]:
        return both(Clockwork())

    assert both(Clockwork()) == asyncio.run(on_a_loop()) == ["plain", "later"]


def test_occurrences_follow_the_schedule_through_a_change_of_clocks() -> None:
    clock = Clockwork(datetime(2027, 3, 27, tzinfo=UTC), handlers={"ok": lambda run: None})
    clock.schedule("ok", cron="30 2 * * *", timezone="Europe/Berlin")
    clock.schedule("ok", rrule="FREQ=DAILY;BYHOUR=12;BYMINUTE=0;BYSECOND=0", exclude=[date(2027, 3, 28)])
    clock.advance(3 * 86_400)
    assert [f"{a.started_at:%d %H:%M}" for a in clock.attempts] == [
        "27 01:30", "27 12:00", "28 01:00", "29 00:30", "29 12:00",
    ]  # fmt: skip


def test_a_failure_is_tried_again_after_a_pause_until_the_budget_is_used_up() -> None:
    def fail(run: Run) -> None:
        raise ValueError(f"attempt {run.attempt}")

    def played(seed: int) -> Clockwork:
        clock = Clockwork(NEW_YEAR, handlers={"fail": fail}, seed=seed)
        clock.schedule("fail", in_s=0, max_failures=4, backoff_s=10, backoff_max_s=30)
        clock.advance(3600)
        return clock

    clock = played(1)
    times = begun(clock)
    assert len(times) == 4
    for i, most in enumerate((10, 20, 30)):
        assert 0 < times[i + 1] - times[i] <= most
        assert clock.attempts[i].retry_at == clock.attempts[i + 1].started_at
    [run] = clock.runs(1)
    assert (run["state"], run["reason"], run["attempt"], run["failures"]) == ("failed", "failed", 4, 4)
    assert run["error"] == clock.attempts[3].error == "ValueError: attempt 4"
    assert (clock.attempts[3].retry_at, type(clock.attempts[3].raised)) == (None, ValueError)
    assert begun(played(1)) == times != begun(played(2))


def test_a_retry_that_succeeds_ends_it(clock: Clockwork) -> None:
    calls: list[Run] = []

    def once(run: Run) -> str:
        calls.append(run)
        if run.attempt == 1:
            raise OSError("not yet")
        return "done"

    clock = Clockwork(NEW_YEAR, handlers={"once": once})
    clock.schedule("once", in_s=1)
    clock.advance(60)
    assert [(run.attempt, run.failures, run.key) for run in calls] == [(1, 0, calls[0].key), (2, 1, calls[0].key)]
    assert [a.outcome for a in clock.ran("once")] == ["failed", "succeeded"]
    assert next(clock.runs(1))["error"] is None


def test_what_takes_longer_than_its_timeout_is_a_timeout(clock: Clockwork) -> None:
    clock.takes("ok", 61)
    clock.schedule("ok", in_s=0, max_failures=2, backoff_s=0)
    clock.advance(59.9)
    assert next(clock.runs(1))["state"] == "running"
    clock.advance(100)
    assert [(a.outcome, a.error) for a in clock.attempts] == [("timeout", "TimeoutError: stopped after 60.0 s")] * 2
    assert begun(clock) == [0.0, 60.0]
    assert (next(clock.runs(1))["state"], next(clock.runs(1))["reason"]) == ("failed", "timeout")


@pytest.mark.parametrize("how", ["raised", "returned"])
def test_endings_are_those_of_consumers(how: str) -> None:
    def end(run: Run) -> Any:
        first, ending = (
            run.attempt == 1,
            {"retry": Retry(30), "snooze": Snooze(600), "no": Discard("gone"), "bad": Fail("x")},
        )
        if first and how == "raised":
            raise ending[run.payload]
        return ending[run.payload] if first else None

    clock = Clockwork(NEW_YEAR, handlers={"end": end})
    for word in ("retry", "snooze", "no", "bad"):
        clock.schedule("end", word, in_s=0)
    clock.advance(600)
    told = [(a.payload, a.outcome, a.error, a.attempt) for a in clock.attempts]
    assert told == [
        ("retry", "failed", "Retry", 1), ("snooze", "snoozed", "Snooze", 1), ("no", "discarded", "Discard: gone", 1),
        ("bad", "failed", "Fail: x", 1), ("retry", "succeeded", None, 2), ("snooze", "succeeded", None, 2),
    ]  # fmt: skip
    assert begun(clock)[4:] == [30.0, 600.0]
    ends = [next(clock.runs(i)) for i in (1, 2, 3, 4)]
    assert [(run["state"], run["reason"], run["failures"]) for run in ends] == [
        ("succeeded", None, 1), ("succeeded", None, 0), ("cancelled", "discarded", 0), ("failed", "failed", 1),
    ]  # fmt: skip


def test_progress_payloads_by_signature_and_transactions() -> None:
    engine = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE counted (n INT)")

    def count(run: Run, n: int) -> None:
        run.heartbeat({"done": 1})
        assert not run.cancelled
        with run.transaction() as connection:
            connection.exec_driver_sql(f"INSERT INTO counted VALUES ({n})")
            if run.attempt == 1:
                raise OSError("not yet")
        raise ValueError("too late to fail")

    clock = Clockwork(NEW_YEAR, handlers={"count": count}, engine=engine)
    clock.schedule("count", {"n": 7}, in_s=0, backoff_s=1)
    clock.schedule("count", {"n": "many"}, in_s=10)
    clock.advance(60)
    assert [(a.outcome, a.progress) for a in clock.attempts] == [
        ("failed", {"done": 1}), ("succeeded", {"done": 1}), ("failed", None),
    ]  # fmt: skip
    assert str(clock.attempts[2].error).startswith("InvalidPayload")
    assert next(clock.runs(1))["progress"] == {"done": 1}
    assert set(next(clock.runs(1))) == set(get_type_hints(TaskRun)) - {"attempts"}
    assert set(clock.get(1)) == set(get_type_hints(Task)) - {"warnings"}
    with engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT n FROM counted").scalars().all() == [7]
    clock = Clockwork(NEW_YEAR, handlers={"count": count})
    clock.schedule("count", {"n": 7}, in_s=0, max_failures=1)
    clock.advance(1)
    assert "engine" in str(clock.attempts[0].error)


def test_unknown_handlers_and_results_that_cannot_be_stored_fail(clock: Clockwork) -> None:
    clock = Clockwork(handlers={"big": lambda run: "x" * 20_000, "odd": lambda run: object()})
    for name in ("big", "odd", "nobody"):
        clock.schedule(name, in_s=0, max_failures=1)
    clock.advance(1)
    words = [a.error for a in clock.attempts]
    assert [word.split(":")[0] for word in words if word] == ["ValueError", "TypeError", "UnknownHandler"]


@pytest.mark.parametrize("policies", [
    {"misfire": "once"}, {"misfire": "skip"}, {"misfire": "all"}, {"misfire": "all", "max_misfires": 2},
    {"misfire": "all", "max_lateness_s": 30}, {"misfire": "all", "overlap": "skip"}, {"overlap": "queue_one"},
    {"misfire": "all", "overlap": "replace"}, {"max_runs": 4},
])  # fmt: skip
def test_an_outage_is_what_the_simulation_says(policies: dict[str, Any], clock: Clockwork) -> None:
    clock.takes("ok", 13)
    clock.schedule("ok", cron="*/10 * * * * *", **policies)
    row = dict(clock._stages[1].task)
    clock.advance(17)
    clock.outage(60)
    clock.advance(73)
    begin = NEW_YEAR.replace(tzinfo=None)
    out = [(begin + 17 * SECOND, begin + 77 * SECOND)]
    fates = simulate(row, begin, begin + 150 * SECOND, outages=out, lasts=13 * SECOND)

    def settled(found: Any) -> list[Any]:  # the last ones may wait yet
        edge = begin + 130 * SECOND
        return sorted((str(f.due_at), str(f.starts_at), f.reason, str(f.until)) for f in found if f.due_at < edge)

    assert settled(clock._stages[1].fates) == settled(fates)
    assert len(settled(fates)) > 3


def test_a_task_key_is_one_task(clock: Clockwork) -> None:
    first = clock.schedule("ok", 1, every_s=60, task_key="k")
    clock.advance(30)
    same = clock.schedule("ok", 2, every_s=60, task_key="k")
    assert (same["id"], same["next_run_at"], same["payload"]) == (first["id"], first["next_run_at"], 2)
    clock.schedule("ok", 3, every_s=20, task_key="k")
    clock.advance(30)
    assert begun(clock) == [40.0, 60.0]  # counted from when it was made
    assert {a.payload for a in clock.attempts} == {3}
    assert len(list(clock.tasks())) == 1
    assert clock.schedule("ok", in_s=5, idempotency_key="i") == clock.schedule("ok", in_s=5, idempotency_key="i")
    assert len(list(clock.tasks(handler="ok", state="active"))) == 2
    assert [t["id"] for t in clock.tasks(task_key="k")] == [first["id"]]


def test_pause_resume_and_what_the_pause_missed(clock: Clockwork) -> None:
    task = clock.schedule("ok", every_s=10)["id"]
    clock.advance(12)
    assert clock.pause(task)["state"] == "paused"
    assert clock.advance(30) == []
    [skipped] = [run for run in clock.runs(task) if run["reason"] == "paused"]
    assert skipped["skipped_until"] is None
    clock.resume(task)
    assert [r["skipped_until"] for r in clock.runs(task) if r["reason"] == "paused"] == ["2030-01-01T00:00:50.000000Z"]
    assert skipped["due_at"] == "2030-01-01T00:00:20.000000Z"
    clock.advance(10)
    assert begun(clock) == [10.0, 50.0]
    clock.pause(task)
    clock.advance(20)
    clock.resume(task, catch_up=True)
    assert len(clock.advance(1)) == 2
    assert [run["due_at"] for run in clock.runs(task)].count("2030-01-01T00:01:00.000000Z") == 1


def test_what_is_off_is_off(clock: Clockwork) -> None:
    for off in ("pause", "cancel"):
        task = clock.schedule("ok", in_s=3)["id"]  # claimed by now, 5 s ahead
        clock.advance(1)
        getattr(clock, off)(task)
        assert clock.advance(10) == []
        assert [run["state"] for run in clock.runs(task)] == [{"pause": "skipped", "cancel": "cancelled"}[off]]
    moved = clock.schedule("ok", in_s=3)
    clock.advance(1)
    clock.edit(moved["id"], in_s=60, if_version=moved["version"])
    assert [a.due_at for a in clock.advance(100)] == [clock.now - 40 * SECOND]
    with pytest.raises(ClientError, match="412"):
        clock.edit(moved["id"], name="n", if_version=moved["version"])


def test_run_now_runs_once_more_and_also_while_paused(clock: Clockwork) -> None:
    task = clock.schedule("ok", in_s=3600)["id"]
    clock.pause(task)
    run = clock.run_now(task)
    assert (run["state"], run["origin"]) == ("ready", "manual")
    ran = clock.run_next()
    assert ran is not None
    assert ran.started_at == NEW_YEAR
    assert clock.run(run["id"])["attempt"] == 1
    clock.advance(1)
    assert clock.run(run["id"])["state"] == "succeeded"
    clock.cancel(task)
    with pytest.raises(ClientError, match="409"):
        clock.run_now(task)


def test_a_task_that_keeps_failing_is_paused() -> None:
    def fail(run: Run) -> None:
        raise ValueError

    clock = Clockwork(NEW_YEAR, handlers={"fail": fail})
    task = clock.schedule("fail", every_s=60, max_failures=2, backoff_s=1, pause_after_failures=2)["id"]
    clock.advance(600)
    assert len(clock.attempts) == 4
    assert (clock.get(task)["state"], clock.get(task)["error"]) == ("paused", "paused by itself: 2 failures in a row")


def test_what_the_api_would_refuse_is_refused_in_its_words(clock: Clockwork) -> None:
    with pytest.raises(ClientError) as caught:
        clock.schedule("ok", cron="61 * * * *")
    assert (caught.value.status, caught.value.code) == (422, "invalid-fields")
    assert caught.value.errors[0]["pointer"] == "#/cron"
    for wrong in ({}, {"every_s": 60, "in_s": 1}, {"in_s": 1, "colour": "red"}, {"cron": "H H 30 2 *"}):
        with pytest.raises(ClientError, match="422"):
            clock.schedule("ok", **wrong)
    with pytest.raises(ValueError, match="zone"):
        clock.schedule("ok", run_at=datetime(2030, 1, 1))
    with pytest.raises(ValueError, match="zone"):
        clock.run_until(datetime(2031, 1, 1))
    with pytest.raises(ValueError, match="back"):
        clock.advance(-1)
    for lookup in (clock.get, clock.pause, clock.run, lambda i: list(clock.runs(i))):
        with pytest.raises(ClientError, match="404"):
            lookup(99)


def test_handlers_may_schedule_and_the_order_is_that_of_the_starts() -> None:
    clock = Clockwork(NEW_YEAR)

    def chain(run: Run) -> None:
        if run.payload < 3:
            clock.schedule("chain", run.payload + 1, in_s=10)

    clock._handlers["chain"] = chain
    clock.schedule("chain", 1, in_s=10)
    clock.schedule("chain", 9, in_s=15)
    clock.advance(60)
    assert [(a.payload, t) for a, t in zip(clock.attempts, begun(clock), strict=True)] == [
        (1, 10.0), (9, 15.0), (2, 20.0), (3, 30.0),
    ]  # fmt: skip


def test_assertions_say_what_was_there_instead(clock: Clockwork) -> None:
    clock.schedule("ok", {"n": 1}, in_s=10)
    later = clock.schedule("ok", {"n": 2}, in_s=20)
    assert clock.assert_scheduled("ok")["payload"] == {"n": 1}
    assert clock.assert_scheduled("ok", at=NEW_YEAR + 20 * SECOND, payload={"n": 2})["id"] == later["id"]
    with pytest.raises(AssertionError, match="due: 2030-01-01T00:00:10"):
        clock.assert_scheduled("ok", at=NEW_YEAR)
    clock.advance(10)
    assert len(clock.assert_ran("ok", payload={"n": 1}, times=1)) == 1
    with pytest.raises(AssertionError, match="ran 1 times, not 2 times; attempts: 2030-01-01T00:00:10Z ok"):
        clock.assert_ran("ok", times=2)
    with pytest.raises(AssertionError, match="ran 0 times, not at least once"):
        clock.assert_ran("ok", payload={"n": 3})


@pytest.mark.usefixtures("_declared")
def test_it_stands_in_for_a_client_and_what_that_declared(clock: Clockwork) -> None:
    client = Client()

    @client.task("mail", queue="mail")
    def mail(run: Run) -> Any:
        return run.payload

    with clock.replaces(client) as same:
        assert same is clock
        task = mail.delay({"to": "a"}, in_s=60)
        client.schedule("ok", run_at=NEW_YEAR + 90 * SECOND)
        assert [t["handler"] for t in client.tasks()] == ["ok", "mail"]
        assert client.get(task["id"])["queue"] == "mail"
        clock.advance(60)
        assert [r["state"] for r in client.runs(task["id"])] == ["succeeded"]
    clock.assert_ran("mail", payload={"to": "a"}, times=1)
    assert client.schedule.__name__ == "schedule"
    assert "schedule" not in client.__dict__


def test_it_stands_in_for_an_asynchronous_client(clock: Clockwork) -> None:
    client = AsyncClient()

    async def body() -> None:
        task = await client.schedule("ok", in_s=5)
        clock.advance(5)
        assert [r["state"] async for r in client.runs(task["id"])] == ["succeeded"]
        assert (await client.cancel(task["id"]))["state"] == "cancelled"

    with clock.replaces(client):
        asyncio.run(body())
