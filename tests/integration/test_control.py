"""Edit, pause, resume, cancel and backfill of one task, by HTTP and by the command line."""

from datetime import timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from clockjack import changes
from clockjack.ledger import acceptance, control, tasks
from clockjack.ledger import database as ledger
from clockjack.ledger.database import Database, UnknownCommit
from clockjack.registration import Refused
from tests.integration.life import claim_all, insert, select, sql, start, task
from tests.integration.test_cli import Shell, environment, shell  # noqa: F401
from tests.integration.test_http import assert_problem

FUTURE = "2030-01-01T00:00:00Z"
MINUTE = timedelta(minutes=1)


def add(http: TestClient, **fields: Any) -> dict[str, Any]:
    document = {"handler": "mock", **fields}
    if not {"run_at", "cron", "every_s", "rrule", "run_at_local", "in_s"} & set(fields):
        document["every_s"] = 60
    return dict(http.post("/v1/tasks", json=document).json())


def edit(database: Database, task_id: int, **fields: Any) -> dict[str, Any]:
    values = changes.edit(changes.patch(fields))
    row = database.transaction(lambda c: control.edit(c, "default", task_id, values, actor="test"))
    assert row is not None
    return row


@pytest.mark.mysql
def test_an_edit_changes_what_it_names(database: Database) -> None:
    task_id = insert(database, None, cron="0 4 * * *", tags="a,b", exclude='[ "2030-12-25" ]', version=1)
    sql(database, "UPDATE tasks SET seen_state = 'active', seen_schedule_version = 1")
    before = task(database, task_id)
    row = edit(database, task_id, timeout_s=7, tags=["b", "c", "b"], misfire="all")
    assert (row["timeout_s"], row["tags"], row["misfire"]) == (7, "b,c", "all")
    assert (row["version"], row["schedule_version"], row["next_run_at"]) == (2, 1, before["next_run_at"])
    same = edit(database, task_id, timeout_s=7, cron="0 4 * * *", exclude=["2030-12-25"], timezone=None)
    assert (same["exclude"], same["schedule_version"]) == ('["2030-12-25"]', 2), "the text was another"
    assert edit(database, task_id, timeout_s=7, cron="0 4 * * *")["version"] == 3, "nothing is written"
    row = edit(database, task_id, cron="0 5 * * *", tags=None, timeout_s=None)
    assert (row["version"], row["schedule_version"]) == (4, 3)
    assert (row["cron"], row["tags"], row["timeout_s"]) == ("0 5 * * *", "", 60)
    assert row["next_run_at"].hour == 5
    stored = task(database, task_id)
    assert {name: stored[name] for name in row if name != "updated_at"} == {
        name: value for name, value in row.items() if name != "updated_at"
    }
    events = select(database, "SELECT action, version, actor FROM task_events ORDER BY id")
    assert [(e["action"], e["version"], e["actor"]) for e in events] == [("edited", n, "test") for n in (2, 3, 4)]


@pytest.mark.mysql
def test_a_kind_of_schedule_takes_the_place_of_the_other(database: Database) -> None:
    task_id = insert(database, None, every_s=60, jitter_s=5)
    row = edit(database, task_id, cron="0 5 * * *", timezone="Europe/Berlin")
    assert (row["every_s"], row["cron"], row["jitter_s"]) == (None, "0 5 * * *", 5)
    row = edit(database, task_id, run_at="2030-01-01T00:00:00Z", jitter_s=0)
    assert (row["cron"], row["next_run_at"].year) == (None, 2030)
    row = edit(database, task_id, in_s=90)
    assert 85 < (row["run_at"] - database.now()).total_seconds() <= 90
    with pytest.raises(Refused, match="exactly one"):
        edit(database, task_id, cron="* * * * *", every_s=5)
    with pytest.raises(Refused, match="exactly one"):
        edit(database, task_id, run_at=None)


@pytest.mark.mysql
def test_the_schedule_counts_from_where_it_did(database: Database) -> None:
    """every_s without start_at counts from the registration, also when another part of the schedule is edited."""
    created_at = database.now().replace(microsecond=0) - timedelta(seconds=90)
    task_id = insert(database, None, every_s=60, created_at=created_at)
    row = edit(database, task_id, end_at=(created_at + 3 * MINUTE).isoformat() + "Z")
    assert row["next_run_at"] == created_at + 2 * MINUTE


@pytest.mark.mysql
def test_an_edit_of_a_paused_task_leaves_it_paused_and_one_of_an_invalid_task_mends_it(database: Database) -> None:
    paused = insert(database, None, every_s=60, state="paused")
    row = edit(database, paused, every_s=90)
    assert (row["state"], row["schedule_version"]) == ("paused", 2)
    invalid = insert(database, None, cron="61 * * * *", payload="[1]")
    claim_all(database)
    assert task(database, invalid)["state"] == "invalid"
    with pytest.raises(Refused, match="cron"):
        edit(database, invalid, timezone="Europe/Berlin")
    row = edit(database, invalid, cron="1 * * * *")
    assert (row["state"], row["error"]) == ("active", None)
    assert row["next_run_at"] > database.now()


@pytest.mark.mysql
def test_a_payload_is_merged(database: Database) -> None:
    task_id = insert(database, 60.0, payload='{"a": {"b": 1, "c": 2}, "d": [1]}')
    assert edit(database, task_id, payload={"a": {"b": None, "e": 3}})["payload"] == '{"a":{"c":2,"e":3},"d":[1]}'
    assert edit(database, task_id, payload=[1])["payload"] == "[1]"
    assert edit(database, task_id, payload=None)["payload"] == "null"
    odd = insert(database, 60.0, payload="{'no json")
    assert edit(database, odd, timeout_s=5)["payload"] == "{'no json", "an edit of something else leaves it"
    assert edit(database, odd, payload={"a": None})["payload"] == "{}"


@pytest.mark.mysql
def test_an_old_task_can_still_be_edited_but_for_its_time(database: Database) -> None:
    task_id = insert(database, None, run_at=database.now() - timedelta(days=400))
    assert edit(database, task_id, name="old")["name"] == "old"
    with pytest.raises(Refused, match="too old"):
        edit(database, task_id, end_at=FUTURE)


@pytest.mark.mysql
def test_a_run_that_was_claimed_before_the_edit_does_not_start(database: Database) -> None:
    task_id = insert(database, 0.0)
    ready = claim_all(database)
    edit(database, task_id, run_at=FUTURE)
    [(run, verdict)] = start(database, ready).not_run
    assert (run["task_id"], verdict) == (task_id, "edited")


def test_edit_by_http(http: TestClient) -> None:
    made = http.post("/v1/tasks", json={"handler": "mock", "every_s": 60, "name": "n"})
    path = f"/v1/tasks/{made.json()['id']}"
    assert made.headers["etag"] == http.get(path).headers["etag"]
    assert made.headers["etag"].startswith('"1.')
    answer = http.patch(path, json={"cron": "0 5 * * *", "name": None})
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert (document["cron"], document["every_s"], document["name"], document["version"]) == (
        "0 5 * * *",
        None,
        None,
        2,
    )
    assert answer.headers["etag"] == http.get(path).headers["etag"]
    assert {n: v for n, v in document.items() if n != "warnings"} == http.get(path).json()
    assert_problem(http.patch("/v1/tasks/999999", json={"name": "x"}), 404, "not-found")
    http.delete(path)
    assert_problem(http.patch(path, json={"name": "x"}), 409, "state-conflict")


def test_if_match(http: TestClient) -> None:
    path = f"/v1/tasks/{add(http)['id']}"
    assert http.patch(path, json={"name": "a"}, headers={"If-Match": '"1"'}).status_code == 200
    for wrong in ('"1"', "2", 'W/"2"', '"x"', '""'):
        for method, end, body in (
            ("PATCH", "", {"name": "b"}),
            ("POST", "/pause", None),
            ("POST", "/resume", None),
            ("DELETE", "", None),
        ):
            problem = http.request(method, path + end, json=body, headers={"If-Match": wrong})
            assert "version 2" in assert_problem(problem, 412, "precondition-failed")["detail"]
    assert http.get(path).json()["version"] == 2
    for right in ('"2"', '"1", "3"', "*"):
        end = {"*": "/resume"}.get(right, "/pause")
        answer = http.post(path + end, headers={"If-Match": right})
        assert answer.status_code == 200, answer.text
    assert http.delete(path, headers={"If-Match": http.get(path).headers["etag"]}).json()["version"] == 5


def test_an_edit_with_a_key_is_made_once(http: TestClient) -> None:
    path = f"/v1/tasks/{add(http, payload={'n': 1})['id']}"
    headers = {"Idempotency-Key": "k", "If-Match": '"1"'}
    answers = [http.patch(path, json={"in_s": 60}, headers=headers) for _ in range(2)]
    assert [a.status_code for a in answers] == [200, 200]
    assert answers[0].text == answers[1].text
    assert answers[1].headers["idempotency-replayed"] == "true"
    assert answers[1].headers["etag"] == answers[0].headers["etag"]
    assert_problem(http.patch(path, json={"in_s": 61}, headers=headers), 422, "idempotency-key-reused")


def test_an_edit_whose_commit_was_lost_is_not_refused_for_its_own_version(
    http: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/v1/tasks/{add(http)['id']}"
    once, lost = ledger.Database._once, []

    def losing(self: Database, body: Any) -> Any:
        value = once(self, body)
        if isinstance(value, acceptance.Answer) and not lost:
            lost.append(1)
            raise UnknownCommit("lost")
        return value

    monkeypatch.setattr(ledger.Database, "_once", losing)
    answer = http.patch(path, json={"name": "x"}, headers={"If-Match": '"1"'})
    assert (lost, answer.status_code, answer.json()["version"]) == ([1], 200, 2)


BAD_EDITS: list[tuple[Any, list[str]]] = [
    ({}, ["#"]),
    ([], ["#"]),
    ("name", ["#"]),
    ({"task_key": "x"}, ["#/task_key"]),
    ({"nope": None, "id": 1}, ["#/nope", "#/id"]),
    ({"handler": None}, ["#/handler"]),
    ({"handler": ""}, ["#/handler"]),
    ({"every_s": None}, ["#/run_at"]),
    ({"every_s": 0}, ["#/every_s"]),
    ({"every_s": "60"}, ["#/every_s"]),
    ({"cron": "61 * * * *"}, ["#/cron"]),
    ({"cron": "* * * * *", "every_s": 5}, ["#/every_s"]),
    ({"timezone": "Mars/X"}, ["#/timezone"]),
    ({"end_at": "2020-01-01T00:00:00Z"}, ["#/end_at"]),
    ({"run_at": "2030-01-01T00:00:00"}, ["#/run_at"]),
    ({"exclude": ["x"]}, ["#/exclude"]),
    ({"exclude": "2030-01-01"}, ["#/exclude"]),
    ({"jitter_s": -1}, ["#/jitter_s"]),
    ({"dst_gap": "no"}, ["#/dst_gap"]),
    ({"misfire": "never"}, ["#/misfire"]),
    ({"max_misfires": 0}, ["#/max_misfires"]),
    ({"max_lateness_s": 0}, ["#/max_lateness_s"]),
    ({"overlap": 1}, ["#/overlap"]),
    ({"pause_after_failures": 0}, ["#/pause_after_failures"]),
    ({"max_runs": 0}, ["#/max_runs"]),
    ({"tags": ["a,b"]}, ["#/tags"]),
    ({"tags": "a"}, ["#/tags"]),
    ({"timeout_s": True}, ["#/timeout_s"]),
    ({"payload": "x" * 65_536}, ["#/payload"]),
    ({"name": "a\nb"}, ["#/name"]),
]


@pytest.mark.parametrize(("patch", "pointers"), BAD_EDITS)
def test_bad_edits_are_named_and_change_nothing(http: TestClient, patch: Any, pointers: list[str]) -> None:
    made = add(http)
    problem = assert_problem(http.patch(f"/v1/tasks/{made['id']}", json=patch), 422, "invalid-fields")
    assert [error["pointer"] for error in problem["errors"]] == pointers
    assert all("\n" not in error["detail"] for error in problem["errors"])
    assert http.get(f"/v1/tasks/{made['id']}").json()["version"] == 1


def test_resume_takes_catch_up(http: TestClient, database: Database) -> None:
    path = f"/v1/tasks/{add(http)['id']}"
    since = database.now().replace(microsecond=0) - timedelta(hours=1)
    for catch_up in (True, False):
        http.post(path + "/pause")
        sql(database, "UPDATE tasks SET missed_since = :s, next_run_at = NULL", s=since)
        answer = http.post(path + "/resume", json={"catch_up": catch_up})
        moment = since.isoformat() + ".000000Z"
        assert (answer.json()["next_run_at"] == moment) == catch_up
        assert (answer.json()["missed_since"] == moment) == catch_up
    for bad, pointer in (({"catch_up": 1}, "#/catch_up"), ({"catchup": True}, "#/catchup"), ([], "#")):
        problem = assert_problem(http.post(path + "/resume", json=bad), 422, "invalid-fields")
        assert [error["pointer"] for error in problem["errors"]] == [pointer]
    assert_problem(http.post(path + "/resume", content=b"{"), 400, "unreadable-json")


def test_backfill_by_http(http: TestClient, database: Database) -> None:
    now = database.now().replace(second=0, microsecond=0)
    since = now - 30 * MINUTE
    made = add(http, cron="* * * * *")
    path = f"/v1/tasks/{made['id']}/backfill"
    span = {"from": since.isoformat() + "Z", "to": (since + 2 * MINUTE).isoformat() + ".5Z"}
    dry = http.post(path, json=span | {"dry_run": True}, headers={"Idempotency-Key": "k"}).json()
    assert (dry["occurrences"], dry["runs"], dry["per_s"], dry["dry_run"]) == (3, 3, 10, True)
    assert dry["items"][2] == {"due_at": dry["to"].replace("00.5", "00.0"), "runs": True, "why": None}
    done = http.post(path, json=span, headers={"Idempotency-Key": "k"})
    assert (done.status_code, done.json()["runs"]) == (200, 3)
    replay = http.post(path, json=span, headers={"Idempotency-Key": "k"})
    assert (replay.text, replay.headers["idempotency-replayed"]) == (done.text, "true")
    assert http.post(path, json=span).json()["runs"] == 0
    items = http.get(f"/v1/tasks/{made['id']}/runs").json()["items"]
    assert [run["origin"] for run in items] == ["backfill"] * 3
    assert_problem(http.post("/v1/tasks/999999/backfill", json=span), 404, "not-found")
    http.delete(f"/v1/tasks/{made['id']}")
    assert_problem(http.post(path, json=span), 409, "state-conflict")


PAST = "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"from": None}, "#/from"),
        ({"from": "2026-01-01"}, "#/from"),
        ({"from": "2026-01-01T00:00:00"}, "#/from"),
        ({"to": "2026-02-30T00:00:00Z"}, "#/to"),
        ({"to": FUTURE}, "#/to"),
        ({"to": "2025-01-01T00:00:00Z"}, "#/to"),
        ({"to": 5}, "#/to"),
        ({"to": "2026-06-01T00:00:00Z"}, "#/from"),
        ({"per_s": 0}, "#/per_s"),
        ({"per_s": 1001}, "#/per_s"),
        ({"per_s": 1.5}, "#/per_s"),
        ({"per_s": True}, "#/per_s"),
        ({"dry_run": "yes"}, "#/dry_run"),
        ({"more": 1}, "#/more"),
    ],
)
def test_bad_backfills_are_named_and_add_nothing(
    http: TestClient, database: Database, change: dict[str, Any], pointer: str
) -> None:
    made = add(http, cron="* * * * *")
    document = {"from": PAST, "to": PAST} | change
    problem = assert_problem(http.post(f"/v1/tasks/{made['id']}/backfill", json=document), 422, "invalid-fields")
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
    assert select(database, "SELECT id FROM runs") == []


def test_edit_and_resume_by_the_command_line(shell: Shell, database: Database) -> None:  # noqa: F811
    made = shell.json("add", "mock", "--every", "60", "--payload", '{"a": 1}')
    [row] = shell.json("edit", str(made["id"]), "cron=0 5 * * *", "timezone=Europe/Berlin", 'payload={"b": 2}')
    assert (row["cron"], row["every_s"], row["timezone"]) == ("0 5 * * *", None, "Europe/Berlin")
    assert row["payload"] == {"a": 1, "b": 2}
    [row] = shell.json("edit", str(made["id"]), "timezone=", "payload=null", "max_runs=3", 'tags=["a"]', "name=a=b")
    assert (row["timezone"], row["payload"], row["max_runs"], row["tags"]) == ("UTC", None, 3, ["a"])
    assert row["name"] == "a=b"
    shell("pause", str(made["id"]))
    since = database.now() - timedelta(hours=1)
    sql(database, "UPDATE tasks SET missed_since = :s, next_run_at = NULL", s=since)
    [row] = shell.json("resume", str(made["id"]), "--catch-up")
    assert row["next_run_at"] == row["missed_since"] is not None
    other = shell.json("add", "mock", "--every", "60")
    shell("cancel", str(other["id"]))
    assert "cancelled" in shell.refuses("edit", str(made["id"]), str(other["id"]), "timeout_s=5", code=1)
    assert task(database, made["id"])["timeout_s"] == 60, "all or none"
    assert {e["actor"] for e in select(database, "SELECT actor FROM task_events")} == {"cli"}


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["edit", "ID"], "fields"),
        (["edit", "ID", "nope=1"], "nope"),
        (["edit", "ID", "task_key=x"], "task_key"),
        (["edit", "ID", "every_s=0"], "every_s"),
        (["edit", "ID", "every_s=abc"], "every_s"),
        (["edit", "ID", "cron=61 * * * *"], "cron"),
        (["edit", "ID", "name=1"], "name"),
        (["edit", "ID", "name=a", "name=b"], "name"),
        (["edit", "ID", "=5"], "no such field"),
        (["edit", "ID", "x"], "'x'"),
        (["edit", "0", "name=a"], "'0'"),
        (["edit", "name=a"], "IDs"),
        (["edit", "ID", "name=a", "--all"], "not both"),
        (["edit", "--all", "every_s=0"], "every_s"),
        (["edit", "--all", "handler="], "handler"),
        (["edit", "--all", "cron=* * * * *", "every_s=5"], "at most one"),
        (["pause"], "IDs"),
        (["pause", "ID", "--queue", "q"], "not both"),
        (["pause", "ID", "--dry-run"], "--dry-run"),
        (["cancel", "--dry-run"], "IDs"),
        (["resume", "--all", "--queue", "q"], "not both"),
        (["run-now", "--key", ""], "task_key"),
        (["pause", "--state", "odd"], "state"),
        (["pause", "--tag", "x" * 201], "tag"),
        (["backfill", "ID"], "--from"),
        (["backfill", "ID", "--from", "x", "--to", PAST], "from"),
        (["backfill", "ID", "--from", PAST, "--to", FUTURE], "future"),
        (["backfill", "ID", "--from", PAST, "--to", PAST, "--per-s", "0"], "per_s"),
        (["backfill", "x", "--from", PAST, "--to", PAST], "ID"),
    ],
)
def test_bad_input_is_one_line(shell: Shell, database: Database, argv: list[str], named: str) -> None:  # noqa: F811
    task_id = shell.json("add", "mock", "--every", "60")["id"]
    before = task(database, task_id)
    assert named in shell.refuses(*[str(task_id) if word == "ID" else word for word in argv])
    assert task(database, task_id) == before
    assert select(database, "SELECT id FROM runs") == []


def test_backfill_by_the_command_line(shell: Shell, database: Database) -> None:  # noqa: F811
    since = database.now().replace(second=0, microsecond=0) - 30 * MINUTE
    made = shell.json("add", "mock", "--cron", "* * * * *")
    argv = ["backfill", str(made["id"]), "--from", since.isoformat() + "Z", "--to", (since + MINUTE).isoformat() + "Z"]
    lines = shell(*argv, "--dry-run").splitlines()
    assert lines[0] == "due_at\truns\twhy"
    assert len(lines) == 3
    assert select(database, "SELECT id FROM runs") == []
    assert shell(*argv, "--per-s", "5") == "2 of 2 occurrences run, 5 a second\n"
    assert shell.json(*argv)["runs"] == 0
    assert "no task" in shell.refuses("backfill", "999999", *argv[2:], code=1)


def test_lists_take_tag_and_group_key(http: TestClient, shell: Shell, database: Database) -> None:  # noqa: F811
    tagged = add(http, tags=["red", "blue"])["id"]
    add(http, tags=["redder"])
    grouped = insert(database, 60.0, group_key="g", offset_s=0)
    for query, ids in (("tag=red", [tagged]), ("group_key=g", [grouped]), ("tag=re", []), ("tag=red,blue", [])):
        assert [t["id"] for t in http.get(f"/v1/tasks?{query}").json()["items"]] == ids
    assert [t["id"] for t in shell.json("list", "--tag", "blue")] == [tagged]
    assert [t["id"] for t in shell.json("list", "--group", "g")] == [grouped]


def test_the_events_of_a_task_tell_whether_a_change_is_there(http: TestClient, database: Database) -> None:
    made = add(http)
    mark = database.transaction(lambda c: tasks.last_event(c, made["id"]))
    assert database.transaction(lambda c: tasks.has_event(c, mark))
    assert not database.transaction(lambda c: tasks.has_event(c, mark + 1))
