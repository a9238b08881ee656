"""`clockjack run` and `clockjack dead`: functions and words of the API, exit codes as of the other commands."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from clockjack import cli
from clockjack.ledger.database import Database
from clockjack.ledger.finish import Outcome
from tests.integration.life import claim_all, finish, held, insert, run_of, select, sql, start

Said = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def said(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Said:
    """The exit code of a command, what it printed (read from JSON where it was asked for), and its complaint."""
    monkeypatch.setenv("CLOCKJACK_DATABASE_URL", database_url)
    monkeypatch.setenv("CLOCKJACK_REDIS_URL", redis_url)

    def run(*argv: str) -> tuple[int, Any, str]:
        code = cli.run([*argv])
        out, err = capsys.readouterr()
        return code, json.loads(out) if "--json" in argv and out else out, err

    return run


def failed(database: Database, **columns: Any) -> int:
    """A run that has failed for good."""
    task_id = insert(database, max_failures=1, **columns)
    started = start(database, claim_all(database))
    finish(database, *(Outcome(one, "failed", error="ValueError: x") for one in held(started)))
    run = run_of(database, task_id)
    assert run["state"] == "failed"
    return int(run["id"])


def test_list_and_get_are_those_of_the_api(said: Said, database: Database, http: TestClient) -> None:
    late = failed(database, in_s=-30.0, queue="mail")
    ready = insert(database, 3.0)
    claim_all(database)
    for argv, query in (
        ((), ""),
        (("--state", "failed"), "?state=failed"),
        (("--queue", "mail", "--handler", "mock"), "?queue=mail&handler=mock"),
        (("--late-ms", "20000"), "?late_ms=20000"),
        (("--due-from", "2100-01-01T00:00:00Z"), "?due_from=2100-01-01T00:00:00Z"),
        (("--limit", "1"), "?limit=1"),
    ):
        code, found, _ = said("run", "list", "--json", *argv)
        assert (code, found) == (0, http.get(f"/v1/runs{query}").json()["items"]), argv
    assert [run["task_id"] for run in said("run", "list", "--json")[1]] == [ready, found_task(database, late)]
    assert said("dead", "list", "--json")[1] == http.get("/v1/runs?state=failed").json()["items"]
    assert said("dead", "list", "--queue", "other")[1].count("\n") == 1
    code, found, _ = said("run", "get", str(late), "--json")
    assert (code, found) == (0, http.get(f"/v1/runs/{late}").json())
    assert found["attempts"][0]["outcome"] == "failed"
    assert "attempts that did not succeed" in said("run", "get", str(late))[1]


def found_task(database: Database, run_id: int) -> int:
    return int(select(database, "SELECT task_id FROM runs WHERE id = :i", i=run_id)[0]["task_id"])


def test_a_list_goes_on_behind_a_page(said: Said, database: Database) -> None:
    for _ in range(201):
        insert(database)
    claim_all(database)
    found = said("run", "list", "--json", "--limit", "300")[1]
    assert len({run["id"] for run in found}) == 201


def test_retry_and_cancel(said: Said, database: Database) -> None:
    one = failed(database)
    code, out, complaint = said("run", "cancel", str(one))
    assert (code, out, "the run is failed" in complaint) == (1, "", True)
    code, run, _ = said("run", "retry", str(one), "--json")
    assert (code, run["state"], run["failures"]) == (0, "ready", 0)
    code, _, complaint = said("run", "retry", str(one))
    assert (code, "only a failed or cancelled run" in complaint) == (1, True)
    code, run, _ = said("run", "cancel", str(one), "--json")
    assert (code, run["state"]) == (0, "cancelled")
    assert said("run", "cancel", str(one))[0] == 0, "again it changes nothing"
    actions = [row["action"] for row in select(database, "SELECT action FROM task_events WHERE actor = 'cli'")]
    assert actions == ["run_retried", "run_cancelled"]


def test_replay(said: Said, database: Database) -> None:
    ones = [failed(database, queue=queue) for queue in ("mail", "mail", "other")]
    gone = failed(database, queue="mail")
    sql(database, "UPDATE tasks SET state = 'cancelled' WHERE id = :i", i=found_task(database, gone))
    code, found, _ = said("dead", "replay", "--queue", "mail", "--dry-run", "--json")
    assert (code, found["matched"], found["retried"]) == (0, 3, 0)
    code, out, complaint = said("dead", "replay", "--queue", "mail")
    assert (code, out) == (0, "3 match, 2 are due now\n")
    assert f"run {gone} refused" in complaint
    assert said("dead", "replay", "--all", "--json")[1]["retried"] == 1
    states = {row["id"]: row["state"] for row in select(database, "SELECT id, state FROM runs")}
    assert states == dict.fromkeys(ones, "ready") | {gone: "failed"}


@pytest.mark.parametrize(
    ("argv", "code", "complaint"),
    [
        (("run", "get", "4711"), 1, "there is no run 4711"),
        (("run", "retry", "4711"), 1, "there is no run 4711"),
        (("run", "cancel", "4711"), 1, "there is no run 4711"),
        (("run", "get", "0"), 2, "Invalid value"),
        (("run", "list", "--state", "dead"), 2, "state: expected 'ready'"),
        (("run", "list", "--due-from", "yesterday"), 2, "due_from"),
        (("run", "list", "--late-ms", "-1"), 2, "late_ms"),
        (("dead", "list", "--queue", "x" * 65), 2, "queue"),
        (("dead", "replay"), 2, "give either a filter"),
        (("dead", "replay", "--all", "--queue", "mail"), 2, "give either a filter"),
        (("dead", "replay", "--due-until", "2030-01-01"), 2, "due_until"),
    ],
)
def test_bad_input(said: Said, argv: tuple[str, ...], code: int, complaint: str) -> None:
    got, out, err = said(*argv)
    assert (got, out) == (code, "")
    assert complaint in err
    assert err.count("\n") == 1


def test_other_namespaces_have_no_such_run(said: Said, database: Database) -> None:
    one = failed(database)
    for argv in (("run", "get"), ("run", "retry"), ("run", "cancel")):
        assert said(*argv, str(one), "--namespace", "theirs")[0] == 1
    assert said("dead", "list", "--namespace", "theirs", "--json")[1] == []
    assert run_of(database, found_task(database, one))["state"] == "failed"
