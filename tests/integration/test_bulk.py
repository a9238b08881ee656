"""Control of all tasks that match: the same as of each one alone, page by page, by every door."""

import threading
from datetime import datetime, timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from clockjack import changes
from clockjack.ledger import acceptance, bulk, control
from clockjack.ledger import database as ledger
from clockjack.ledger.acceptance import Ticket
from clockjack.ledger.bulk import Done, Order
from clockjack.ledger.database import Database, UnknownCommit
from clockjack.ledger.tasks import StateConflict
from clockjack.registration import Refused
from tests.integration.life import claim_all, deadlocks, insert, latest_deadlock, run_of, select, sql, task
from tests.integration.test_cli import Shell, environment, shell  # noqa: F401
from tests.integration.test_client import client, producer  # noqa: F401
from tests.integration.test_http import assert_problem

HOUR = timedelta(hours=1)
TIMES = ("updated_at", "created_at")


def order(action: str, actor: str = "test", **parts: Any) -> Order:
    sent = {"action": action, **parts}
    if "filter" not in parts:
        sent["all"] = True
    return changes.order(changes.Bulk.model_validate(sent), "default", actor)


def carry_out(database: Database, action: str, *, dry_run: bool = False, **parts: Any) -> Done:
    return bulk.carry_out(database, order(action, **parts), dry_run=dry_run)


def throughout(database: Database, action: str) -> int:
    """How many matched, in as many requests as it takes: one on a busy machine leaves the rest to the next."""
    matched, after = 0, 0
    while after is not None:
        done = bulk.carry_out(database, order(action), after=after)
        matched, after = matched + done.matched, done.after
    return matched


def kinds_of_tasks(database: Database, queue: str, now: datetime) -> list[int]:
    """One task of each kind that control treats in its own way."""
    past = (now - HOUR).replace(microsecond=0)

    def add(**columns: Any) -> int:
        return insert(
            database, None, **{"next_run_at": columns.get("run_at", past + 3 * HOUR), "created_at": past} | columns
        )

    seen = {"version": 3, "seen_state": "active", "seen_schedule_version": 1, "queue": queue}
    paused = seen | {"state": "paused", "seen_state": "paused"}
    ids = [
        add(every_s=3600, **seen),
        add(cron="0 5 * * *", timezone="Europe/Berlin", next_run_at=None, **paused),
        add(cron="0 5 1 1 *", missed_since=past, next_run_at=None, **paused),
        add(run_at=past, missed_since=past, next_run_at=None, **paused),
        add(run_at=past + 9 * HOUR, **paused),
        add(every_s=3600, end_at=past + HOUR / 2, next_run_at=None, **paused),
        add(cron="H H * * *", jitter_s=100, next_run_at=None, **paused),
        add(every_s=3600, **(seen | {"state": "cancelled", "seen_state": "cancelled"})),
        add(cron="61 * * * *", error="cron", **(seen | {"state": "invalid", "seen_state": "invalid"})),
        add(cron="1 1 1 1 *", error="old", **(seen | {"state": "invalid", "seen_state": "invalid"})),
        add(cron="1 1 1 1 *", queue=queue),  # plain SQL, seen by nobody
        add(cron="1 1 1 1 *", state="paused", queue=queue),
        add(cron="1 1 1 1 *", **(seen | {"state": "paused"})),  # paused by plain SQL
        add(cron="1 1 1 1 *", missed_since=past, **(paused | {"state": "active"})),  # resumed so
        add(cron="1 1 1 1 *", **(seen | {"schedule_version": 5, "state": "cancelled"})),
        add(cron="1 1 1 1 *", **(seen | {"schedule_version": 5})),
    ]
    for task_id in ids:
        if since := task(database, task_id)["missed_since"]:
            sql(
                database,
                "INSERT INTO runs (task_id, due_at, schedule_version, queue, state, finished_at, reason)"
                " VALUES (:t, :d, 1, 'q', 'skipped', UTC_TIMESTAMP(6), 'paused')",
                t=task_id,
                d=since,
            )
    return ids


def state_of(database: Database, task_id: int) -> dict[str, Any]:
    """All that control may have written, without what depends on the moment or the id."""
    row = task(database, task_id)
    seeded = row["jitter_s"] > 0
    runs = select(database, "SELECT * FROM runs WHERE task_id = :t ORDER BY due_at", t=task_id)
    events = select(database, "SELECT * FROM task_events WHERE task_id = :t ORDER BY id", t=task_id)
    ends = [
        run["skipped_until"] if run["skipped_until"] in (None, row["next_run_at"]) else "now"
        for run in runs
        if run["state"] == "skipped"
    ]
    return {
        "task": {
            n: v for n, v in row.items() if n not in ("id", "queue", *TIMES, *(["next_run_at"] if seeded else []))
        },
        "ends": ends,
        "runs": [(r["state"], r["origin"], r["task_version"], r["schedule_version"]) for r in runs],
        "events": [(e["actor"], e["action"], e["version"], e["schedule_version"], e["detail"]) for e in events],
    }


@pytest.mark.mysql
@pytest.mark.parametrize("action", ["pause", "resume", "resume, catch up", "cancel", "run", "edit"])
def test_the_same_as_one_by_one(database: Database, action: str) -> None:
    now = database.now()
    alone, together = kinds_of_tasks(database, "alone", now), kinds_of_tasks(database, "together", now)
    action, catch_up = action.partition(",")[0], "catch up" in action
    change = {"tags": ["x"], "every_s": 77}
    single: dict[str, Any] = {
        "pause": control.pause,
        "cancel": control.cancel,
        "resume": lambda c, n, i, actor: control.resume(c, n, i, actor=actor, catch_up=catch_up),
        "run": lambda c, n, i, actor: control.run_now(c, n, [i], actor=actor),
        "edit": lambda c, n, i, actor: control.edit(c, n, i, changes.edit(change), actor=actor),
    }
    refused = {}
    for task_id in alone:
        try:
            database.transaction(lambda c, i=task_id: single[action](c, "default", i, actor="test"))
        except (StateConflict, ValueError) as error:
            refused[task_id] = str(error)
    before = {task_id: task(database, task_id)["version"] for task_id in together}
    parts: dict[str, Any] = {"filter": {"queue": "together"}}
    parts |= {"catch_up": True} if catch_up else {"set": change} if action == "edit" else {}
    dry = carry_out(database, action, dry_run=True, **parts)
    assert {task_id: task(database, task_id)["version"] for task_id in together} == before
    done = carry_out(database, action, **parts)
    for one, other in zip(alone, together, strict=True):
        assert state_of(database, one) == state_of(database, other), task(database, one)["cron"]
    expected = [
        refused[one].replace(str(one), str(other)) for one, other in zip(alone, together, strict=True) if one in refused
    ]
    assert [one["why"] for one in done.refused] == expected
    assert (done.matched, done.after) == (len(together), None)
    assert (dry.matched, dry.changed, dry.refused) == (done.matched, done.changed, done.refused)
    assert done.changed == sum("test" in {e[0] for e in state_of(database, i)["events"]} for i in together) > 0
    if action in ("pause", "cancel", "resume", "edit"):
        assert carry_out(database, action, **parts).changed == 0, "all of them are so already"


@pytest.mark.mysql
def test_filters(database: Database) -> None:
    ids = {
        "key": insert(database, 60.0, task_key="a%b-1"),
        "wild": insert(database, 60.0, task_key="axb-1"),
        "handler": insert(database, 60.0, handler="h", queue="q", tags="red,blue"),
        "tag": insert(database, 60.0, tags="blue"),
        "group": insert(database, 60.0, group_key="g", offset_s=-5),
        "paused": insert(database, 60.0, state="paused", tags="bluer"),
    }
    insert(database, 60.0, namespace="other", queue="q")
    for where, names in (
        ({"task_key": "a%"}, ["key"]),
        ({"task_key": "a"}, ["key", "wild"]),
        ({"handler": "h"}, ["handler"]),
        ({"queue": "q"}, ["handler"]),
        ({"tag": "blue"}, ["handler", "tag"]),
        ({"tag": "blue", "queue": "q"}, ["handler"]),
        ({"tag": "red,blue"}, []),
        ({"group_key": "g"}, ["group"]),
        ({"state": "paused"}, ["paused"]),
        ({"queue": "' OR 1 = 1 -- "}, []),
    ):
        sql(database, "UPDATE tasks SET name = NULL")
        done = carry_out(database, "edit", filter=where, set={"name": "hit"})
        hit = [row["id"] for row in select(database, "SELECT id FROM tasks WHERE name = 'hit' ORDER BY id")]
        assert hit == sorted(ids[name] for name in names), where
        assert done.matched == done.changed == len(names)


@pytest.mark.mysql
def test_pages(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most so many a transaction and a request; the next request goes on behind the last one."""
    monkeypatch.setattr(bulk, "BATCH", 3)
    monkeypatch.setattr(bulk, "LIMIT", 6)
    ids = [insert(database, 60.0) for _ in range(8)]
    first = bulk.carry_out(database, order("pause"))
    assert (first.matched, first.changed, first.after) == (6, 6, ids[5])
    second = bulk.carry_out(database, order("pause"), after=first.after)
    assert (second.matched, second.changed, second.after) == (2, 2, None)
    assert {row["state"] for row in select(database, "SELECT state FROM tasks")} == {"paused"}
    monkeypatch.setattr(bulk, "BUSY_S", 0.0)
    assert bulk.carry_out(database, order("resume")) == Done(after=0, replayed=True), (
        "no time is left: nothing is begun"
    )


@pytest.mark.mysql
def test_pause_is_a_few_statements(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        database.transaction(
            lambda c: ledger.changed(
                c,
                "INSERT INTO tasks (handler, run_at) VALUES " + ", ".join(["('mock', '2030-01-01')"] * 200),
            )
        )
    statements: list[str] = []
    import sqlalchemy as sa

    sa.event.listen(database._engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
    done = carry_out(database, "pause")
    assert (done.matched, done.changed) == (600, 600)
    assert len(statements) < 30, statements
    assert len(select(database, "SELECT id FROM task_events")) == 1200


@pytest.mark.mysql
def test_a_run_with_a_key_is_made_once_also_when_it_broke_off_in_the_middle(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "BATCH_ALONE", 2)
    ids = [insert(database, 60.0) for _ in range(5)]
    mark = Ticket("default", "k" * 255, b"h" * 32)
    once, calls = ledger.Database._once, []

    def dying(self: Database, body: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise ledger.Unavailable("gone")
        return once(self, body)

    monkeypatch.setattr(ledger.Database, "_once", dying)
    with pytest.raises(ledger.Unavailable):
        bulk.carry_out(database, order("run"), ticket=mark)
    monkeypatch.setattr(ledger.Database, "_once", once)
    assert len(select(database, "SELECT id FROM runs")) == 4
    done = bulk.carry_out(database, order("run"), ticket=mark)
    assert (done.changed, done.replayed) == (5, False)
    assert [run_of(database, task_id)["origin"] for task_id in ids] == ["manual"] * 5
    again = bulk.carry_out(database, order("run"), ticket=mark)
    assert (again.changed, again.replayed) == (5, True)
    with pytest.raises(acceptance.KeyReused):
        bulk.carry_out(database, order("run"), ticket=Ticket("default", mark.key, b"x" * 32))


@pytest.mark.mysql
def test_a_lost_commit_is_not_made_twice(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [insert(database, 60.0) for _ in range(2)]
    once, lost = ledger.Database._once, []

    def losing(self: Database, body: Any) -> Any:
        value = once(self, body)
        if isinstance(value, acceptance.Answer) and not lost:
            lost.append(1)
            raise UnknownCommit("lost")
        return value

    monkeypatch.setattr(ledger.Database, "_once", losing)
    done = carry_out(database, "run")
    assert (lost, done.changed) == ([1], 2)
    assert [run_of(database, task_id)["state"] for task_id in ids] == ["ready", "ready"]


@pytest.mark.mysql
@pytest.mark.xdist_group("heavy")
def test_beside_the_claim_nothing_is_lost_and_nothing_deadlocks(database: Database) -> None:
    before = deadlocks(database)
    for _ in range(3):
        database.transaction(
            lambda c: ledger.changed(
                c, "INSERT INTO tasks (handler, every_s) VALUES " + ", ".join(["('mock', 1)"] * 200)
            )
        )
    stop = threading.Event()
    failed: list[BaseException] = []

    def claiming() -> None:
        try:
            while not stop.is_set():
                claim_all(database)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=claiming) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            assert throughout(database, "pause") == 600
            assert throughout(database, "resume") == 600
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failed == [], latest_deadlock(database)
    assert deadlocks(database) == before, latest_deadlock(database)
    assert {row["state"] for row in select(database, "SELECT state FROM tasks")} == {"active"}
    events = select(database, "SELECT task_id, MAX(version) AS v, COUNT(*) AS n FROM task_events GROUP BY task_id")
    assert all(row["v"] == row["n"] for row in events), "one event for each version"


def test_by_http(http: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "BATCH", 2)
    monkeypatch.setattr(bulk, "LIMIT", 2)
    ids = [insert(database, 60.0, queue="q") for _ in range(3)] + [insert(database, 60.0)]
    cancelled = insert(database, 60.0, queue="q", state="cancelled", version=1, seen_state="cancelled")
    document: dict[str, Any] = {"action": "pause", "filter": {"queue": "q"}}
    dry = http.post("/v1/tasks/control", json=document | {"dry_run": True}).json()
    assert (dry["matched"], dry["changed"]) == (2, 2)
    answer = http.post("/v1/tasks/control", json=document, headers={"Idempotency-Key": "k"})
    assert answer.status_code == 200, answer.text
    page = answer.json()
    assert {n: page[n] for n in ("matched", "changed", "refused")} == {"matched": 2, "changed": 2, "refused": []}
    replay = http.post("/v1/tasks/control", json=document, headers={"Idempotency-Key": "k"})
    assert (replay.json(), replay.headers["idempotency-replayed"]) == (page, "true")
    page = http.post("/v1/tasks/control", json=document | {"cursor": page["next_cursor"]}).json()
    assert (page["matched"], page["changed"]) == (2, 1)
    assert page["refused"] == [{"id": cancelled, "why": "the task is cancelled: register it again instead"}]
    last = http.post("/v1/tasks/control", json=document | {"cursor": page["next_cursor"]}).json()
    assert last == {"matched": 0, "changed": 0, "refused": [], "next_cursor": None}
    assert [task(database, i)["state"] for i in ids] == ["paused"] * 3 + ["active"]
    actors = {e["actor"] for e in select(database, "SELECT actor FROM task_events WHERE action = 'paused'")}
    assert len(actors) == 1
    assert actors.pop().startswith("key:")


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({"action": "pause"}, "#/filter"),
        ({"action": "pause", "filter": {}}, "#/filter"),
        ({"action": "pause", "filter": {"queue": None}}, "#/filter"),
        ({"action": "pause", "filter": {"queue": ""}}, "#/filter"),
        ({"action": "pause", "filter": {"task_key": ""}}, "#/filter"),
        ({"action": "pause", "filter": {"nope": "x"}}, "#/filter"),
        ({"action": "pause", "filter": {"state": "odd"}}, "#/filter"),
        ({"action": "pause", "filter": {"tag": ["x"]}}, "#/filter"),
        ({"action": "pause", "filter": [1]}, "#/filter"),
        ({"action": "pause", "all": False}, "#/filter"),
        ({"action": "pause", "all": 1}, "#/all"),
        ({"action": "pause", "all": True, "filter": {"queue": "q"}}, "#/all"),
        ({"action": "delete", "all": True}, "#/action"),
        ({"all": True}, "#/action"),
        ({"action": "pause", "all": True, "dry_run": "no"}, "#/dry_run"),
        ({"action": "pause", "all": True, "catch_up": True}, "#/catch_up"),
        ({"action": "pause", "all": True, "set": {"name": "x"}}, "#/set"),
        ({"action": "edit", "all": True}, "#/set"),
        ({"action": "edit", "all": True, "set": {}}, "#/set"),
        ({"action": "edit", "all": True, "set": {"nope": 1}}, "#/set"),
        ({"action": "edit", "all": True, "set": {"task_key": "k"}}, "#/set"),
        ({"action": "edit", "all": True, "set": {"every_s": 0}}, "#/set"),
        ({"action": "edit", "all": True, "set": {"handler": None}}, "#/set"),
        ({"action": "edit", "all": True, "set": {"cron": "* * * * *", "every_s": 5}}, "#/set"),
        ({"action": "pause", "all": True, "more": 1}, "#/more"),
        ({"action": "pause", "all": True, "cursor": 7}, "#/cursor"),
        ([], "#"),
    ],
)
def test_bad_orders_are_named_and_change_nothing(
    http: TestClient, database: Database, document: Any, named: str
) -> None:
    task_id = insert(database, 60.0)
    before = task(database, task_id)
    problem = assert_problem(http.post("/v1/tasks/control", json=document), 422, "invalid-fields")
    assert [error["pointer"] for error in problem["errors"]] == [named]
    assert task(database, task_id) == before


def test_a_cursor_of_nobody(http: TestClient) -> None:
    document = {"action": "pause", "all": True, "cursor": "x"}
    assert_problem(http.post("/v1/tasks/control", json=document), 400, "invalid-parameter")


def test_by_the_command_line(shell: Shell, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(bulk, "BATCH", 2)
    monkeypatch.setattr(bulk, "LIMIT", 2)
    for key in ("a-1", "a-2", "a-3", "b"):
        insert(database, 60.0, task_key=key)
    assert shell("pause", "--key", "a-", "--dry-run") == "3 match, 3 would be changed\n"
    assert shell("pause", "--key", "a-") == "3 match, 3 changed\n"
    assert shell.json("resume", "--state", "paused", "--catch-up") == {"matched": 3, "changed": 3, "refused": []}
    assert shell("edit", "--key", "a-", "name=n", "timeout_s=9") == "3 match, 3 changed\n"
    assert shell("run-now", "--all") == "4 match, 4 changed\n"
    assert shell("cancel", "--key", "b") == "1 match, 1 changed\n"
    assert shell("pause", "--all") == "4 match, 3 changed\n"
    assert shell.error.count("\n") == 1
    assert "cancelled" in shell.error
    assert {row["name"] for row in select(database, "SELECT name FROM tasks WHERE task_key LIKE 'a-%'")} == {"n"}


def test_by_the_client(client: Any, database: Database) -> None:  # noqa: F811
    made = [client.schedule("mock", {"a": 1}, every_s=60, tags=["t"]) for _ in range(3)]
    assert client.control("pause", tag="t", dry_run=True)["changed"] == 3
    assert client.get(made[0]["id"])["state"] == "active"
    assert client.control("pause", tag="t") == {"matched": 3, "changed": 3, "refused": []}
    assert client.resume(made[0]["id"], catch_up=True)["state"] == "active"
    assert (
        client.control("edit", all=True, set={"queue": "q", "end_at": datetime(2030, 1, 1).astimezone()})["changed"]
        == 3
    )
    row = client.edit(made[0]["id"], if_version=4, payload={"b": 2}, cron="0 * * * *", queue=None)
    assert (row["payload"], row["every_s"], row["queue"], row["version"]) == ({"a": 1, "b": 2}, None, "default", 5)
    assert len(list(client.tasks(tag="t"))) == 3
    with pytest.raises(Exception, match="412"):
        client.edit(made[0]["id"], if_version=4, name="x")
    hour = database.now().replace(minute=0, second=0, microsecond=0)
    span = [(hour - n * HOUR).astimezone() for n in (3, 1)]
    assert client.backfill(made[0]["id"], *span, dry_run=True)["runs"] == 3
    assert client.backfill(made[0]["id"], *span, per_s=5)["runs"] == 3
    with pytest.raises(ValueError, match="zone"):
        client.backfill(made[0]["id"], hour, hour)


def test_an_order_is_judged_before_any_task(database: Database) -> None:
    with pytest.raises(Refused, match="cron"):
        order("edit", set={"cron": ""})
    assert order("edit", set={"handler": "h", "tags": None, "payload": {"a": None}}).values is not None
