"""Every kind and option of a schedule, by every door: what is answered, stored and claimed is the same."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError
from starlette.testclient import TestClient

from clockjack import documents
from clockjack.ledger.database import Database
from clockjack.ledger.partitions import maintain
from tests.integration.life import claim_all, insert, run_of, select, sql, task
from tests.integration.test_cli import Capture, Shell

pytestmark = pytest.mark.mysql
BERLIN = "Europe/Berlin"
SCHEDULES: list[tuple[dict[str, Any], str]] = [
    ({"run_at": "2030-01-01T00:00:00Z"}, "2030-01-01T00:00:00"),
    ({"run_at_local": "2030-03-31T02:30:00", "timezone": BERLIN}, "2030-03-31T01:00:00"),  # 02:00 became 03:00
    ({"run_at_local": "2030-10-27T02:30:00", "timezone": BERLIN, "dst_fold": "last"}, "2030-10-27T01:30:00"),
    ({"every_s": 90, "start_at": "2030-01-01T00:00:00Z"}, "2030-01-01T00:00:00"),
    ({"every_s": 86_400, "start_at": "2030-01-01T00:00:00Z", "exclude": ["2030-01-01"]}, "2030-01-02T00:00:00"),
    (
        {"cron": "0 9 * * *", "start_at": "2030-06-01T00:00:00Z", "exclude": ["2030-06-01/2030-06-03", "2030-06-05"]},
        "2030-06-04T09:00:00",
    ),
    (
        {"cron": "30 2 * * *", "timezone": BERLIN, "start_at": "2030-03-30T12:00:00Z", "dst_gap": "skip"},
        "2030-04-01T00:30:00",
    ),
    (
        {"rrule": "FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1", "start_at": "2030-01-01T09:00:00Z"},
        "2030-01-31T09:00:00",
    ),
    ({"rrule": "FREQ=DAILY", "timezone": BERLIN, "start_at": "2030-03-31T00:30:00Z"}, "2030-03-31T00:30:00"),
]
OPTIONS = {"run_at": "at", "run_at_local": "at-local", "every_s": "every", "timezone": "tz", "jitter_s": "jitter"}
OPTIONS |= {"timeout_s": "timeout", "backoff_s": "backoff", "backoff_max_s": "backoff-max", "task_key": "key"}
OPTIONS |= {"in_s": "in", "tags": "tag", "max_lateness_s": "max-lateness"}


@pytest.fixture
def shell(capsys: Capture, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setenv("CLOCKJACK_DATABASE_URL", database_url)
    monkeypatch.setenv("CLOCKJACK_REDIS_URL", redis_url)
    return Shell(capsys)


def argv(schedule: dict[str, Any]) -> list[str]:
    found = []
    for name, value in schedule.items():
        option = "--" + OPTIONS.get(name, name).replace("_", "-")
        for one in value if isinstance(value, list) else [value]:
            found += [option, str(one)]
    return found


def by_sql(database: Database, schedule: dict[str, Any], **columns: Any) -> int:
    ready = {
        name: documents.compact(value)
        if name == "exclude"
        else str(value).rstrip("Z")
        if name.endswith("_at")
        else value
        for name, value in schedule.items()
    }
    return insert(database, None, **ready, **columns)


@pytest.mark.parametrize(("schedule", "due"), SCHEDULES, ids=lambda value: str(value)[:50])
def test_each_schedule_is_due_at_the_same_moment_by_every_door(
    http: TestClient, shell: Shell, database: Database, schedule: dict[str, Any], due: str
) -> None:
    answered = http.post("/v1/tasks", json={"handler": "mock"} | schedule)
    assert answered.status_code == 201, answered.text
    added = shell.json("add", "mock", *argv(schedule))
    inserted = by_sql(database, schedule)
    assert claim_all(database) == []
    seen = [http.get(f"/v1/tasks/{i}").json() for i in (answered.json()["id"], added["id"], inserted)]
    kept = {name: value.replace("Z", ".000000Z") if "Z" in str(value) else value for name, value in schedule.items()}
    for document in (answered.json(), added, *seen):
        assert document["next_run_at"] == f"{due}.000000Z"
        assert {name: document[name] for name in schedule} == kept
        assert (document["state"], document["jitter_s"]) == ("active", 0)


def test_a_row_with_a_local_time_is_advanced_to_its_moment_and_runs_once(database: Database) -> None:
    now = database.now().replace(microsecond=0)
    wall = now + timedelta(hours=5, minutes=30)  # the clocks of Kolkata
    soon = insert(database, None, run_at_local=wall + timedelta(seconds=3), timezone="Asia/Kolkata")
    past = insert(database, None, run_at_local=wall - timedelta(minutes=10), timezone="Asia/Kolkata")
    later = insert(database, None, run_at_local=wall + timedelta(days=1), timezone="Asia/Kolkata")
    claim_all(database)
    assert run_of(database, soon)["due_at"] == now + timedelta(seconds=3)
    assert run_of(database, past)["due_at"] == now - timedelta(minutes=10)
    assert task(database, later)["next_run_at"] == now + timedelta(days=1)
    assert (task(database, soon)["next_run_at"], task(database, past)["next_run_at"]) == (None, None)
    sql(database, "UPDATE tasks SET next_run_at = UTC_TIMESTAMP(6)")  # it has run: as with run_at, not again
    claim_all(database)
    assert run_of(database, soon)["state"] == run_of(database, past)["state"] == "ready"
    assert [task(database, i)["state"] for i in (soon, past, later)] == ["active"] * 3


def test_a_local_time_that_passed_while_paused_runs_when_resumed(http: TestClient, database: Database) -> None:
    wall = (database.now() + timedelta(seconds=2)).isoformat()
    one = http.post("/v1/tasks", json={"handler": "mock", "run_at_local": wall}).json()
    http.post(f"/v1/tasks/{one['id']}/pause")
    claim_all(database)
    assert run_of(database, one["id"])["reason"] == "paused"
    assert http.post(f"/v1/tasks/{one['id']}/resume").json()["next_run_at"] == one["next_run_at"]
    claim_all(database)
    assert run_of(database, one["id"])["state"] == "ready"


def test_old_tasks_with_a_local_time_go_with_their_history(database: Database) -> None:
    old = datetime(2020, 1, 1)
    for kind in ("run_at", "run_at_local"):
        insert(database, None, **{kind: old}, next_run_at=None, created_at=old, updated_at=old)
    maintain(database, 90)
    assert select(database, "SELECT id FROM tasks") == []


def test_a_row_with_an_rrule_has_its_occurrences(database: Database) -> None:
    begin = (database.now() - timedelta(minutes=2)).replace(microsecond=0)
    one = insert(database, None, rrule="FREQ=MINUTELY;COUNT=4", start_at=begin, next_run_at=begin)
    claim_all(database)
    rows = select(database, "SELECT due_at, state FROM runs WHERE task_id = :i ORDER BY due_at", i=one)
    assert [(row["due_at"] - begin, row["state"]) for row in rows] == [
        (timedelta(0), "ready"),
        (timedelta(minutes=1), "skipped"),
        (timedelta(minutes=2), "ready"),
    ]
    assert task(database, one)["next_run_at"] == begin + timedelta(minutes=3)


def test_h_gives_each_task_a_slot_of_its_own(http: TestClient, database: Database) -> None:
    made = [http.post("/v1/tasks", json={"handler": "mock", "cron": "H H * * *"}).json() for _ in range(20)]
    minutes = {task["next_run_at"][14:16] for task in made}
    assert len(minutes) > 10
    assert len({task["next_run_at"] for task in made}) > 15
    sql(database, "UPDATE tasks SET next_run_at = UTC_TIMESTAMP(6)")
    claim_all(database)
    for before in made:
        assert documents.moment(task(database, before["id"])["next_run_at"]) == before["next_run_at"]


@pytest.mark.parametrize(
    "schedule",
    [
        {"every_s": 1, "jitter_s": 1},
        {"cron": "H/3 * * * * *"},
        {"cron": "* * * * * *", "jitter_s": 86_400},
        {"in_s": 1, "jitter_s": 2},
    ],
    ids=str,
)
def test_what_is_answered_is_what_is_claimed(http: TestClient, database: Database, schedule: dict[str, Any]) -> None:
    for _ in range(5):
        one = http.post("/v1/tasks", json={"handler": "mock"} | schedule).json()
        claim_all(database)
        due = select(database, "SELECT MIN(due_at) AS due FROM runs WHERE task_id = :i", i=one["id"])[0]["due"]
        assert documents.moment(due) == one["next_run_at"]
        assert select(database, "SELECT id FROM runs WHERE state <> 'ready'") == []


def test_a_row_with_jitter_is_moved_by_the_claim(database: Database) -> None:
    now = database.now()
    ones = [insert(database, 0.5, jitter_s=3) for _ in range(5)]
    far = insert(database, 4, jitter_s=86_400)
    claim_all(database)
    late = [run_of(database, one)["due_at"] - task(database, one)["run_at"] for one in ones]
    assert all(timedelta(0) <= by < timedelta(seconds=3) for by in late)
    assert len(set(late)) > 1
    assert task(database, far)["next_run_at"] > now + timedelta(seconds=4)
    assert {task(database, one)["state"] for one in (*ones, far)} == {"active"}


def test_a_changed_option_is_a_changed_schedule(http: TestClient) -> None:
    sent = {"handler": "mock", "task_key": "k", "cron": "0 9 * * *", "exclude": ["2030-01-01"], "jitter_s": 60}
    first, same = (http.post("/v1/tasks", json=sent).json() for _ in range(2))
    other = http.post("/v1/tasks", json=sent | {"jitter_s": 3600}).json()
    bare = http.post("/v1/tasks", json={"handler": "mock", "task_key": "k", "cron": "0 9 * * *"}).json()
    assert (same["version"], same["next_run_at"]) == (1, first["next_run_at"])
    assert [other["schedule_version"], bare["schedule_version"]] == [2, 3]
    assert other["next_run_at"] != first["next_run_at"]
    assert (bare["exclude"], bare["jitter_s"], bare["next_run_at"][11:]) == (None, 0, "09:00:00.000000Z")


def test_in_s_counts_from_the_database_s_now(http: TestClient, database: Database) -> None:
    one = http.post("/v1/tasks", json={"handler": "mock", "in_s": 90.5}).json()
    off = datetime.fromisoformat(one["run_at"][:-1]) - database.now()
    assert timedelta(seconds=89) < off <= timedelta(seconds=91)
    assert "in_s" not in one


def test_a_registration_is_answered_with_the_surprises_of_its_schedule(http: TestClient, shell: Shell) -> None:
    sent = {"handler": "mock", "cron": "30 2 * * *", "timezone": BERLIN}
    assert any("in the skipped time run once" in text for text in http.post("/v1/tasks", json=sent).json()["warnings"])
    shell("add", "mock", "--cron", "0 0 13 * FRI")
    assert "a day is enough" in shell.error


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"rrule": "FREQ=SECONDLY"}, "rrule"),
        ({"every_s": 60, "exclude": "[" * 20_000}, "exclude"),
        ({"run_at_local": "2030-01-01", "dst_fold": "both"}, "dst_fold"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_only_python_can_refuse_is_parked(
    http: TestClient, database: Database, columns: dict[str, Any], says: str
) -> None:
    bad, good = insert(database, None, **columns), insert(database, 1)
    claim_all(database)
    parked = http.get(f"/v1/tasks/{bad}").json()
    assert (parked["state"], parked["error"].split(":")[0]) == ("invalid", says)
    assert run_of(database, good)["state"] == "ready"
    again = http.post(f"/v1/tasks/{bad}/resume")  # nothing was mended
    assert (again.status_code, again.json()["errors"][0]["pointer"]) == (422, f"#/{says}")


def test_checks_refuse_what_a_column_cannot_mean(database: Database) -> None:
    for columns in (
        {"run_at": "2030-01-01", "run_at_local": "2030-01-01"},
        {"run_at": "2030-01-01", "next_run_at": "2030-01-02"},
        {"run_at": "2030-01-01", "next_run_at": "2030-01-01 00:01:01", "jitter_s": 60},
    ):
        with pytest.raises(DBAPIError):
            insert(database, None, **columns)


def test_a_slot_that_never_fires_is_refused_and_nothing_stays(http: TestClient, database: Database) -> None:
    answers = [http.post("/v1/tasks", json={"handler": "mock", "cron": "0 0 31 H *"}) for _ in range(20)]
    made = [answer for answer in answers if answer.status_code == 201]
    assert {answer.status_code for answer in answers} <= {201, 422}
    assert all(answer.json()["next_run_at"] for answer in made)
    assert len(select(database, "SELECT id FROM tasks")) == len(made)


def test_a_preview_says_what_a_schedule_means(http: TestClient, database: Database) -> None:
    sent = {"cron": "30 2 * * *", "timezone": BERLIN, "start_at": "2030-03-30T12:00:00Z", "count": 2}
    shown = http.post("/v1/schedules/preview", json=sent)
    assert shown.status_code == 200
    assert shown.json()["words"] == "At 02:30 (Europe/Berlin), from 2030-03-30 12:00:00 UTC"
    assert [one["utc"] for one in shown.json()["next"]] == ["2030-03-31T01:00:00Z", "2030-04-01T00:30:00Z"]
    assert shown.json()["next"][0]["local"] == "2030-03-31T03:00:00+02:00"
    assert any("2030-03-31" in text for text in shown.json()["warnings"])
    made = http.post("/v1/tasks", json={"handler": "mock", "cron": "H H * * *", "jitter_s": 60}).json()
    same = {"cron": "H H * * *", "jitter_s": 60, "seed": str(made["id"]), "count": 1}
    due = http.post("/v1/schedules/preview", json=same).json()["next"][0]["utc"]
    assert datetime.fromisoformat(due) == datetime.fromisoformat(made["next_run_at"])
    assert len(select(database, "SELECT id FROM tasks")) == 1


@pytest.mark.parametrize(("more", "field"), [({"count": 0}, "count"), ({"count": 101}, "count"), ({"x": 1}, "x")])
def test_a_preview_has_bounds(http: TestClient, more: dict[str, Any], field: str) -> None:
    problem = http.post("/v1/schedules/preview", json={"every_s": 60} | more)
    assert (problem.status_code, problem.json()["errors"][0]["pointer"]) == (422, f"#/{field}")
    assert http.post("/v1/schedules/preview", json=[]).status_code == 422
    assert http.post("/v1/schedules/preview", json={"every_s": 60}, headers={"Authorization": ""}).status_code == 401
