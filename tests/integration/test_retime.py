"""After an upgrade of tzdata: `next_run_at` as other rules had it, an hour off, and what `clockjack retime` does."""

import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy.exc import DBAPIError

from clockjack import zones
from clockjack.ledger import retime
from clockjack.ledger.database import Database, UnknownCommit, changed
from clockjack.queues import Queues
from tests.integration.life import claim_all, insert, run_of, select, sql, task
from tests.integration.test_cli import Capture, Shell

pytestmark = pytest.mark.mysql
BERLIN = "Europe/Berlin"
HOUR = timedelta(hours=1)
KINDS: list[dict[str, Any]] = [
    {"cron": "0 9 1 1 *"},
    {"cron": "0 9 1 1 *", "jitter_s": 600},
    {"cron": "H H 1 1 *"},
    {"rrule": "FREQ=YEARLY;BYMONTH=1;BYMONTHDAY=1;BYHOUR=9;BYMINUTE=0"},
    {"run_at_local": datetime(2030, 1, 1, 9)},
    {"every_s": 86_400, "exclude": '["2030-01-01"]'},
]


@pytest.fixture
def shell(capsys: Capture, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setenv("CLOCKJACK_DATABASE_URL", database_url)
    monkeypatch.setenv("CLOCKJACK_REDIS_URL", redis_url)
    return Shell(capsys)


def made(database: Database, off: timedelta = timedelta(0), **columns: Any) -> dict[str, Any]:
    """A task that a dispatcher has seen, then stored so far off the rules of today. Returns its row from before."""
    task_id = insert(database, None, **({"timezone": BERLIN} | columns))
    claim_all(database)
    row = task(database, task_id)
    assert (row["version"], row["state"]) == (1, "active")
    if off:
        store(database, task_id, row["next_run_at"] + off)
    return row


def store(database: Database, task_id: int, next_run_at: datetime) -> None:
    sql(database, "UPDATE tasks SET next_run_at = :n WHERE id = :i", n=next_run_at, i=task_id)


def events(database: Database, task_id: int) -> list[dict[str, Any]]:
    return select(database, "SELECT * FROM task_events WHERE task_id = :i ORDER BY id", i=task_id)


def moved(database: Database) -> list[int]:
    """The ids of what was moved; nothing is left to move."""
    done = [c for page in retime.changes(database) for c in retime.apply(database, page, actor="cli")]
    assert [page for page in retime.changes(database) if page] == []
    return [change.task["id"] for change in done]


@pytest.mark.parametrize("off", [HOUR, -HOUR], ids=["later", "earlier"])
@pytest.mark.parametrize("columns", KINDS, ids=str)
def test_each_kind_goes_to_where_the_rules_of_today_have_it(
    database: Database, columns: dict[str, Any], off: timedelta
) -> None:
    before = made(database, off, **columns)
    assert moved(database) == [before["id"]]
    after = task(database, before["id"])
    changed = {name for name, value in after.items() if value != before[name]}
    assert changed == {"version", "updated_at"}
    assert (after["next_run_at"], after["version"]) == (before["next_run_at"], 2)
    event = events(database, before["id"])[-1]
    assert (event["actor"], event["action"], event["version"], event["schedule_version"]) == ("cli", "retimed", 2, 1)
    old, new = (before["next_run_at"] + off).isoformat(), before["next_run_at"].isoformat()
    assert event["detail"] == f"{old}Z -> {new}Z, tzdata {zones.version()}"


def test_what_stays(database: Database) -> None:
    """UTC, unchanged, due within 10 s, off, done, not seen yet, and the kinds that no zone moves."""
    made(database, cron="0 9 1 1 *")
    made(database, HOUR, cron="0 9 1 1 *", timezone="UTC")
    made(database, HOUR, every_s=86_400)
    now = database.now()
    soon = made(database, cron="0 9 1 1 *")
    store(database, soon["id"], now + timedelta(seconds=8))
    off = {state: made(database, HOUR, cron="0 9 1 1 *")["id"] for state in ("cancelled", "invalid")}
    for state, task_id in off.items():
        sql(database, "UPDATE tasks SET state = :s, seen_state = :s WHERE id = :i", s=state, i=task_id)
    store(database, made(database, cron="0 9 1 1 *")["id"], None)
    insert(database, None, cron="0 9 1 1 *", timezone=BERLIN, next_run_at=now + HOUR)  # from then on, says SQL
    edited = made(database, HOUR, cron="0 9 1 1 *")["id"]
    sql(database, "UPDATE tasks SET schedule_version = schedule_version + 1 WHERE id = :i", i=edited)
    rows = select(database, "SELECT * FROM tasks ORDER BY id")
    assert moved(database) == []
    assert select(database, "SELECT * FROM tasks ORDER BY id") == rows
    assert select(database, "SELECT id FROM task_events WHERE action = 'retimed'") == []


def test_a_paused_task_moves_and_stays_paused(database: Database) -> None:
    row = made(database, HOUR, cron="0 9 1 1 *")
    sql(database, "UPDATE tasks SET state = 'paused', seen_state = 'paused' WHERE id = :i", i=row["id"])
    assert moved(database) == [row["id"]]
    assert (task(database, row["id"])["state"], task(database, row["id"])["next_run_at"]) == (
        "paused",
        row["next_run_at"],
    )


def test_a_local_time_that_has_passed_by_the_new_rules_runs_at_once(database: Database) -> None:
    wall = (database.now().replace(tzinfo=UTC) - timedelta(minutes=10)).astimezone(ZoneInfo(BERLIN))
    wall = wall.replace(tzinfo=None, microsecond=0)
    due = wall.replace(tzinfo=ZoneInfo(BERLIN)).astimezone(UTC).replace(tzinfo=None)
    for late_s, state in ((None, "ready"), (60, "skipped")):
        row = made(database, cron="0 9 1 1 *")
        sql(
            database,
            "UPDATE tasks SET cron = NULL, run_at_local = :w, next_run_at = :n, max_lateness_s = :l WHERE id = :i",
            w=wall,
            n=due + HOUR,
            l=late_s,
            i=row["id"],
        )
        assert moved(database) == [row["id"]]
        assert task(database, row["id"])["next_run_at"] == due
        claim_all(database)
        assert (run_of(database, row["id"])["due_at"], run_of(database, row["id"])["state"]) == (due, state)


def test_a_time_that_jitter_and_exclude_moved_keeps_to_its_check(database: Database) -> None:
    """tasks_next_is_run_at: whatever the zone's calendar says, a task with run_at stays within its jitter."""
    at = datetime(2030, 1, 1, 22, 59, 59)  # a second before midnight in Berlin; then comes a day off
    columns = {"exclude": '["2030-01-02"]', "version": 1, "seen_state": "active", "seen_schedule_version": 1}
    task_id = insert(database, None, run_at=at, jitter_s=3600, timezone=BERLIN, **columns)
    store(database, task_id, at + timedelta(minutes=40))
    assert moved(database) == [task_id]
    assert at <= task(database, task_id)["next_run_at"] < at + timedelta(seconds=1)
    with pytest.raises(DBAPIError, match="tasks_next_is_run_at"):
        store(database, task_id, at + HOUR + HOUR)


def test_what_has_no_occurrence_any_more_never_fires_and_says_so(database: Database) -> None:
    row = made(database, cron="0 9 1 1 *", end_at=datetime(2199, 1, 1))
    sql(database, "UPDATE tasks SET end_at = :e, next_run_at = :e WHERE id = :i", e=database.now() + HOUR, i=row["id"])
    assert moved(database) == [row["id"]]
    assert task(database, row["id"])["next_run_at"] is None
    assert " -> never, tzdata " in events(database, row["id"])[-1]["detail"]


def test_every_page_is_looked_at(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retime, "PAGE", 3)
    monkeypatch.setattr(retime, "BATCH", 2)
    wanted = []
    for n in range(11):
        row = made(database, HOUR if n % 5 else timedelta(0), cron="0 9 1 1 *")
        wanted += [row["id"]] if n % 5 else []
    assert moved(database) == wanted


def test_what_changes_between_the_look_and_the_lock_is_judged_again(database: Database) -> None:
    rows = [made(database, HOUR, cron="0 9 1 1 *") for _ in range(5)]
    (page,) = list(retime.changes(database))
    ids = [row["id"] for row in rows]
    sql(database, "UPDATE tasks SET next_run_at = :n WHERE id = :i", n=rows[0]["next_run_at"], i=ids[0])
    sql(database, "UPDATE tasks SET cron = '0 11 1 1 *' WHERE id = :i", i=ids[1])
    sql(database, "UPDATE tasks SET state = 'cancelled', next_run_at = NULL WHERE id = :i", i=ids[2])
    sql(database, "DELETE FROM tasks WHERE id = :i", i=ids[3])
    done = retime.apply(database, page, actor="cli")
    assert [change.task["id"] for change in done] == [ids[1], ids[4]]
    assert task(database, ids[1])["next_run_at"] == rows[1]["next_run_at"] + 2 * HOUR
    assert [task(database, ids[n])["version"] for n in (0, 1, 2, 4)] == [1, 2, 1, 2]
    assert retime.apply(database, page, actor="cli") == []


def test_a_task_that_somebody_holds_is_waited_for(database: Database) -> None:
    """Moved under its lock: what the claim did meanwhile is seen."""
    row = made(database, HOUR, cron="0 9 1 1 *")
    (page,) = list(retime.changes(database))
    done: list[Any] = []
    other = threading.Thread(target=lambda: done.append(retime.apply(database, page, actor="cli")))

    def hold(connection: Any) -> None:
        changed(connection, "UPDATE tasks SET next_run_at = :n WHERE id = :i", n=row["next_run_at"], i=row["id"])
        other.start()
        other.join(0.3)
        assert other.is_alive()

    database.transaction(hold)
    other.join(10)
    assert done == [[]]
    assert task(database, row["id"])["version"] == 1


def test_a_lost_commit_moves_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it became true is asked for: one event, and the answer has the task in both cases."""
    transaction = database.transaction
    for before_commit in (False, True):
        row = made(database, HOUR, cron="0 9 1 1 *")
        (page,) = list(retime.changes(database))
        lost: list[bool] = []

        def dies(body: Any, lost: list[bool] = lost, before: bool = before_commit, **options: Any) -> Any:
            if lost:
                return transaction(body, **options)
            lost.append(True)
            if before:

                def undone(connection: Any) -> None:
                    body(connection)
                    raise KeyError("rolled back")

                with suppress(KeyError):
                    transaction(undone)
            else:
                transaction(body, **options)
            raise UnknownCommit("test")

        with monkeypatch.context() as patch:
            patch.setattr(database, "transaction", dies)
            assert [c.task["id"] for c in retime.apply(database, page, actor="cli")] == [row["id"]]
        assert task(database, row["id"])["version"] == 2
        assert [e["action"] for e in events(database, row["id"])] == ["registered", "retimed"]


def test_the_command_lists_then_moves(shell: Shell, database: Database, queues: Queues) -> None:
    row = made(database, HOUR, cron="0 9 1 1 *", task_key="new-year", namespace="tenant")
    utc = f"{row['next_run_at'].isoformat()}.000000Z"
    stored = f"{(row['next_run_at'] + HOUR).isoformat()}.000000Z"
    listed = shell.json("retime", "--dry-run")
    assert listed == {
        "tzdata": zones.version(),
        "changed": 1,
        "moved": 0,
        "failed": 0,
        "items": [
            {
                "id": row["id"],
                "namespace": "tenant",
                "task_key": "new-year",
                "timezone": BERLIN,
                "schedule": "cron=0 9 1 1 *",
                "next_run_at": stored,
                "new": utc,
                "local": f"{row['next_run_at'].year}-01-01T09:00:00+01:00",
                "error": None,
            }
        ],
    }
    lines = shell("retime", "--dry-run").splitlines()
    assert lines[0].split("\t")[5:7] == ["next_run_at", "new"]
    assert lines[1].split("\t")[4:7] == ["cron=0 9 1 1 *", stored, utc]
    assert "1 would move" in shell.error
    assert task(database, row["id"])["version"] == 1
    assert queues.redis.llen("clockjack:nudge") == 0
    done = shell.json("retime", "--apply")
    assert (done["changed"], done["moved"], done["items"]) == (1, 1, listed["items"])
    assert queues.redis.llen("clockjack:nudge") == 1
    assert shell.json("retime", "--apply")["items"] == []
    assert len(shell("retime", "--dry-run").splitlines()) == 1
    assert "0 would move" in shell.error


def test_a_zone_that_is_gone_is_named_and_holds_nobody_up(shell: Shell, database: Database) -> None:
    gone, row = made(database, HOUR, cron="0 9 1 1 *"), made(database, HOUR, cron="0 9 1 1 *")
    sql(database, "UPDATE tasks SET timezone = 'Mars/Base' WHERE id = :i", i=gone["id"])
    assert "timezone: unknown time zone 'Mars/Base'" in shell("retime", "--dry-run", code=1)
    assert "1 would move, 1 cannot be reckoned" in shell.error
    assert "Mars/Base" in shell("retime", "--apply", code=1)
    assert (task(database, gone["id"])["version"], task(database, row["id"])["version"]) == (1, 2)


def test_a_limit_is_of_the_list_alone(shell: Shell, database: Database) -> None:
    for _ in range(3):
        made(database, HOUR, cron="0 9 1 1 *")
    found = shell.json("retime", "--dry-run", "--limit", "2")
    assert (found["changed"], len(found["items"])) == (3, 2)
    assert shell.json("retime", "--apply", "--limit", "1")["moved"] == 3


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "--dry-run"),
        (["--dry-run", "--apply"], "not both"),
        (["--apply", "--bogus"], "--bogus"),
        (["--apply", "7"], "7"),
        (["--dry-run", "--limit", "0"], "limit"),
        (["--limit", "x", "--apply"], "limit"),
    ],
)
def test_it_has_to_be_said_which(shell: Shell, database: Database, argv: list[str], said: str) -> None:
    row = made(database, HOUR, cron="0 9 1 1 *")
    assert said in shell.refuses("retime", *argv)
    assert task(database, row["id"])["version"] == 1


def test_the_version_of_the_zones_is_told(shell: Shell, http: Any) -> None:
    assert http.get("/readyz").json()["tzdata"] == zones.version()
    findings = {finding["what"]: finding["text"] for finding in shell.json("doctor")["findings"]}
    assert zones.version() in findings["zones"]
