"""The command line on real servers: what it prints, its exit codes, and one line for what is wrong."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import sqlalchemy as sa

from clockjack import cli
from clockjack.ledger import keys
from clockjack.ledger.database import Database
from clockjack.queues import Queues
from deploy import grants, servers
from tests.integration.life import owner

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def environment(owner_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOCKJACK_DATABASE_URL", owner_url)
    monkeypatch.setenv("CLOCKJACK_REDIS_URL", redis_url)


class Shell:
    """Runs commands in this process and keeps what they said."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self.error = ""

    def __call__(self, *argv: str, code: int = 0) -> str:
        ended = cli.run(list(argv))
        said = self._capture.readouterr()
        self.error = said.err
        assert ended == code, said
        return said.out

    def json(self, *argv: str) -> Any:
        return json.loads(self(*argv, "--json"))

    def refuses(self, *argv: str, code: int = 2) -> str:
        assert self(*argv, code=code) == ""
        assert self.error.startswith("clockjack: ")
        assert self.error.count("\n") == 1, self.error
        return self.error


@pytest.fixture
def shell(capsys: Capture) -> Shell:
    return Shell(capsys)


def test_a_task_from_its_registration_to_its_end(shell: Shell, database: Database, queues: Queues) -> None:
    assert shell("add", "mock", "--payload", '{"a": 1}', "--in", "10s").startswith("task ")
    assert "no consumer serves" in shell.error
    assert queues.redis.llen("clockjack:nudge") == 1
    task = shell.json("list")[0]
    assert shell.json("show", str(task["id"]))["payload"] == {"a": 1}
    assert (task["state"], task["handler"]) == ("active", "mock")
    made = shell.json("run-now", str(task["id"]), str(task["id"]))
    assert len({run["due_at"] for run in made}) == 2
    assert {run["id"] for run in shell.json("runs", str(task["id"]))} == {run["id"] for run in made}
    for command, state in (("pause", "paused"), ("resume", "active"), ("cancel", "cancelled")):
        assert shell.json(command, str(task["id"]))[0]["state"] == state
    shown = shell.json("show", str(task["id"]))
    assert shown["events"][0]["action"] == "cancelled"
    assert {event["actor"] for event in shown["events"]} == {"cli"}
    assert f"\n{task['id']}\tcancelled\tmock" in shell("list")
    assert "latest runs" in shell("show", str(task["id"]))
    assert "cancelled" in shell.refuses("resume", str(task["id"]), code=1)


def test_add_takes_every_field(shell: Shell) -> None:
    argv = ["add", "mock", "--cron", "0 30 2 * * *", "--tz", "Europe/Berlin", "--key", "k", "--queue", "q"]
    argv += ["--name", "n", "--start-at", "2030-01-01T00:00:00Z", "--end-at", "2031-01-01T00:00:00Z"]
    argv += ["--max-runs", "3", "--timeout", "7", "--max-failures", "2", "--backoff", "4", "--backoff-max", "9"]
    task = shell.json(*argv, "--namespace", "tenant")
    assert task["next_run_at"] == "2030-01-01T01:30:00.000000Z"
    assert (task["timezone"], task["queue"], task["name"]) == ("Europe/Berlin", "q", "n")
    assert (task["max_runs"], task["timeout_s"], task["max_failures"]) == (3, 7, 2)
    assert (task["backoff_s"], task["backoff_max_s"], task["namespace"]) == (4, 9, "tenant")
    assert shell.json(*argv, "--namespace", "tenant")["id"] == task["id"]
    assert shell.json("list") == []
    assert "no task" in shell.refuses("show", str(task["id"]), code=1)


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["mock", "--at", "2030-01-01T00:00:00Z", "--in", "5"], "run_at"),
        (["mock", "--in", "5x"], "--in"),
        (["mock", "--every", "5", "--payload", "{'a"], "payload"),
        (["mock", "--every", "5", "--payload", "NaN"], "payload"),
        (["mock", "--every", "5", "--payload", '"' + "x" * 70_000 + '"'], "payload"),
        (["mock", "--every", "5", "--timeout", "0"], "timeout_s"),
        (["mock", "--every", "5", "--name", "a\nb"], "name"),
        (["a b", "--every", "5"], "handler"),
        ([], "handler"),
        (["mock", "--bogus"], "--bogus"),
    ],
)
def test_bad_input_is_one_line_that_names_the_field(
    shell: Shell, database: Database, argv: list[str], named: str
) -> None:
    assert named in shell.refuses("add", *argv)
    assert database.transaction(lambda c: c.execute(sa.text("SELECT COUNT(*) FROM tasks")).scalar_one()) == 0


def test_other_bad_input(shell: Shell) -> None:
    assert "bogus" in shell.refuses("bogus")
    assert "state" in shell.refuses("list", "--state", "bogus")
    assert "limit" in shell.refuses("list", "--limit", "0")
    assert "cron" in shell.refuses("next", "* * * *")
    assert "timezone" in shell.refuses("next", "* * * * *", "--tz", "Mars/X")
    assert "from" in shell.refuses("next", "* * * * *", "--from", "today")
    assert "name" in shell.refuses("keys", "create", "a\nb")
    shell.refuses("pause", "1", code=1)
    shell.refuses("keys", "revoke", "abc", code=1)


def test_nothing_is_changed_when_one_of_several_is_unknown(shell: Shell) -> None:
    task = shell.json("add", "mock", "--every", "60")
    for command in ("pause", "run-now"):
        assert "999999999" in shell.refuses(command, str(task["id"]), "999999999", code=1)
    assert shell.json("show", str(task["id"]))["state"] == "active"
    assert shell.json("runs", str(task["id"])) == []


def test_lists_are_longer_than_a_page(shell: Shell, database: Database) -> None:
    database.transaction(
        lambda c: c.execute(
            sa.text("INSERT INTO tasks (handler, payload, every_s) VALUES (:h, 'null', 60)"), [{"h": "mock"}] * 450
        )
    )
    assert len(shell.json("list", "--limit", "1000")) == 450
    assert len({task["id"] for task in shell.json("list", "--limit", "401")}) == 401


def test_next_needs_no_server(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLOCKJACK_DATABASE_URL")
    monkeypatch.delenv("CLOCKJACK_REDIS_URL")
    argv = ["next", "30 2 * * *", "--tz", "Europe/Berlin", "--count", "2", "--from", "2026-03-27T12:00:00Z"]
    assert [due["local"] for due in shell.json(*argv)["next"]] == [
        "2026-03-28T02:30:00+01:00",
        "2026-03-29T03:00:00+02:00",
    ]
    assert len(shell("next", "@hourly").splitlines()) == 7  # the words, the columns, five times


def test_keys(shell: Shell, database: Database) -> None:
    made = shell.json("keys", "create", "first", "--namespace", "tenant")
    assert database.transaction(lambda c: keys.verify(c, made["api_key"])) == keys.Opened("tenant", "write")
    listed = shell("keys", "list", "--json")
    assert json.loads(listed)[0]["name"] == "first"
    assert made["api_key"].split("_", 2)[2] not in listed
    shell("keys", "revoke", json.loads(listed)[0]["key_prefix"])
    assert database.transaction(lambda c: keys.verify(c, made["api_key"])) is None
    assert shell("keys", "create", "second").startswith("cj_")


def test_a_key_is_rotated_and_both_are_valid_meanwhile(shell: Shell, database: Database) -> None:
    def opens(key: str) -> Any:
        return database.transaction(lambda c: keys.verify(c, key))

    how = ("--scope", "admin", "--per-second", "2.5", "--burst", "10", "--namespace", "tenant")
    first = shell.json("keys", "create", "first", *how)
    assert (first["per_second"], first["burst"], first["scope"]) == (2.5, 10, "admin")
    second = shell.json("keys", "rotate", first["key_prefix"], "--overlap", "1h")
    assert second["former"]["key_prefix"] == first["key_prefix"]
    same = {name: second[name] for name in ("namespace", "name", "scope", "per_second", "burst")}
    assert same == {name: first[name] for name in same}
    assert opens(first["api_key"]) == opens(second["api_key"]) == keys.Opened("tenant", "admin", 2.5, 10)
    shell("keys", "rotate", first["key_prefix"], "--overlap", "0")
    assert opens(first["api_key"]) is None
    assert "revoked" in shell.refuses("keys", "rotate", first["key_prefix"], code=1)
    assert "no key" in shell.refuses("keys", "rotate", "nothing", code=1)
    for wrong, field in (
        (("--scope", "root"), "scope"),
        (("--per-second", "0"), "per_second"),
        (("--burst", "5"), "burst"),
        (("--per-second", "9", "--burst", "5"), "burst"),
    ):
        assert field in shell.refuses("keys", "create", "x", *wrong)


def test_doctor(shell: Shell, database: Database, queues: Queues) -> None:
    queues.announce("c1", "default", ["mock"], 50)
    assert shell.json("doctor")["ok"] is True
    shell("add", "mock", "--every", "60", "--queue", "lonely")
    database.transaction(
        lambda c: c.execute(
            sa.text(
                "INSERT INTO tasks (handler, payload, run_at)"
                " VALUES ('mock', 'null', UTC_TIMESTAMP(6) - INTERVAL 1 MINUTE)"
            )
        )
    )
    found = json.loads(shell("doctor", "--json", code=1))
    problems = {finding["what"]: finding["text"] for finding in found["findings"] if finding["level"] == "problem"}
    assert set(problems) == {"consumers", "lateness"}
    assert "'lonely'" in problems["consumers"]
    assert found["queues"][0]["consumers"] == 1
    queues.redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        assert "noeviction" in shell("doctor", code=1)
    finally:
        queues.redis.config_set("maxmemory-policy", "noeviction")


def test_doctor_finds_a_server_that_may_lose_data(
    shell: Shell, database_server: servers.Server | None, database: Database
) -> None:
    if database_server is None:
        pytest.skip("CLOCKJACK_TEST_MYSQL_URL is set: this test changes settings of its database server")
    setting = "SET GLOBAL innodb_flush_log_at_trx_commit = "
    owner(database).transaction(lambda c: c.execute(sa.text(f"{setting}2")))
    try:
        assert "innodb_flush_log_at_trx_commit must be 1" in shell("doctor", code=1)
    finally:
        owner(database).transaction(lambda c: c.execute(sa.text(f"{setting}1")))


@pytest.mark.parametrize("module", ["producer", "dispatcher", "consumers"])
@pytest.mark.parametrize("wrong", ["password", "database"])
def test_a_refused_login_is_one_line(module: str, wrong: str, users: dict[str, str], redis_url: str) -> None:
    url = sa.make_url(users["producer"])
    url = url.set(password="hunter2") if wrong == "password" else url.set(database="mysql")
    env = os.environ | {"CLOCKJACK_REDIS_URL": redis_url, "PORT": "0"}
    env["CLOCKJACK_DATABASE_URL"] = url.render_as_string(hide_password=False)
    ended = subprocess.run([sys.executable, "-m", module], env=env, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"{module.removesuffix('s')}: the database refuses the login (")
    assert ended.stderr.count("\n") == 1
    assert "hunter2" not in ended.stderr + ended.stdout


def test_doctor_says_which_rights_its_user_lacks(
    shell: Shell, users: dict[str, str], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stage in grants.STAGES:
        monkeypatch.setenv("CLOCKJACK_DATABASE_URL", users[stage])
        assert "ok\trights" in shell("doctor")
    revoked = sa.text("REVOKE INSERT ON task_events FROM 'consumer'@'%'")
    owner(database).transaction(lambda c: c.execute(revoked))
    try:
        assert "lacks INSERT on task_events: run" in shell("doctor", code=1)
    finally:
        owner(database).transaction(lambda c: c.execute(sa.text("GRANT INSERT ON task_events TO 'consumer'@'%'")))


def test_servers_away_are_one_line(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    redis_url = "redis://127.0.0.1:9/0"
    monkeypatch.setenv("CLOCKJACK_REDIS_URL", redis_url)
    assert "registered" in shell("add", "mock", "--every", "60")
    assert "Redis cannot be reached" in shell.error
    monkeypatch.setenv("CLOCKJACK_DATABASE_URL", "mysql+pymysql://root:hunter2@127.0.0.1:9/clockjack")
    for argv in (["list"], ["add", "mock", "--every", "5"], ["pause", "1"], ["migrate"]):
        assert "hunter2" not in shell.refuses(*argv, code=1)
    assert "problem\tdatabase" in shell("doctor", code=1)
    monkeypatch.setenv("CLOCKJACK_DATABASE_URL", "postgres://x")
    assert "CLOCKJACK_DATABASE_URL" in shell.refuses("list")


def test_a_database_without_tables_says_what_to_do(shell: Shell, owner_url: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("CLOCKJACK_DATABASE_URL", owner_url.replace("/clockjack?", "/mysql?"))
    assert "clockjack migrate" in shell.refuses("list", code=1)
    assert "clockjack migrate" in shell("doctor", code=1)
    monkeypatch.setenv("CLOCKJACK_DATABASE_URL", owner_url.replace("/clockjack?", "/nothing?"))
    assert "clockjack migrate" in shell.refuses("list", code=1) or "1049" in shell.error


def test_the_installed_command_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from clockjack.cli import main; main()", "list", "--json"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (0, [], "")


def test_explain(shell: Shell) -> None:
    one = str(shell.json("add", "mock", "--cron", "30 2 * * *", "--tz", "Europe/Berlin")["id"])
    shown = shell("explain", one)
    assert "schedule\n  At 02:30 (Europe/Berlin).\n" in shown
    assert "state\n  It is active, registered at " in shown
    assert "no consumer serves" in shell.error
    assert list(shell.json("explain", one)) == ["task_id", "schedule", "state", "next", "recent", "warnings"]
    assert "there is no task" in shell.refuses("explain", "999999999", code=1)
    assert "there is no task" in shell.refuses("explain", one, "--namespace", "other", code=1)


def test_a_simulation_of_a_task(shell: Shell) -> None:
    one = str(shell.json("add", "mock", "--cron", "30 2 * * *", "--tz", "Europe/Berlin", "--misfire", "skip")["id"])
    window = ["--from", "2027-03-26T12:00:00Z", "--to", "2027-03-28T12:00:00Z"]
    outage = ["--outage", "2027-03-27T01:00:00Z..2027-03-27T02:00:00Z"]
    found = shell.json("simulate", "--task", one, *window, *outage)
    assert [(row["utc"], row["what"]) for row in found["rows"]] == [
        ("2027-03-27T01:30:00Z", "skipped"),
        ("2027-03-28T01:00:00Z", "runs"),
    ]
    found = shell.json("simulate", "--task", one, *window, *outage, "--misfire", "once")
    assert found["rows"][0]["what"] == "runs late"
    assert "cron" in shell.refuses("simulate", "* * * * *", "--task", one)
    assert "there is no task" in shell.refuses("simulate", "--task", "999999999", code=1)
    assert "there is no task" in shell.refuses("simulate", "--task", one, "--namespace", "other", code=1)
