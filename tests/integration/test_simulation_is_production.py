"""The simulation and the real claim, start and finish under a moved clock leave the same rows."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from clockjack.ledger import aftermath, runs, wake
from clockjack.ledger.advance import Ready
from clockjack.ledger.database import Database
from clockjack.ledger.finish import Outcome
from clockjack.simulation import simulate
from tests.integration.life import claim_all, finish, held, insert, select, start, task
from tests.integration.moved import Moved

pytestmark = pytest.mark.mysql
BERLIN = "Europe/Berlin"
SECOND = timedelta(seconds=1)
BEGIN = datetime(2027, 3, 28, 0, 30, 1)  # at 01:00 the clocks in Berlin go forward
TEN = {"cron": "*/10 * * * * *"}
LONG = [(10, 70)]

# the task's columns, seconds from BEGIN to the end, outages in seconds from BEGIN, how long a run lasts
CASES: list[tuple[dict[str, Any], int, list[tuple[int, int]], int]] = [
    (TEN, 60, [], 3),
    (TEN, 120, LONG, 3),
    (TEN | {"misfire": "skip"}, 120, LONG, 3),
    (TEN | {"misfire": "all"}, 120, LONG, 3),
    (TEN | {"misfire": "all", "max_misfires": 3}, 120, LONG, 3),
    (TEN | {"misfire": "all", "max_lateness_s": 30}, 120, LONG, 3),
    (TEN | {"misfire": "once", "max_lateness_s": 25, "max_runs": 4}, 120, LONG, 3),
    (TEN | {"misfire": "all", "overlap": "skip"}, 150, LONG, 13),
    (TEN | {"misfire": "all", "overlap": "queue_one"}, 150, LONG, 13),
    (TEN | {"overlap": "queue_one", "max_lateness_s": 20}, 150, LONG, 25),
    (TEN | {"misfire": "all", "overlap": "replace", "end_at": BEGIN + 150 * SECOND}, 150, LONG, 13),
    (TEN | {"overlap": "skip"}, 100, [(17, 19), (37, 43)], 13),  # runs that were claimed before an outage
    ({"every_s": 15, "jitter_s": 9, "misfire": "all"}, 150, [(20, 61)], 3),
    ({"cron": "20,50 1,2 * * *", "timezone": BERLIN}, 2400, [(1790, 1900)], 3),
    ({"run_at": BEGIN + 20 * SECOND, "misfire": "skip"}, 60, [(10, 50)], 3),
    ({"run_at": BEGIN + 20 * SECOND}, 60, [(10, 50)], 3),
]


def live(
    database: Database, moved: Moved, end: datetime, out: list[tuple[datetime, datetime]], lasts: timedelta
) -> None:
    """Every second what is over ends, and outside of outages what is due is claimed and what may start starts."""
    staged: list[Ready] = []
    running: dict[int, tuple[datetime, Any, Any]] = {}
    while moved.now <= end:
        works = not away(moved.now, out)
        for run_id, (ends, run, lease) in sorted(running.items()):
            if ends <= moved.now:
                del running[run_id]
                if not finish(database, Outcome(lease, "succeeded")) and aftermath.asks(run):
                    aftermath.settle(database, [(run, False)])
        if running:
            leases = [lease for _, _, lease in running.values()]
            database.transaction(lambda c, ours=leases: runs.heartbeat(c, ours))  # type: ignore[misc]
        if works:
            staged += claim_all(database)
            staged += [run for run in wake.look_again(database, {})[0] if run.run_id not in {r.run_id for r in staged}]
        # what was due before the outage began was released in time, also when this second is the outage's first
        due = [run for run in staged if run.due_at <= moved.now and (works or not away(run.due_at, out))]
        staged = [run for run in staged if run not in due]
        begun = start(database, due) if due else runs.Started()
        for run, lease in zip(begun.execute, held(begun), strict=True):
            running[run["id"]] = (moved.now + lasts, run, lease)
        moved.now += SECOND


def away(moment: datetime, out: list[tuple[datetime, datetime]]) -> bool:
    """Whether nothing is claimed or released at this moment."""
    return any(begin <= moment < last for begin, last in out)


def tick(moment: datetime | None) -> datetime | None:
    """The second at which `live` can act."""
    return moment and moment.replace(microsecond=0) + (SECOND if moment.microsecond else timedelta(0))


@pytest.mark.parametrize(("columns", "seconds", "outages", "lasts_s"), CASES)
def test_the_same_rows(
    database: Database, columns: dict[str, Any], seconds: int, outages: list[tuple[int, int]], lasts_s: int
) -> None:
    end, lasts = BEGIN + seconds * SECOND, lasts_s * SECOND
    out = [(BEGIN + first * SECOND, BEGIN + last * SECOND) for first, last in outages]
    moved = Moved(database, BEGIN)
    one = insert(database, None, **columns)
    live(database, moved, end + 45 * SECOND, out, lasts)
    real = select(database, "SELECT * FROM runs WHERE task_id = :i AND due_at <= :e ORDER BY due_at", i=one, e=end)
    told = simulate(task(database, one) | {"runs_claimed": 0}, BEGIN, end, outages=out, lasts=lasts)
    assert [
        (fate.due_at, fate.state, fate.reason, fate.until, *map(tick, (fate.claimed_at, fate.starts_at, fate.ends_at)))
        for fate in told
    ] == [
        (
            *(row[name] for name in ("due_at", "state", "reason", "skipped_until", "claimed_at", "first_started_at")),
            None if row["state"] == "skipped" else row["finished_at"],
        )
        for row in real
    ]
    assert len(real) >= (1 if "run_at" in columns else 2)


def test_a_simulation_by_http(http: TestClient) -> None:
    document = {
        "cron": "*/10 * * * *", "from": "2027-03-27T12:00:00Z", "to": "2027-03-27T13:00:00Z", "misfire": "skip",
        "outages": [{"from": "2027-03-27T12:15:00Z", "to": "2027-03-27T12:45:00Z"}],
    }  # fmt: skip
    found = http.post("/v1/schedules/simulate", json=document).json()
    assert [(row["what"], row["occurrences"]) for row in found["rows"]] == [
        ("runs", 1), ("skipped", 3), ("runs", 1), ("runs", 1)
    ]  # fmt: skip
    for wrong, field in (
        ({"to": "2027-03-27T11:00:00Z"}, "to"),
        ({"misfire": "never"}, "misfire"),
        ({"outages": [{"from": "2027-03-27T12:15:00Z", "to": "2027-03-27T12:15:00Z"}]}, "outages"),
        ({"outages": [{"from": "x"}]}, "outages"),
        ({"cron": "* * * * * *"}, "to"),
        ({"cron": "61 * * * *"}, "cron"),
        ({"duration_s": -1}, "duration_s"),
        ({"handler": "mock"}, "handler"),
    ):
        answer = http.post("/v1/schedules/simulate", json=document | wrong)
        assert answer.status_code == 422, answer.text
        assert answer.json()["errors"][0]["pointer"] == f"#/{field}"
