"""/v1/runs: lists that stay cheap, and retries that the stages carry out."""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from clockjack.ledger import overlap, replay, slo
from clockjack.ledger.database import Database
from clockjack.queues import Queues
from tests.integration.life import claim_all, insert, run_of, select, sql, start
from tests.integration.test_consumer import Bench
from tests.integration.test_http import assert_problem
from tests.integration.test_plans import filled, plan

__all__ = ["filled"]


@pytest.fixture
def bench(database: Database, queues: Queues) -> Iterator[Bench]:
    bench = Bench(database, queues)
    yield bench
    bench.engine.pool.close()


def failed(bench: Bench) -> tuple[int, int]:
    """A task whose run has failed for good, and the run."""

    def handle(run: object) -> None:
        raise RuntimeError("no")

    bench.handle = handle
    task = bench.due(max_failures=1)
    bench.until(lambda: bench.state(task) == "failed" and bench.engine.empty)
    return task, run_of(bench.database, task)["id"]


def test_a_failed_run_that_is_retried_runs_once_more(http: TestClient, bench: Bench) -> None:
    task, run = failed(bench)
    bench.handle = lambda run: {"attempt": run.attempt}
    answer = http.post(f"/v1/runs/{run}/retry")
    assert (answer.status_code, answer.headers["location"]) == (202, f"/v1/runs/{run}")
    assert (answer.json()["state"], answer.json()["failures"], answer.json()["error"]) == ("ready", 0, None)
    assert_problem(http.post(f"/v1/runs/{run}/retry"), 409, "state-conflict")
    bench.dispatcher.look_step()
    bench.until(lambda: bench.state(task) == "succeeded" and bench.engine.empty)
    done = http.get(f"/v1/runs/{run}").json()
    assert (done["result"], done["attempt"], len(done["attempts"])) == ({"attempt": 2}, 2, 1)
    assert_problem(http.post(f"/v1/runs/{run}/retry"), 409, "state-conflict")
    actions = [row["action"] for row in select(bench.database, "SELECT action FROM task_events ORDER BY id")]
    assert actions.count("run_retried") == 1


def test_a_retry_with_a_key_is_one(http: TestClient, bench: Bench) -> None:
    _, run = failed(bench)
    answers = [http.post(f"/v1/runs/{run}/retry", headers={"Idempotency-Key": "r"}) for _ in range(2)]
    assert [a.status_code for a in answers] == [202, 202]
    assert answers[1].headers["idempotency-replayed"] == "true"


def test_the_dead_letters_that_match_are_replayed(http: TestClient, bench: Bench, database: Database) -> None:
    found = [failed(bench) for _ in range(3)]
    http.delete(f"/v1/tasks/{found[1][0]}")
    other = insert(database, 3600, namespace="theirs", handler="mock")
    sql(
        database,
        "INSERT INTO runs (task_id, due_at, schedule_version, queue, state)"
        " VALUES (:t, UTC_TIMESTAMP(6), 1, 'q', 'failed')",
        t=other,
    )
    for nothing in ({"queue": "q"}, {"handler": "x"}, {"due_until": "2026-01-01T00:00:00Z"}):
        assert http.post("/v1/runs/retry", json=nothing).json()["matched"] == 0
    assert_problem(http.post("/v1/runs/retry", json={"state": "failed"}), 422, "invalid-fields")
    dry = http.post("/v1/runs/retry", json={"dry_run": True}).json()
    assert (dry["matched"], dry["retried"]) == (3, 0)
    answer = http.post("/v1/runs/retry", json={"handler": "mock", "due_from": "2026-01-01T00:00:00Z"})
    assert answer.status_code == 202, answer.text
    document = answer.json()
    assert (document["matched"], document["retried"], document["next_cursor"]) == (3, 2, None)
    assert [one["id"] for one in document["refused"]] == [found[1][1]]
    assert [bench.state(task) for task, _ in found] == ["ready", "failed", "ready"]
    assert bench.state(other) == "failed"


def test_nothing_of_a_cancelled_task_is_retried(http: TestClient, bench: Bench) -> None:
    task, run = failed(bench)
    http.delete(f"/v1/tasks/{task}")
    assert_problem(http.post(f"/v1/runs/{run}/retry"), 409, "state-conflict")
    assert bench.state(task) == "failed"


def test_a_run_that_was_replaced_is_retried_when_its_lease_is_over(http: TestClient, bench: Bench) -> None:
    """Its consumer may be at work until then."""
    task = insert(bench.database)
    start(bench.database, claim_all(bench.database))
    run = run_of(bench.database, task)["id"]
    sql(bench.database, f"UPDATE runs SET {overlap.REPLACED} WHERE id = :i", i=run)
    assert http.post(f"/v1/runs/{run}/retry").status_code == 202
    row = run_of(bench.database, task)
    assert row["wake_at"] == row["lease_until"] > bench.database.now()


def test_runs_are_listed_by_what_they_are(http: TestClient, database: Database) -> None:
    tasks = [insert(database, 3600, handler=handler) for handler in ("a", "b")]
    for n in range(6):
        sql(
            database,
            "INSERT INTO runs (task_id, due_at, schedule_version, queue, state, first_started_at) VALUES (:t,"
            " '2026-11-20 00:00:00' + INTERVAL :n HOUR, 1, :q, :s,"
            " '2026-11-20 00:00:00' + INTERVAL :n HOUR + INTERVAL :n SECOND)",
            t=tasks[n % 2], n=n, q="slow" if n == 5 else "default", s="failed" if n in (1, 4) else "succeeded",
        )  # fmt: skip

    def listed(query: str) -> list[float]:
        answer = http.get(f"/v1/runs?{query}")
        assert answer.status_code == 200, answer.text
        return [run["lateness_ms"] / 1000 for run in answer.json()["items"]]

    assert listed("") == [5, 4, 3, 2, 1, 0]
    assert listed("state=failed") == [4, 1]
    assert listed("handler=b") == [5, 3, 1]
    assert listed("queue=slow") == [5]
    assert listed("due_from=2026-11-20T01:00:00Z&due_until=2026-11-20T03:00:00Z") == [2, 1]
    assert listed("late_ms=4000") == [5, 4]
    assert listed("state=failed&handler=a&late_ms=4000") == [4]
    for query in ("state=x", "late_ms=-1", "due_from=yesterday", "limit=0", "cursor=!", "nothing=1"):
        assert_problem(http.get(f"/v1/runs?{query}"), 400, "invalid-parameter")


def test_a_list_reads_a_bounded_number_of_rows_and_goes_on(
    http: TestClient, filled: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "PIECE", 500)
    ready = [row["id"] for row in select(filled, "SELECT id FROM runs WHERE state = 'ready' ORDER BY id DESC")]
    assert len(ready) > 50
    found: list[int] = []
    pages, url = 0, "/v1/runs?state=ready&limit=10"
    while url:
        answer = http.get(url)
        items = [run["id"] for run in answer.json()["items"]]
        assert len(items) <= 10
        found += items
        pages += 1
        url = answer.links["next"]["url"] if "next" in answer.links else ""
        assert bool(url) == (answer.json()["next_cursor"] is not None)
    assert found == ready
    assert pages > 8192 / 500 / replay.PIECES, "pages without a match end, too"
    end = plan(filled, replay.END, before=replay.LAST_ID, piece=9_999)
    assert end["key"] == "PRIMARY"
    assert "filesort" not in (end["Extra"] or "")
    middle = ready[30]
    values = {"before": middle, "end": middle - 500, "namespace": "default", "limit": 50, "handler": "x"}
    listed = plan(filled, replay.LISTED.format(where=f" AND {replay.FILTERS['handler']}"), **values)
    assert (listed["table"], listed["key"], listed["type"]) == ("r", "PRIMARY", "range")
    assert "filesort" not in (listed["Extra"] or "")


def test_how_the_promise_was_kept(http: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = http.get("/v1/slo").json()
    assert (empty["runs"], empty["share_on_time"], empty["lateness"]["p99_ms"]) == (0, None, None)
    mine, theirs = insert(database, 3600), insert(database, 3600, namespace="theirs")
    new = (
        "INSERT INTO runs (task_id, due_at, schedule_version, queue, state, wake_at, origin, claimed_at,"
        " first_started_at) SELECT :t, due, 1, 'default', :s, IF(:s = 'ready', due, NULL), :o, due - INTERVAL 4 SECOND"
        " + INTERVAL :c SECOND, due + INTERVAL :late SECOND"
        " FROM (SELECT UTC_TIMESTAMP(6) - INTERVAL :ago SECOND AS due) AS x"
    )

    def add(
        ago: int, late: int | None, *, c: int = 0, t: int = mine, s: str = "succeeded", o: str = "schedule"
    ) -> None:
        sql(database, new, t=t, ago=ago, late=late, c=c, s=s, o=o)

    for n in range(8):
        add(100 + n, 1)
    add(200, 10, c=10)  # claimed 6 s after due, begun 4 s after that
    add(201, 11)
    add(202, None, s="ready")
    add(5, None, s="ready")  # may still be on time
    add(5000, 50)  # before the window
    add(300, 50, o="backfill")
    add(301, 50, t=theirs)
    add(302, None, s="skipped")
    answer = http.get("/v1/slo").json()
    assert (answer["runs"], answer["on_time"], answer["waiting_late"], answer["truncated"]) == (11, 9, 1, False)
    assert answer["share_on_time"] == round(9 / 11, 6)
    assert answer["lateness"]["p50_ms"] == 1000
    assert 202_000 <= answer["lateness"]["worst_ms"] == answer["lateness"]["p99_ms"] < 230_000
    assert answer["stages"]["claim"] == {"p50_ms": 0, "p99_ms": 6000, "worst_ms": 6000}
    assert answer["stages"]["start"] == {"p50_ms": 1000, "p99_ms": 11_000, "worst_ms": 11_000}
    assert http.get("/v1/slo?window_s=6000").json()["runs"] == 12
    assert_problem(http.get("/v1/slo?window_s=0"), 400, "invalid-parameter")
    monkeypatch.setattr(slo, "PIECE", 2)
    answer = http.get("/v1/slo").json()
    assert answer["truncated"]
    assert answer["runs"] < 11
