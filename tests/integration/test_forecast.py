"""The coming load by every door, and what a registration says of a second that is crowded."""

import sys
from datetime import datetime, timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from clockjack.ledger import forecast
from clockjack.ledger.database import Database
from tests.integration.life import insert, select, sql
from tests.integration.test_cli import Capture, Shell
from tests.integration.test_http import assert_problem

pytestmark = pytest.mark.mysql
BEGIN = datetime(2030, 1, 1, 9)
TEXT = "2030-01-01T09:00:00Z"


@pytest.fixture
def shell(capsys: Capture, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setenv("CLOCKJACK_DATABASE_URL", database_url)
    monkeypatch.setenv("CLOCKJACK_REDIS_URL", redis_url)
    return Shell(capsys)


def fill(database: Database, *seconds: float, namespace: str = "default") -> None:
    """One task for each of these, so long after BEGIN."""
    values = ", ".join(f"('mock', :n, :t{i})" for i in range(len(seconds)))
    times = {f"t{i}": BEGIN + timedelta(seconds=s) for i, s in enumerate(seconds)}
    sql(database, f"INSERT INTO tasks (handler, namespace, run_at) VALUES {values}", n=namespace, **times)


def look(database: Database, bucket: str, **options: Any) -> dict[str, Any]:
    return database.transaction(lambda c: forecast.forecast(c, bucket, **options))


def load(found: dict[str, Any]) -> dict[int, int]:
    """The due of each bucket that has any, by its seconds after BEGIN."""
    return {int((one["at"] - BEGIN).total_seconds()): one["due"] for one in found["buckets"] if one["due"]}


def test_each_task_counts_once_in_the_second_or_minute_of_its_next_occurrence(database: Database) -> None:
    fill(database, 0, 0.999999, 1, 59.5, 60, 119.999999, -0.000001, 3600)
    fill(database, 1.25, namespace="other")
    insert(database, None, cron="* * * * *", next_run_at=BEGIN + timedelta(seconds=120))
    insert(database, None, cron="* * * * *", next_run_at=BEGIN + timedelta(seconds=120), state="paused")
    insert(database, None, every_s=60, next_run_at=None)
    seconds = look(database, "1s", begin=BEGIN)
    assert load(seconds) == {0: 2, 1: 2, 59: 1}
    assert (len(seconds["buckets"]), seconds["from"], seconds["bucket"]) == (60, BEGIN, "1s")
    minutes = look(database, "1m", begin=BEGIN, buckets=600)
    assert load(minutes) == {0: 5, 60: 2, 120: 2, 3600: 1}
    assert minutes["busiest"] == {"at": BEGIN, "due": 5}
    assert (len(minutes["buckets"]), minutes["truncated"], minutes["overdue"]) == (600, False, 0)
    assert load(look(database, "1m", begin=BEGIN, buckets=2)) == {0: 5, 60: 2}


def test_buckets_begin_at_whole_seconds_and_minutes(database: Database) -> None:
    fill(database, 0, 30)
    inside = BEGIN + timedelta(seconds=10.5)
    assert look(database, "1m", begin=inside)["from"] == BEGIN
    assert load(look(database, "1m", begin=inside)) == {0: 2}
    assert look(database, "1s", begin=inside)["from"] == BEGIN + timedelta(seconds=10)
    now = database.now()
    assert now.replace(second=0, microsecond=0) <= look(database, "1m")["from"] <= database.now()


def test_what_is_due_before_now_is_overdue_and_in_no_bucket(database: Database) -> None:
    for in_s in (-3600, -0.5, 400):
        insert(database, in_s)
    found = look(database, "1m", begin=database.now() - timedelta(minutes=5), buckets=60)
    assert (found["overdue"], sum(one["due"] for one in found["buckets"])) == (2, 1)
    assert look(database, "1m", begin=BEGIN)["overdue"] == 2


def test_nothing_to_come_has_no_busiest(database: Database) -> None:
    found = look(database, "1s", begin=BEGIN, buckets=3)
    assert [one["due"] for one in found["buckets"]] == [0, 0, 0]
    assert found["busiest"] is None


def test_the_end_of_time(database: Database) -> None:
    last = datetime(2199, 12, 31, 23, 59, 30)
    sql(database, "INSERT INTO tasks (handler, run_at) VALUES ('mock', :t)", t=last)
    found = look(database, "1m", begin=last, buckets=600)
    assert [one["due"] for one in found["buckets"]] == [1]


def test_a_scan_that_was_cut_says_so_and_claims_nothing_beyond(database: Database) -> None:
    fill(database, 0, 0, 1, 1, 1, 5)
    cut = look(database, "1s", begin=BEGIN, most=4)
    assert (cut["truncated"], load(cut), len(cut["buckets"])) == (True, {0: 2, 1: 2}, 2)
    at_an_edge = look(database, "1s", begin=BEGIN, most=5)
    assert (at_an_edge["truncated"], load(at_an_edge), len(at_an_edge["buckets"])) == (True, {0: 2, 1: 3}, 6)
    assert look(database, "1s", begin=BEGIN, most=6)["truncated"] is False


def test_http_answers_texts_and_counts_every_namespace(http: TestClient, database: Database) -> None:
    fill(database, 0, 61, 61)
    fill(database, 62, namespace="other")
    found = http.get("/v1/forecast", params={"bucket": "1m", "from": TEXT, "buckets": 2}).json()
    first = {"at": "2030-01-01T09:00:00.000000Z", "due": 1}
    second = {"at": "2030-01-01T09:01:00.000000Z", "due": 3}
    assert found == {
        "bucket": "1m",
        "from": "2030-01-01T09:00:00.000000Z",
        "counts": forecast.COUNTS,
        "buckets": [first, second],
        "busiest": second,
        "overdue": 0,
        "truncated": False,
    }
    assert len(http.get("/v1/forecast").json()["buckets"]) == 60
    offset = http.get("/v1/forecast", params={"from": "2030-01-01T10:00:00+01:00", "buckets": 1}).json()
    assert offset["buckets"] == [first]


BAD = [
    ("bucket", "1h"),
    ("bucket", ""),
    ("buckets", "0"),
    ("buckets", "601"),
    ("buckets", "-1"),
    ("buckets", "1.5"),
    ("buckets", "x"),
    ("from", ""),
    ("from", "today"),
    ("from", "2030-01-01"),
    ("from", "2030-01-01T09:00:00"),
    ("from", "2030-02-30T09:00:00Z"),
    ("from", "1999-12-31T23:59:59Z"),
    ("from", "2200-01-01T00:00:00Z"),
    ("from", "2030-01-01T09:00:00Z\x00"),
]


@pytest.mark.parametrize(("name", "value"), [*BAD, ("begin", TEXT), ("from_", TEXT)])
def test_http_names_the_parameter_that_is_wrong(http: TestClient, name: str, value: str) -> None:
    problem = assert_problem(http.get("/v1/forecast", params={name: value}), 400, "invalid-parameter")
    assert [error["parameter"] for error in problem["errors"]] == [name]
    assert problem["errors"][0]["detail"]


def test_http_needs_a_key(anonymous: TestClient) -> None:
    assert_problem(anonymous.get("/v1/forecast"), 401, "unauthorized")


@pytest.mark.parametrize(("name", "value"), BAD)
def test_the_command_names_the_option_that_is_wrong(shell: Shell, name: str, value: str) -> None:
    assert name in shell.refuses("forecast", f"--{name}", value)


def test_the_command_prints_tabs_json_and_bars(
    shell: Shell, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(database, 0, 2, 2, 2, 2)
    argv = ("forecast", "--bucket", "1s", "--buckets", "3", "--from", TEXT)
    seconds = [f"2030-01-01T09:00:0{n}.000000Z" for n in range(3)]
    assert shell(*argv).splitlines() == ["at\tdue", f"{seconds[0]}\t1", f"{seconds[1]}\t0", f"{seconds[2]}\t4"]
    assert shell.error == ""
    found = shell.json(*argv)
    assert (found["busiest"], found["counts"]) == ({"at": seconds[2], "due": 4}, forecast.COUNTS)
    insert(database, -60)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    drawn = shell(*argv).splitlines()
    assert "1 tasks are overdue" in shell.error
    bars = [line.count("█") + line.count("#") for line in drawn]
    assert [line.split()[:2] for line in drawn] == [[seconds[0], "1"], [seconds[1], "0"], [seconds[2], "4"]]
    assert (bars[1], bars[2]) == (0, max(bars))
    assert 0 < bars[0] <= bars[2] // 4 + 1


def crowded(answered: Any) -> list[str]:
    return [text for text in answered["warnings"] if "are due in the second" in text]


def test_a_registration_says_that_its_second_is_crowded_and_which_is_quiet(
    http: TestClient, database: Database
) -> None:
    fill(database, *[0.5] * 98, *(n for n in range(1, 60) for _ in range(9 if n != 7 else 3)))
    sent = {"handler": "mock", "run_at": TEXT}
    assert crowded(http.post("/v1/tasks", json=sent).json()) == []  # the 99th
    assert crowded(http.post("/v1/tasks", json=sent).json()) == [
        "100 tasks are due in the second of 2030-01-01T09:00:00Z; 09:00:07 within the next minute has 3: jitter_s would"
        " spread them"
    ]
    fill(database, *[0] * 899)
    assert crowded(http.post("/v1/tasks", json=sent).json())[0].startswith("1,000 tasks are due")
    assert crowded(http.post("/v1/tasks", json=sent).json())[0].startswith("1,000 or more tasks are due")
    assert crowded(http.post("/v1/tasks", json=sent | {"run_at": "2030-01-01T08:59:59Z"}).json()) == []


@pytest.mark.parametrize(
    ("schedule", "advice"),
    [
        ({"cron": "0 9 1 1 *", "start_at": "2029-06-01T00:00:00Z"}, "H in the cron's fields or jitter_s would"),
        ({"every_s": 60, "start_at": TEXT}, "jitter_s would"),
        ({"run_at_local": "2030-01-01T10:00:00", "timezone": "Europe/Berlin"}, "jitter_s would"),
    ],
)
def test_the_advice_is_for_the_schedule(
    http: TestClient, shell: Shell, database: Database, schedule: dict[str, Any], advice: str
) -> None:
    fill(database, *[0] * 120)
    assert (
        f"09:00:01 within the next minute has 0: {advice} spread them"
        in crowded(http.post("/v1/tasks", json={"handler": "mock"} | schedule).json())[0]
    )
    shell("add", "mock", "--at", TEXT)
    assert "121 tasks" not in shell.error
    assert "122 tasks are due in the second of 2030-01-01T09:00:00Z" in shell.error


def test_a_jitter_that_lands_in_a_crowd_should_be_larger(http: TestClient, database: Database) -> None:
    fill(database, *[s for s in (0, 1) for _ in range(150)])
    answered = http.post("/v1/tasks", json={"handler": "mock", "run_at": TEXT, "jitter_s": 2}).json()
    assert "a larger jitter_s would spread them" in crowded(answered)[0]


def test_no_second_is_named_when_none_is_quieter(http: TestClient, database: Database) -> None:
    fill(database, *[s for s in range(60) for _ in range(120)])
    text = crowded(http.post("/v1/tasks", json={"handler": "mock", "run_at": TEXT}).json())
    assert text == ["121 tasks are due in the second of 2030-01-01T09:00:00Z"]
    sql(database, "DELETE FROM tasks WHERE run_at >= :t", t=BEGIN + timedelta(seconds=1))
    fill(database, *[1] * 2000)  # more than are looked at come next
    text = crowded(http.post("/v1/tasks", json={"handler": "mock", "run_at": TEXT}).json())
    assert text == ["122 tasks are due in the second of 2030-01-01T09:00:00Z"]


def test_a_replayed_answer_says_what_it_said(http: TestClient, database: Database) -> None:
    sent = {"handler": "mock", "run_at": TEXT}
    quiet, loud = {"Idempotency-Key": "quiet"}, {"Idempotency-Key": "loud"}
    before = http.post("/v1/tasks", json=sent, headers=quiet)
    fill(database, *[0] * 200)
    assert http.post("/v1/tasks", json=sent, headers=quiet).text == before.text
    first = http.post("/v1/tasks", json=sent, headers=loud)
    fill(database, *[0] * 200)
    again = http.post("/v1/tasks", json=sent, headers=loud)
    assert (again.text, again.headers["idempotency-replayed"]) == (first.text, "true")
    assert crowded(first.json())[0].startswith("202 tasks")


def test_a_task_key_that_is_registered_again_is_told_too(http: TestClient, database: Database) -> None:
    sent = {"handler": "mock", "run_at": TEXT, "task_key": "k"}
    assert crowded(http.post("/v1/tasks", json=sent).json()) == []
    fill(database, *[0] * 100)
    again = http.post("/v1/tasks", json=sent)
    assert again.status_code == 200
    assert crowded(again.json())[0].startswith("101 tasks")


def test_what_is_due_at_once_is_not_counted(http: TestClient, database: Database) -> None:
    soon = database.now().replace(microsecond=0) + timedelta(seconds=4)
    sql(database, f"INSERT INTO tasks (handler, run_at) VALUES {', '.join(['(:h, :t)'] * 150)}", h="mock", t=soon)
    for run_at in (soon, soon - timedelta(hours=1)):
        answered = http.post("/v1/tasks", json={"handler": "mock", "run_at": f"{run_at.isoformat()}Z"}).json()
        assert crowded(answered) == []
    assert len(select(database, "SELECT id FROM tasks")) == 152
