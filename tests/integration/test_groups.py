"""Groups by every door: members, moves, what is past already, and that a change is all or nothing."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy.exc import DBAPIError
from starlette.testclient import TestClient

from clockjack import documents
from clockjack.ledger import acceptance, claim, control, groups, tasks
from clockjack.ledger.database import Database, UnknownCommit
from clockjack.ledger.groups import Anchor
from clockjack.ledger.tasks import StateConflict
from clockjack.schedules import ScheduleError
from tests.integration.life import claim_all, insert, select, start, task
from tests.integration.test_cli import Capture, Shell
from tests.integration.test_http import assert_problem, count
from tests.integration.test_locking import deadlocks

pytestmark = pytest.mark.mysql
DAY, HOUR = 86_400, 3600
REMINDERS = [-DAY, -HOUR, -600]
NEW_YEAR = datetime(2030, 1, 1)
EVENT: dict[str, Any] = {"handler": "mock", "anchor_at": "2030-01-01T00:00:00Z", "offsets_s": REMINDERS}


@pytest.fixture
def shell(capsys: Capture, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setenv("CLOCKJACK_DATABASE_URL", database_url)
    monkeypatch.setenv("CLOCKJACK_REDIS_URL", redis_url)
    return Shell(capsys)


def put(database: Database, anchor: datetime, offsets_s: list[int], key: str = "g", **work: Any) -> groups.Group:
    values = {"handler": "mock", "queue": "default", "payload": "null", "timeout_s": 60, "max_failures": 5} | work
    values |= {"backoff_s": 2, "backoff_max_s": 3600}
    body = lambda c: groups.put(c, "default", key, Anchor(at=anchor), offsets_s, values, actor="test")  # noqa: E731
    return database.transaction(body)


def move(database: Database, anchor: datetime, key: str = "g") -> groups.Group | None:
    return database.transaction(lambda c: groups.move(c, "default", key, Anchor(at=anchor), actor="test"))


def stored(database: Database, key: str = "g") -> dict[int, dict[str, Any]]:
    return {row["offset_s"]: row for row in select(database, "SELECT * FROM tasks WHERE group_key = :g", g=key)}


def runs(database: Database) -> list[tuple[Any, ...]]:
    found = select(database, "SELECT task_id, due_at, state, reason FROM runs ORDER BY due_at, id")
    return [tuple(row.values()) for row in found]


def everything(database: Database) -> list[Any]:
    return [select(database, f"SELECT * FROM {table} ORDER BY id") for table in ("tasks", "runs", "task_events")]


# --- one registration


def test_a_group_is_registered_read_and_cancelled(http: TestClient, database: Database) -> None:
    sent = EVENT | {"payload": {"event": 7}, "tags": ["mail"], "queue": "q", "timeout_s": 7, "max_lateness_s": 60}
    made = http.put("/v1/groups/event-7", json=sent)
    assert made.status_code == 201, made.text
    group = made.json()
    assert made.headers["location"] == "/v1/groups/event-7"
    assert (group["group_key"], group["anchor_at"], group["anchor_at_local"]) == (
        "event-7",
        "2030-01-01T00:00:00.000000Z",
        None,
    )
    assert [(m["task_key"], m["offset_s"]) for m in group["members"]] == [
        ("event-7#-86400", -DAY),
        ("event-7#-3600", -HOUR),
        ("event-7#-600", -600),
    ]
    assert [m["run_at"] for m in group["members"]] == [m["next_run_at"] for m in group["members"]]
    assert [m["run_at"][:16] for m in group["members"]] == ["2029-12-31T00:00", "2029-12-31T23:00", "2029-12-31T23:50"]
    for member in group["members"]:
        assert (member["group_key"], member["payload"], member["tags"]) == ("event-7", {"event": 7}, ["mail"])
        assert (member["queue"], member["timeout_s"], member["max_lateness_s"]) == ("q", 7, 60)
    assert "'q'" in group["warnings"][0]
    read = http.get("/v1/groups/event-7").json()
    assert read == group | {"warnings": []}
    member = group["members"][0]
    assert http.get(f"/v1/tasks/{member['id']}").json() == member
    gone = http.delete("/v1/groups/event-7")
    assert (gone.status_code, {m["state"] for m in gone.json()["members"]}) == (200, {"cancelled"})
    read = http.get("/v1/groups/event-7").json()
    assert [m["state"] for m in read["members"]] == ["cancelled"] * 3
    assert http.delete("/v1/groups/event-7").json() == read
    assert {row["next_run_at"] for row in stored(database, "event-7").values()} == {None}


def test_the_same_again_changes_nothing(http: TestClient, database: Database) -> None:
    first = http.put("/v1/groups/g", json=EVENT)
    before = everything(database)
    again = http.put("/v1/groups/g", json=EVENT | {"offsets_s": REMINDERS[::-1]})
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert (
        http.post("/v1/groups/g/move", json={"anchor_at": EVENT["anchor_at"]}).json()["members"]
        == (first.json()["members"])
    )
    assert everything(database) == before


def test_members_come_go_and_come_back(http: TestClient, database: Database) -> None:
    first = {m["offset_s"]: m for m in http.put("/v1/groups/g", json=EVENT).json()["members"]}
    other = http.put("/v1/groups/g", json=EVENT | {"offsets_s": [-HOUR, 0], "name": "n"})
    assert other.status_code == 200
    assert [(m["offset_s"], m["name"]) for m in other.json()["members"]] == [(-HOUR, "n"), (0, "n")]
    assert other.json()["members"][0]["id"] == first[-HOUR]["id"]
    assert other.json()["members"][0]["schedule_version"] == 1  # its time is the same
    assert {o: row["state"] for o, row in stored(database).items()} == {
        -DAY: "cancelled",
        -HOUR: "active",
        -600: "cancelled",
        0: "active",
    }
    assert [m["offset_s"] for m in http.get("/v1/groups/g").json()["members"]] == [-HOUR, 0]
    back = {m["offset_s"]: m for m in http.put("/v1/groups/g", json=EVENT).json()["members"]}
    assert {o: m["id"] for o, m in back.items()} == {o: m["id"] for o, m in first.items()}
    assert {m["state"] for m in back.values()} == {"active"}
    assert stored(database)[0]["state"] == "cancelled"


def test_a_moved_group_keeps_everything_but_its_time(http: TestClient, database: Database) -> None:
    made = http.put("/v1/groups/g", json=EVENT | {"payload": [1], "tags": ["t"]}).json()["members"]
    http.delete(f"/v1/tasks/{made[1]['id']}")
    http.post(f"/v1/tasks/{made[2]['id']}/pause")
    moved = http.post("/v1/groups/g/move", json={"anchor_at": "2030-03-01T12:00:00+01:00"})
    assert moved.status_code == 200
    assert moved.json()["anchor_at"] == "2030-03-01T11:00:00.000000Z"
    assert [(m["offset_s"], m["state"], m["run_at"][:16]) for m in moved.json()["members"]] == [
        (-DAY, "active", "2030-02-28T11:00"),
        (-600, "paused", "2030-03-01T10:50"),
    ]
    assert [(m["payload"], m["tags"], m["schedule_version"]) for m in moved.json()["members"]] == [([1], ["t"], 2)] * 2
    assert stored(database)[-HOUR]["run_at"] == NEW_YEAR - timedelta(hours=1)
    http.delete("/v1/groups/g")
    assert_problem(http.post("/v1/groups/g/move", json={"anchor_at": "2030-03-01T00:00:00Z"}), 409, "state-conflict")


def test_a_day_before_is_the_same_time_of_the_wall_clock(http: TestClient, database: Database) -> None:
    # Berlin's clocks go from 02:00 to 03:00 on 31 March 2030
    sent = {"handler": "mock", "anchor_at_local": "2030-03-31T09:00:00", "timezone": "Europe/Berlin"}
    made = http.put("/v1/groups/g", json=sent | {"offsets_s": [-DAY, -23_400, -HOUR]}).json()
    assert (made["anchor_at"], made["anchor_at_local"]) == (None, "2030-03-31T09:00:00")
    assert made["timezone"] == "Europe/Berlin"
    assert [(m["run_at_local"], m["next_run_at"][:19]) for m in made["members"]] == [
        ("2030-03-30T09:00:00", "2030-03-30T08:00:00"),
        ("2030-03-31T02:30:00", "2030-03-31T01:00:00"),  # does not exist: runs right after the gap
        ("2030-03-31T08:00:00", "2030-03-31T06:00:00"),
    ]
    assert any("02:00 becomes 03:00" in warning for warning in made["warnings"])
    moved = http.post("/v1/groups/g/move", json={"anchor_at_local": "2030-04-01T09:00:00"}).json()
    assert [m["next_run_at"][:19] for m in moved["members"]][::2] == ["2030-03-31T07:00:00", "2030-04-01T06:00:00"]
    abroad = http.post("/v1/groups/g/move", json={"anchor_at_local": "2030-04-01T09:00:00", "timezone": "Asia/Tokyo"})
    assert abroad.json()["members"][2]["next_run_at"][:19] == "2030-03-31T23:00:00"
    instant = http.post("/v1/groups/g/move", json={"anchor_at": "2030-04-01T00:00:00Z"}).json()
    assert (instant["anchor_at_local"], instant["timezone"]) == (None, "Asia/Tokyo")
    assert {m["run_at_local"] for m in instant["members"]} == {None}


def test_jitter_moves_each_member_by_its_own(http: TestClient) -> None:
    made = http.put("/v1/groups/g", json=EVENT | {"jitter_s": 600, "offsets_s": list(range(0, 50_000, 1000))}).json()
    late = {
        (datetime.fromisoformat(m["next_run_at"]) - datetime.fromisoformat(m["run_at"])).total_seconds()
        for m in made["members"]
    }
    assert len(late) > 40
    assert all(0 <= seconds < 600 for seconds in late)


# --- names


@pytest.mark.parametrize("key", ["orders/7", "a#b", "a", "50% off?", "é ü", "x/move", "a$", "a_", "...", "x" * 180])
def test_any_printable_name_is_one_group(http: TestClient, database: Database, key: str) -> None:
    for other in ("a", "a#b", "a#b#-600", "a$", "ab", "a_", "orders", "x"):
        if other != key:
            put(database, NEW_YEAR, [-600, -60], key=other)
    before = select(database, "SELECT * FROM tasks ORDER BY id")
    url = f"/v1/groups/{quote(key, safe='')}"
    made = http.put(url, json=EVENT)
    assert (made.status_code, made.headers["location"]) == (201, url)
    assert [m["task_key"] for m in made.json()["members"]] == [f"{key}#{o}" for o in REMINDERS]
    assert len(http.get(url).json()["members"]) == 3
    assert http.post(f"{url}/move", json={"anchor_at": "2031-01-01T00:00:00Z"}).json()["group_key"] == key
    assert len(http.delete(url).json()["members"]) == 3
    assert before == [row for row in select(database, "SELECT * FROM tasks ORDER BY id") if row["group_key"] != key]


def test_other_namespaces_and_unknown_groups_are_not_found(http: TestClient, shell: Shell, database: Database) -> None:
    shell("group", "put", "g", "mock", "--offsets=0", "--anchor", EVENT["anchor_at"], "--namespace", "other")
    assert_problem(http.get("/v1/groups/g"), 404, "not-found")
    assert_problem(http.delete("/v1/groups/g"), 404, "not-found")
    assert_problem(http.post("/v1/groups/g/move", json={"anchor_at": EVENT["anchor_at"]}), 404, "not-found")
    assert_problem(http.post("/v1/groups/g"), 405, "method-not-allowed")
    for argv in (["show", "g"], ["cancel", "g"], ["move", "g", "--anchor", EVENT["anchor_at"]]):
        assert "no group 'g'" in shell.refuses("group", *argv, code=1)
    assert [row["state"] for row in select(database, "SELECT state FROM tasks")] == ["active"]


# --- what is past


def test_what_is_past_is_skipped_with_a_row_and_due_again_when_moved(http: TestClient, database: Database) -> None:
    now = database.now()
    sent = EVENT | {"anchor_at": documents.moment(now + timedelta(minutes=30))}
    made = http.put("/v1/groups/g", json=sent).json()
    day, hour, soon = made["members"]
    assert (day["next_run_at"], hour["next_run_at"], soon["next_run_at"]) == (None, None, soon["run_at"])
    assert [w for w in made["warnings"] if "past" in w] == [
        "offset -86400 s is past: it does not run",
        "offset -3600 s is past: it does not run",
    ]
    day_at, hour_at = now + timedelta(minutes=30, days=-1), now - timedelta(minutes=30)
    skipped = [(day["id"], day_at, "skipped", "past"), (hour["id"], hour_at, "skipped", "past")]
    assert runs(database) == skipped
    row = select(database, "SELECT * FROM runs WHERE task_id = :t", t=day["id"])[0]
    assert (row["schedule_version"], row["task_version"], row["skipped_until"]) == (1, 1, None)
    assert row["claimed_at"] == row["finished_at"] is not None
    assert claim_all(database) == []
    assert http.put("/v1/groups/g", json=sent).json() == made  # nothing new, and the same warnings
    assert runs(database) == skipped
    moved = http.post("/v1/groups/g/move", json={"anchor_at": documents.moment(now + timedelta(days=2))}).json()
    assert all(m["next_run_at"] == m["run_at"] for m in moved["members"])
    assert moved["warnings"] == []
    back = http.post("/v1/groups/g/move", json={"anchor_at": sent["anchor_at"]}).json()  # the rows are there
    assert (back["warnings"], runs(database)) == ([w for w in made["warnings"] if "past" in w], skipped)


def test_ten_seconds_are_not_past(database: Database) -> None:
    made = put(database, database.now(), [-8, -20])
    assert made.past == [-20]
    skipped = select(database, "SELECT task_id, state FROM runs")
    assert skipped == [{"task_id": stored(database)[-20]["id"], "state": "skipped"}]
    assert len(claim_all(database)) == 1


def test_a_member_that_fired_fires_again_for_another_anchor_only(database: Database) -> None:
    now = database.now()
    put(database, now, [0])
    assert len(start(database, claim_all(database)).execute) == 1
    put(database, now, [0], name="n")  # other values, the same time
    assert claim_all(database) == []
    move(database, now + timedelta(seconds=1))
    assert len(claim_all(database)) == 1
    move(database, now - timedelta(minutes=1))
    assert [state for _, _, state, _ in runs(database)] == ["skipped", "running", "ready"]


def test_a_run_that_was_claimed_is_cancelled_by_the_move(database: Database) -> None:
    now = database.now()
    put(database, now, [-1, 2])
    ready = claim_all(database)
    assert len(ready) == 2
    move(database, now + timedelta(seconds=3))  # -1 is due in 2 s now, and 2 in 5 s
    started = start(database, [r for r in ready if r.due_at < now])
    assert started.execute == []
    assert [why for _, why in started.not_run] == ["edited"]
    move(database, now)
    again = claim_all(database)  # back at its time: the cancelled run is ready again
    assert [(r.due_at, r.attempt) for r in again] == [(now - timedelta(seconds=1), 3)]
    assert len(start(database, again).execute) == 1
    assert select(database, "SELECT COUNT(*) AS n FROM runs WHERE state = 'ready'")[0]["n"] >= 1


def test_cancelling_stops_what_was_claimed(http: TestClient, database: Database) -> None:
    put(database, database.now(), [0, -1])
    ready = claim_all(database)
    http.delete("/v1/groups/g")
    started = start(database, ready)
    assert (started.execute, {why for _, why in started.not_run}) == ([], {"cancelled"})


# --- all or nothing


def test_a_member_that_cannot_be_written_takes_the_others_back(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(database, NEW_YEAR, [-60, 0])
    real, before = tasks.register, everything(database)

    def refused(connection: Any, namespace: str, fields: dict[str, Any], **more: Any) -> Any:
        wrong = {"timeout_s": 0} if fields["offset_s"] == -5 else {}  # the table's CHECK refuses it
        return real(connection, namespace, fields | wrong, **more)

    monkeypatch.setattr(tasks, "register", refused)
    with pytest.raises(DBAPIError):
        put(database, NEW_YEAR, [-60, -30, -5], name="changed")
    with pytest.raises(DBAPIError):
        put(database, NEW_YEAR, [-30, -5], key="other")
    assert everything(database) == before
    assert count(database, "idempotency_keys") == 1  # the first group's


def test_a_task_key_of_another_task_is_a_conflict(http: TestClient, database: Database) -> None:
    other = insert(database, 60, task_key="g#-600")
    before = task(database, other)
    problem = assert_problem(http.put("/v1/groups/g", json=EVENT), 409, "state-conflict")
    assert "g#-600" in problem["detail"]
    assert (task(database, other), count(database)) == (before, 1)


# --- sent again, and by several at once


def test_an_idempotency_key_stands_for_one_change(http: TestClient, database: Database) -> None:
    headers = {"Idempotency-Key": "k"}
    first = http.put("/v1/groups/g", json=EVENT, headers=headers)
    http.post("/v1/groups/g/move", json={"anchor_at": "2031-01-01T00:00:00Z"})
    again = http.put("/v1/groups/g", json=EVENT, headers=headers)
    assert (again.status_code, again.text, again.headers["idempotency-replayed"]) == (201, first.text, "true")
    assert stored(database)[-600]["run_at"].year == 2030  # the end of 2030: it was not moved back
    assert_problem(http.put("/v1/groups/g2", json=EVENT, headers=headers), 422, "idempotency-key-reused")


@pytest.mark.parametrize("durable", [True, False])
def test_a_commit_of_unknown_outcome_is_looked_up(
    http: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    http.get("/v1/tasks")  # the API key is known from here on
    real, broken = Database._once, []

    def once(self: Database, body: Any) -> Any:
        if broken:
            return real(self, body)
        broken.append(True)
        if durable:
            real(self, body)
        else:
            with pytest.raises(ZeroDivisionError):
                real(self, lambda c: (body(c), 1 / 0))
        raise UnknownCommit

    monkeypatch.setattr(Database, "_once", once)
    for kind, status in ((http.put, 201), (http.put, 200)):
        broken.clear()
        assert kind("/v1/groups/g", json=EVENT).status_code == status
        assert count(database) == 3


def together(database: Database, bodies: list[Callable[[Any], Any]], rounds: int) -> None:
    """Each body, `rounds` times in a thread of its own, all at once; nothing fails and no deadlock is counted."""
    before, barrier = deadlocks(database), threading.Barrier(len(bodies))

    def loop(body: Callable[[Any], Any]) -> None:
        for _ in range(rounds):
            barrier.wait(20)
            acceptance.once(database, lambda c: acceptance.Change(200, str(body(c))))

    with ThreadPoolExecutor(len(bodies)) as pool:
        for done in [pool.submit(loop, body) for body in bodies]:
            done.result(60)
    assert deadlocks(database) == before


def test_two_movers_agree_in_the_end(database: Database) -> None:
    put(database, NEW_YEAR, list(range(-20, 0)))
    anchors = [NEW_YEAR + timedelta(days=n) for n in range(1, 100)]

    def mover(step: int) -> Callable[[Any], Any]:
        mine = iter(anchors[step::2])
        wanted: list[datetime] = []

        def body(connection: Any) -> Any:
            wanted.append(next(mine, NEW_YEAR + timedelta(days=100 + step)))
            return groups.move(connection, "default", "g", Anchor(at=wanted[-1]), actor="test")

        return body

    def claimer(_: Any) -> Any:
        return claim.claim(database, {})

    together(database, [mover(0), mover(1), claimer], 20)
    assert len({row["run_at"] - timedelta(seconds=row["offset_s"]) for row in stored(database).values()}) == 1
    assert {row["schedule_version"] for row in stored(database).values()} == {41}


def test_registrations_at_once_leave_the_members_of_one(database: Database) -> None:
    work = {"handler": "mock", "queue": "default", "payload": "null", "timeout_s": 60, "max_failures": 5}
    work |= {"backoff_s": 2, "backoff_max_s": 3600}
    for n in range(12):
        key = f"g{n}"

        def member(place: int, key: str = key) -> Callable[[Any], Any]:
            offsets = [place * 10 + i for i in range(6)]  # the offsets of no other
            anchor = Anchor(at=NEW_YEAR + timedelta(days=place))
            return lambda c: groups.put(c, "default", key, anchor, offsets, work, actor="test")

        together(database, [member(0), member(1), member(2)], 1)
        live = [row for row in stored(database, key).values() if row["state"] == "active"]
        assert len({row["run_at"] - timedelta(seconds=row["offset_s"]) for row in live}) == 1
        assert len(live) == 6


def test_a_change_of_one_member_is_not_lost(database: Database) -> None:
    last = put(database, NEW_YEAR, [-60, 0]).members[-1]["id"]
    moving = threading.Thread(target=move, args=(database, NEW_YEAR + timedelta(days=1)))

    def body(connection: Any) -> None:
        control.pause(connection, "default", last, actor="test")
        moving.start()
        moving.join(0.3)  # it waits for this COMMIT

    database.transaction(body)
    moving.join(5)
    row = task(database, last)
    assert (row["state"], row["version"], row["run_at"]) == ("paused", 3, NEW_YEAR + timedelta(days=1))
    events = select(database, "SELECT action, version FROM task_events WHERE task_id = :t ORDER BY id", t=last)
    assert [tuple(event.values()) for event in events] == [("registered", 1), ("paused", 2), ("edited", 3)]


def test_a_look_by_a_claim_and_a_cancel_at_once_do_not_stop_one_another(database: Database) -> None:
    for n in range(5):
        put(database, database.now(), list(range(-5, 5)), key=f"g{n}")
    cancels = [lambda c, n=n: groups.cancel(c, "default", f"g{n}", actor="test") for n in range(5)]
    together(database, [*cancels, lambda _: claim.claim(database, {})], 2)
    assert {row["state"] for row in select(database, "SELECT state FROM tasks")} == {"cancelled"}


# --- the ledger by itself


def test_members_changed_one_by_one_are_told(http: TestClient, database: Database) -> None:
    made = http.put("/v1/groups/g", json=EVENT).json()["members"]
    http.post("/v1/tasks", json={"handler": "mock", "task_key": "g#-600", "run_at": "2031-01-01T00:00:00Z"})
    read = http.get("/v1/groups/g").json()
    assert (read["anchor_at"], len(read["members"])) == (None, 3)
    assert "do not agree" in read["warnings"][0]
    assert read["members"][2]["id"] == made[2]["id"]
    healed = http.put("/v1/groups/g", json=EVENT).json()
    assert healed["anchor_at"] == "2030-01-01T00:00:00.000000Z"


def test_a_paused_member_stays_so_and_its_past_is_closed(database: Database) -> None:
    now = database.now()
    member = put(database, now + timedelta(seconds=1), [0]).members[0]
    database.transaction(lambda c: control.pause(c, "default", member["id"], actor="test"))
    claim_all(database)
    assert [row[2:] for row in runs(database)] == [("skipped", "paused")]
    move(database, now + timedelta(days=1))
    row = stored(database)[0]
    assert (row["state"], row["missed_since"], row["next_run_at"]) == ("paused", None, now + timedelta(days=1))
    assert select(database, "SELECT skipped_until FROM runs")[0]["skipped_until"] is not None


def test_the_ledger_refuses_by_itself(database: Database) -> None:
    with pytest.raises(ScheduleError, match="too old"):
        put(database, database.now() - timedelta(days=366), [0, -5])
    put(database, database.now() - timedelta(days=366), [0, 2 * DAY])
    database.transaction(lambda c: groups.cancel(c, "default", "g", actor="test"))
    with pytest.raises(StateConflict):
        move(database, NEW_YEAR)
    assert move(database, NEW_YEAR, key="unknown") is None


def test_members_are_found_by_the_unique_key(database: Database) -> None:
    for n in range(200):
        insert(database, 3600, task_key=f"x{n}")
    put(database, NEW_YEAR, REMINDERS)
    database.transaction(lambda c: c.exec_driver_sql("ANALYZE TABLE tasks"))
    values = {"n": "default", "g": "g", "low": "g#", "high": "g$"}
    found = select(database, "EXPLAIN FORMAT=TRADITIONAL " + groups.MEMBERS.format("id"), **values)[0]
    assert (found["key"], found["type"]) == ("task_key", "range")
    # The server's estimate, not a count: a page boundary inside the range makes it larger than the 3 members.
    assert int(found["rows"]) < 100
