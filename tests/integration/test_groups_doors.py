"""Groups by the command line, the client and plain SQL; and what is refused, by name, with nothing changed."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy.exc import DBAPIError
from starlette.testclient import TestClient

from clockjack import Client, documents
from clockjack.ledger.database import Database
from clockjack.queues import Queues
from tests.integration.life import claim_all, insert, select, sql, start
from tests.integration.test_cli import Shell
from tests.integration.test_client import client, producer
from tests.integration.test_groups import DAY, EVENT, HOUR, NEW_YEAR, REMINDERS, everything, put, shell, stored
from tests.integration.test_http import assert_problem, count

__all__ = ["client", "producer", "shell"]  # fixtures
pytestmark = pytest.mark.mysql

BAD: list[tuple[str, dict[str, Any]]] = [
    ("offsets_s", {"offsets_s": [-60, 0, -60]}),
    ("offsets_s", {"offsets_s": []}),
    ("offsets_s", {"offsets_s": list(range(51))}),
    ("offsets_s", {"offsets_s": [31_536_001]}),
    ("offsets_s", {"offsets_s": [-31_536_001]}),
    ("offsets_s", {"offsets_s": [1.5]}),
    ("offsets_s", {"offsets_s": [True]}),
    ("offsets_s", {"offsets_s": ["-60"]}),
    ("offsets_s", {"offsets_s": -60}),
    ("offsets_s", {"offsets_s": None}),
    ("offsets_s", {"anchor_at": "2199-12-30T00:00:00Z", "offsets_s": [0, 2 * DAY]}),
    ("anchor_at", {"anchor_at": None}),
    ("anchor_at_local", {"anchor_at_local": "2030-01-01T00:00:00"}),
    ("anchor_at", {"anchor_at": "1999-12-31T23:59:59Z"}),
    ("anchor_at", {"anchor_at": "2030-01-01T00:00:00"}),
    ("anchor_at", {"anchor_at": "2025-01-01T00:00:00Z"}),
    ("anchor_at_local", {"anchor_at": None, "anchor_at_local": "2030-01-01T00:00:00Z"}),
    ("anchor_at_local", {"anchor_at": None, "anchor_at_local": "1999-01-01T00:00:00"}),
    (
        "anchor_at_local",
        {"anchor_at": None, "anchor_at_local": "2030-03-31T03:00:00", "timezone": "Europe/Berlin", "dst_gap": "skip",
         "offsets_s": [0, -1800]},
    ),
    ("timezone", {"timezone": "Mars/Base"}),
    ("timezone", {"timezone": ""}),
    ("dst_gap", {"dst_gap": "x"}),
    ("dst_fold", {"anchor_at": None, "anchor_at_local": "2030-01-01T00:00:00", "dst_fold": "both"}),
    ("jitter_s", {"jitter_s": -1}),
    ("run_at", {"run_at": "2030-01-01T00:00:00Z"}),
    ("in_s", {"in_s": 5}),
    ("cron", {"cron": "* * * * *"}),
    ("every_s", {"every_s": 60}),
    ("rrule", {"rrule": "FREQ=DAILY"}),
    ("end_at", {"end_at": "2031-01-01T00:00:00Z"}),
    ("max_runs", {"max_runs": 1}),
    ("task_key", {"task_key": "k"}),
    ("group_key", {"group_key": "k"}),
    ("offset_s", {"offset_s": 1}),
    ("handler", {"handler": "a b"}),
    ("queue", {"queue": ""}),
    ("payload", {"payload": "x" * 65_536}),
    ("timeout_s", {"timeout_s": 0}),
    ("overlap", {"overlap": "never"}),
    ("tags", {"tags": ["a b"]}),
]  # fmt: skip


@pytest.mark.parametrize("known", [False, True])
def test_bad_fields_are_named_and_change_nothing(http: TestClient, database: Database, known: bool) -> None:
    if known:
        put(database, NEW_YEAR, [-60, 5])
    before = everything(database)
    for field, change in BAD:
        problem = assert_problem(http.put("/v1/groups/g", json=EVENT | change), 422, "invalid-fields")
        assert [error["pointer"] for error in problem["errors"]] == [f"#/{field}"], (change, problem)
        assert everything(database) == before
    for body in (b"", b"[", b'{"handler": "a", "handler": "b"}'):
        assert_problem(http.put("/v1/groups/g", content=body), 400, "unreadable-json")
    assert_problem(http.put("/v1/groups/g", json=[]), 422, "invalid-fields")


@pytest.mark.parametrize(
    ("field", "sent"),
    [
        ("anchor_at", {}),
        ("anchor_at", {"timezone": "UTC"}),
        ("anchor_at_local", {"anchor_at": "2030-01-01T00:00:00Z", "anchor_at_local": "2030-01-01T00:00:00"}),
        ("anchor_at", {"anchor_at": "2025-01-01T00:00:00Z"}),
        ("anchor_at", {"anchor_at": "1999-01-01T00:00:00Z"}),
        ("offsets_s", {"anchor_at": "2000-01-01T00:00:00Z"}),
        ("timezone", {"anchor_at_local": "2030-01-01T00:00:00", "timezone": "Mars/Base"}),
        ("offsets_s", {"anchor_at": "2030-01-01T00:00:00Z", "offsets_s": [1]}),
        ("handler", {"anchor_at": "2030-01-01T00:00:00Z", "handler": "mock"}),
    ],
)
def test_a_bad_move_moves_nothing(http: TestClient, database: Database, field: str, sent: dict[str, Any]) -> None:
    put(database, NEW_YEAR, REMINDERS)
    before = everything(database)
    problem = assert_problem(http.post("/v1/groups/g/move", json=sent), 422, "invalid-fields")
    assert [error["pointer"] for error in problem["errors"]] == [f"#/{field}"]
    assert everything(database) == before


@pytest.mark.parametrize("key", ["x" * 181, " a", "a ", "a/../b", "a//b", "/a", "a/", "", "a\tb", "\u200b"])
def test_other_names_are_refused(http: TestClient, shell: Shell, database: Database, key: str) -> None:
    answer = http.put(f"/v1/groups/{quote(key, safe='').replace('.', '%2E')}", json=EVENT)
    assert [e["pointer"] for e in assert_problem(answer, 422, "invalid-fields")["errors"]] == ["#/group_key"]
    assert "group_key" in shell.refuses(
        "group", "put", "--offsets=0", "--anchor", EVENT["anchor_at"], "--", key, "mock"
    )
    assert_problem(http.get(f"/v1/groups/{quote(key, safe='')}"), 404, "not-found")
    assert count(database) == 0


def test_the_command_line_does_the_same(shell: Shell, database: Database, queues: Queues) -> None:
    argv = ["--anchor-local", "2030-06-01T09:00:00", "--tz", "Europe/Berlin", "--offsets=-1d,-1h,-10m,+0"]
    argv += ["--payload", '{"a": 1}', "--tag", "t", "--max-lateness", "60", "--queue", "q", "--jitter", "0"]
    made = shell.json("group", "put", "event/7", "mock", *argv)
    assert [m["offset_s"] for m in made["members"]] == [-DAY, -HOUR, -600, 0]
    assert made["members"][0]["next_run_at"] == "2030-05-31T07:00:00.000000Z"
    assert (made["members"][0]["payload"], made["members"][0]["max_lateness_s"]) == ({"a": 1}, 60)
    assert queues.redis.llen("clockjack:nudge") == 1
    moved = shell("group", "move", "event/7", "--anchor", "2030-06-02T09:00:00Z")
    assert "\t-86400\tactive\tmock\t2030-06-01T09:00:00.000000Z" in moved
    assert shell.json("group", "show", "event/7")["anchor_at"] == "2030-06-02T09:00:00.000000Z"
    shell("group", "cancel", "event/7")
    assert {m["state"] for m in shell.json("group", "show", "event/7")["members"]} == {"cancelled"}
    assert "cancelled" in shell.refuses("group", "move", "event/7", "--anchor", "2030-06-02T09:00:00Z", code=1)
    shell("group", "put", "g", "mock", "--offsets", "-1d,600", "--anchor", documents.moment(database.now()) or "")
    assert "-86400 s is past" in shell.error
    events = select(database, "SELECT DISTINCT actor, action FROM task_events ORDER BY action")
    assert [tuple(e.values()) for e in events] == [("cli", "cancelled"), ("cli", "edited"), ("cli", "registered")]


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--offsets=-1d,-24h", "--anchor", "2030-01-01T00:00:00Z"], "offsets_s"),
        (["--offsets=", "--anchor", "2030-01-01T00:00:00Z"], "offsets_s"),
        (["--offsets=1w", "--anchor", "2030-01-01T00:00:00Z"], "offsets_s"),
        (["--offsets=-1.5h", "--anchor", "2030-01-01T00:00:00Z"], "offsets_s"),
        (["--offsets=" + ",".join(map(str, range(51))), "--anchor", "2030-01-01T00:00:00Z"], "offsets_s"),
        (["--offsets=366d", "--anchor", "2030-01-01T00:00:00Z"], "offsets_s"),
        (["--anchor", "2030-01-01T00:00:00Z"], "offsets"),
        (["--offsets=0"], "anchor_at"),
        (["--offsets=0", "--anchor", "2030-01-01T00:00:00Z", "--anchor-local", "2030-01-01T00:00:00"], "anchor_at"),
        (["--offsets=0", "--anchor", "1999-01-01T00:00:00Z"], "anchor_at"),
        (["--offsets=0", "--anchor", "2025-01-01T00:00:00Z"], "anchor_at"),
        (["--offsets=2d", "--anchor", "2199-12-30T00:00:00Z"], "offsets_s"),
        (["--offsets=0", "--anchor-local", "2030-01-01T00:00:00", "--tz", "Mars/X"], "timezone"),
        (["--offsets=0", "--anchor", "2030-01-01T00:00:00Z", "--payload", "{"], "payload"),
        (["--offsets=0", "--anchor", "2030-01-01T00:00:00Z", "--timeout", "0"], "timeout_s"),
        (["--offsets=0", "--anchor", "2030-01-01T00:00:00Z", "--cron", "* * * * *"], "--cron"),
    ],
)
def test_bad_input_on_the_command_line_is_one_line(
    shell: Shell, database: Database, argv: list[str], named: str
) -> None:
    assert named in shell.refuses("group", "put", "g", "mock", *argv)
    assert count(database) == count(database, "idempotency_keys") == 0


# --- the client, and plain SQL


def test_the_client_does_the_same(client: Client) -> None:
    anchor = datetime(2030, 6, 1, 9, tzinfo=UTC)
    made = client.put_group("a/b#c %41é", "mock", [1], anchor_at=anchor, offsets_s=REMINDERS, queue="q")
    assert [(m["offset_s"], m["queue"], m["payload"]) for m in made["members"]] == [(o, "q", [1]) for o in REMINDERS]
    assert client.group("a/b#c %41é")["group_key"] == "a/b#c %41é"
    moved = client.move_group("a/b#c %41é", anchor_at_local=datetime(2030, 6, 1, 9), timezone="Europe/Berlin")
    assert (moved["anchor_at_local"], moved["timezone"]) == ("2030-06-01T09:00:00", "Europe/Berlin")
    assert {m["state"] for m in client.cancel_group("a/b#c %41é")["members"]} == {"cancelled"}
    for wrong in ({"anchor_at": datetime(2030, 6, 1)}, {"anchor_at_local": anchor}):
        with pytest.raises(ValueError, match="anchor_at"):
            client.put_group("g", "mock", offsets_s=[0], **wrong)


def documented() -> dict[str, str]:
    """The statements of docs/sql.md's chapter on groups, by the comment above each."""
    text = (Path(__file__).parents[2] / "docs" / "sql.md").read_text()
    chapter = text[text.index("## Groups") : text.index("## What is refused")]
    block = "\n".join(line[4:] for line in chapter.splitlines() if line.startswith("    ") or not line)
    return dict(re.findall(r"-- (\w+)[^\n]*\n(.+?);", block, re.DOTALL))


def run_documented(database: Database, name: str) -> None:
    statement = documented()[name].replace(":", r"\:")  # no parameters
    sql(database, statement)


def test_plain_sql_does_the_same(http: TestClient, database: Database) -> None:
    assert list(documented()) == ["register", "move", "cancel", "look"]
    run_documented(database, "register")
    made = http.get("/v1/groups/event-7").json()
    assert (made["anchor_at"], made["warnings"]) == ("2030-06-01T09:00:00.000000Z", [])
    assert [(m["offset_s"], m["payload"], m["next_run_at"] == m["run_at"]) for m in made["members"]] == [
        (-DAY, {"event": 7}, True),
        (-HOUR, {"event": 7}, True),
    ]
    put(database, NEW_YEAR, REMINDERS, key="event-7#1")  # a neighbour in the same range
    before = stored(database, "event-7#1")
    run_documented(database, "move")
    moved = http.get("/v1/groups/event-7").json()
    assert moved["anchor_at"] == "2030-06-02T09:00:00.000000Z"
    assert {(m["next_run_at"] == m["run_at"], m["schedule_version"]) for m in moved["members"]} == {(True, 2)}
    assert select(database, documented()["look"].replace(":", r"\:"))[0].keys() >= {"id", "offset_s"}
    again = http.put("/v1/groups/event-7", json=EVENT)
    assert again.status_code == 200
    assert {m["id"] for m in made["members"]} < {m["id"] for m in again.json()["members"]}
    run_documented(database, "cancel")
    assert {m["state"] for m in http.get("/v1/groups/event-7").json()["members"]} == {"cancelled"}
    assert stored(database, "event-7#1") == before


def test_sql_reads_no_more_than_the_group(database: Database) -> None:
    for n in range(200):
        insert(database, 3600, task_key=f"x{n}")
    run_documented(database, "register")
    select(database, "ANALYZE TABLE tasks")
    for name in ("move", "cancel", "look"):
        found = select(database, "EXPLAIN FORMAT=TRADITIONAL " + documented()[name].replace(":", r"\:"))[0]
        assert (found["key"], found["type"]) == ("task_key", "range"), name


def test_a_move_by_sql_cancels_what_was_claimed_and_lateness_skips_what_is_past(database: Database) -> None:
    add = "group_key = 'g', offset_s = -1, task_key = 'g#-1', handler = 'mock', max_lateness_s = 60"
    sql(database, f"INSERT INTO tasks SET {add}, run_at = UTC_TIMESTAMP(6) - INTERVAL 1 SECOND")
    ready = claim_all(database)
    to = "UTC_TIMESTAMP(6) + INTERVAL {} SECOND"
    move = (
        "UPDATE tasks SET run_at = {0}, next_run_at = {0}, schedule_version = schedule_version + 1"
        " WHERE namespace = 'default' AND task_key >= 'g#' AND task_key < 'g$' AND group_key = 'g'"
    )
    sql(database, move.format(to.format(3600)))
    assert [why for _, why in start(database, ready).not_run] == ["edited"]
    sql(database, move.format(to.format(-3600)))
    assert claim_all(database) == []
    reasons = select(database, "SELECT state, reason FROM runs ORDER BY due_at")
    assert [tuple(row.values()) for row in reasons] == [("skipped", "too_late"), ("cancelled", "edited")]


def test_checks_want_both_columns(database: Database) -> None:
    for columns in ({"group_key": "g"}, {"offset_s": 1}):
        with pytest.raises(DBAPIError, match="tasks_group"):
            insert(database, 60, **columns)
