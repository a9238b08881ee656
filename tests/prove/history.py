"""What overlap costs: 100,000 tasks with `skip` and 3,000,000 past runs, beside the same with `allow` and no history.

How the comparison is made. Two databases on one server, with the product's own tables: `plain` holds tasks that allow
overlap and no run; `lived` holds the same tasks with overlap = skip and one run a day for 30 days, in the weekly
partitions that exist after a month. Half of the tasks have cron (in four zones), half every_s.

Then batches by turns, one on each, the first of a pair alternating: 500 tasks are made due (as if their time had
come), and one claim, the product's own transaction, is measured. Every round has a p99 on either side; the medians of
the rounds are compared. What a round has claimed is ended after it, so that no round finds more live runs than another.

Starts are told beside it, for what overlap costs is paid there: 100 runs of one claim in one transaction, for tasks
that allow overlap in `plain` and in `lived`, and for tasks that skip.
"""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from clockjack.ledger import claim, partitions, runs
from clockjack.ledger.advance import Ready
from clockjack.ledger.database import Database, changed
from clockjack.ledger.migrate import migrate
from clockjack.schedules import Schedule, next_after
from clockjack.zones import load
from tests.prove.contention import p99
from tests.prove.stage import Stage

LIMIT = 1.2
BATCH, STARTED = 500, 100
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata")
FAR = "2100-01-01"
DIGITS = "(SELECT 0 d" + "".join(f" UNION ALL SELECT {d}" for d in range(1, 10)) + ")"
NUMBERS = "SELECT 1" + "".join(f" + {10**n} * d{n}.d" for n in range(6)) + " AS n FROM "
NUMBERS += ", ".join(f"{DIGITS} d{n}" for n in range(6))
PAST = """
INSERT INTO runs (due_at, task_id, schedule_version, task_version, queue, claimed_at, state, attempt, failures,
  worker, first_started_at, started_at, finished_at, result, error, reason)
SELECT due, id, 1, 1, 'default', due - INTERVAL 5 SECOND, state, state <> 'skipped', IF(state = 'failed', 5, 0),
  IF(state = 'skipped', NULL, 'host-1/4711'), IF(state = 'skipped', NULL, due + INTERVAL 20000 MICROSECOND),
  IF(state = 'skipped', NULL, due + INTERVAL 20000 MICROSECOND), due + INTERVAL 520000 MICROSECOND,
  IF(state = 'succeeded', 'null', NULL), IF(state = 'failed', 'RuntimeError: no answer', NULL),
  IF(state = 'skipped', 'overlap', NULL)
FROM (
  SELECT id, :day + INTERVAL id % 86400 SECOND AS due,
    CASE WHEN (id + :turn) % 50 = 0 THEN 'failed' WHEN (id + :turn) % 20 = 1 THEN 'skipped' ELSE 'succeeded' END
    AS state
  FROM tasks ORDER BY id
) AS past
"""
ENDED = (
    "UPDATE runs SET state = 'succeeded', attempt = 1, first_started_at = due_at, started_at = due_at, wake_at = NULL,"
    " live_task_id = NULL, finished_at = UTC_TIMESTAMP(6) WHERE wake_at IS NOT NULL"
)


class Size(NamedTuple):
    """How much there is, and how often it is measured."""

    tasks: int
    days: int
    rounds: int
    claims: int
    starts: int


FULL = Size(tasks=100_000, days=30, rounds=7, claims=100, starts=20)
SMALL = Size(tasks=5_000, days=5, rounds=2, claims=10, starts=2)


class Side(NamedTuple):
    """One of the two databases: its ledger, and a session that commits at once, without a binlog, for set-up."""

    name: str
    overlap: str
    ledger: Database
    quiet: Connection


def overlap_claim(stage: Stage, size: Size) -> tuple[str, bool]:
    """Claims of tasks whose runs must not overlap, with a long history, took hardly longer than plain ones."""
    with side(stage, "plain", "allow") as plain, side(stage, "lived", "skip") as lived:
        for one in (plain, lived):
            _tasks(one, size)
        _live_for(lived, size)
        rows = int(lived.quiet.execute(sa.text("SELECT COUNT(*) FROM runs")).scalar_one())
        parts = lived.quiet.execute(sa.text("SELECT COUNT(DISTINCT YEARWEEK(due_at, 1)) FROM runs")).scalar_one()
        rounds = [_round(plain, lived, size, turn) for turn in range(size.rounds)]
        time.sleep(5)  # so that no task is made due twice at the same second
        base_ms, ms = (statistics.median(p99(one[n]) for one in rounds) for n in (0, 1))
        p50 = [statistics.median(value for one in rounds for value in one[n]) for n in (0, 1)]
        kinds = ((plain, "allow"), (lived, "allow"), (lived, "skip"))
        turns = [[_starts(*kind, size, 3 * turn + n) for n, kind in enumerate(kinds)] for turn in range(size.starts)]
        started = [[value for turn in turns for value in turn[n]] for n in range(len(kinds))]
    shown = ["/".join(f"{p99(one[n]):.0f}" for one in rounds) for n in (1, 0)]
    middle = [statistics.median(times) for times in started]
    figure = (
        f"{size.tasks} tasks, {rows} past runs in {parts} weeks; claim of {BATCH} p99 {ms:.0f} ms ="
        f" {ms / base_ms:.2f} × the {base_ms:.0f} ms (rounds {shown[0]} and {shown[1]}; p50 {p50[1]:.0f} and"
        f" {p50[0]:.0f}); start of {STARTED}, median: allow {middle[0]:.1f} ms, allow with history {middle[1]:.1f} ms ="
        f" {middle[1] / middle[0]:.2f} ×, skip with history {middle[2]:.1f} ms = {middle[2] / middle[0]:.2f} ×;"
        f" p99 {', '.join(f'{p99(times):.0f}' for times in started)} ms"
    )
    return figure, ms <= LIMIT * base_ms and rows >= size.tasks * size.days


@contextmanager
def side(stage: Stage, name: str, overlap: str) -> Iterator[Side]:
    """A database of this name on the stage's server, gone at the end."""
    url = stage.database.url.replace("/clockjack?", f"/{name}?")
    engine = sa.create_engine(stage.database.url, isolation_level="AUTOCOMMIT")
    quiet = engine.connect()
    for statement in (
        "SET SESSION sql_log_bin = 0, time_zone = '+00:00'",
        f"DROP DATABASE IF EXISTS {name}",
        f"CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
        f"USE {name}",
    ):
        quiet.exec_driver_sql(statement)
    migrate(url)
    ledger = Database(url, size=2)
    try:
        ledger.now()
        yield Side(name, overlap, ledger, quiet)
    finally:
        ledger.close()
        quiet.exec_driver_sql(f"DROP DATABASE {name}")
        quiet.close()
        engine.dispose()


def _tasks(side: Side, size: Size) -> None:
    side.quiet.execute(
        sa.text(
            "INSERT INTO tasks (handler, payload, overlap, cron, every_s, timezone, start_at, next_run_at, version,"
            " seen_state, seen_schedule_version, created_at)"
            f" SELECT 'mock', '{{}}', :overlap, IF(n % 2, '0 0 1 1 *', NULL), IF(n % 2, NULL, 3600),"
            f" ELT(1 + n DIV 2 % 4, {', '.join(repr(zone) for zone in ZONES)}), IF(n % 2, NULL, '{FAR}'), '{FAR}', 1,"
            f" 'active', 1, UTC_TIMESTAMP(6) - INTERVAL 40 DAY FROM ({NUMBERS}) AS numbers WHERE n <= :tasks ORDER BY n"
        ),
        {"overlap": side.overlap, "tasks": size.tasks},
    )


def _live_for(side: Side, size: Size) -> None:
    """The past of `days` days stands in the partitions that would have been made week by week."""
    now = side.ledger.now()
    first, *_ = partitions.boundaries(now)
    weeks = size.days // 7 + 1
    bounds = [first - partitions.WEEK * n for n in range(weeks, -1, -1)]
    parts = ", ".join(f"PARTITION p{b:%Y%m%d} VALUES LESS THAN ('{b:%Y-%m-%d}')" for b in bounds)
    side.quiet.exec_driver_sql(f"ALTER TABLE runs REORGANIZE PARTITION p{first:%Y%m%d} INTO ({parts})")
    today = datetime(now.year, now.month, now.day)
    for turn in range(size.days):
        day = today - timedelta(days=size.days - turn + 1)
        side.quiet.execute(sa.text(PAST), {"day": day, "turn": turn})
    side.quiet.exec_driver_sql("ANALYZE TABLE runs, tasks")


def _round(plain: Side, lived: Side, size: Size, turn: int) -> tuple[list[float], list[float]]:
    """The times (ms) of so many claims on either side, by turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(size.claims + 2):
        slice_ = turn * (size.claims + 2) + number
        pair = [(plain, times[0]), (lived, times[1])]
        for one, into in pair if number % 2 else reversed(pair):
            spent_ms, _ = _claim(one, slice_, size, ahead_s=2)
            if number >= 2:  # the first ones open connections and fill caches
                into.append(spent_ms)
    for one in (plain, lived):
        one.quiet.exec_driver_sql(ENDED)
        if one is plain:
            one.quiet.exec_driver_sql("TRUNCATE TABLE runs")
    return times


def _claim(one: Side, slice_: int, size: Size, ahead_s: int) -> tuple[float, list[Ready]]:
    """500 tasks are made due and claimed; how long the claim took (ms)."""
    low = slice_ * BATCH % size.tasks + 1
    due = one.ledger.now().replace(microsecond=0) + timedelta(seconds=ahead_s)

    def make_due(connection: Connection) -> None:
        of = "WHERE id BETWEEN :low AND :high AND"
        at: dict[str, Any] = {"due": due, "low": low, "high": low + BATCH - 1}
        changed(connection, f"UPDATE tasks SET start_at = :due, next_run_at = :due {of} every_s IS NOT NULL", **at)
        for zone in ZONES:
            cron = _cron(due, zone)
            schedule = Schedule(cron=cron, timezone=zone)
            next_after(schedule, due - timedelta(microseconds=1))  # read before, as in a dispatcher that runs
            next_after(schedule, due)
            sql = f"UPDATE tasks SET cron = :cron, next_run_at = :due {of} cron IS NOT NULL AND timezone = :zone"
            changed(connection, sql, cron=cron, zone=zone, **at)

    one.ledger.transaction(make_due)
    begun = time.perf_counter()
    done = claim.claim(one.ledger, {})
    spent_ms = (time.perf_counter() - begun) * 1e3
    if (done.tasks, len(done.ready)) != (BATCH, BATCH):
        raise RuntimeError(f"a claim in {one.name} found {done.tasks} tasks and made {len(done.ready)} runs")
    return spent_ms, done.ready


def _cron(due: datetime, zone: str) -> str:
    """Every day at this instant, by the zone's clocks."""
    local = due.replace(tzinfo=load("UTC")).astimezone(load(zone))
    return f"{local.second} {local.minute} {local.hour} * * *"


def _starts(one: Side, overlap: str, size: Size, turn: int) -> list[float]:
    """The times (ms) of the start transactions, 100 runs each, of one claim of tasks with this overlap."""
    times: list[float] = []
    slice_ = turn % (size.tasks // BATCH)
    low = slice_ * BATCH + 1
    sql = "UPDATE tasks SET overlap = :overlap WHERE id BETWEEN :low AND :high"
    one.quiet.execute(sa.text(sql), {"overlap": overlap, "low": low, "high": low + BATCH - 1})
    _, ready = _claim(one, slice_, size, ahead_s=-1)
    for i in range(0, BATCH, STARTED):
        popped = [
            runs.Popped(r.run_id, r.due_at, r.attempt, live_task_id=r.live_task_id) for r in ready[i : i + STARTED]
        ]
        token = f"{turn:08}{i:08}".encode()

        def start(connection: Connection, popped: list[runs.Popped] = popped, token: bytes = token) -> runs.Started:
            return runs.start(connection, popped, token, "prove")

        begun = time.perf_counter()
        done = one.ledger.transaction(start)
        times.append((time.perf_counter() - begun) * 1e3)
        if len(done.execute) != STARTED:
            raise RuntimeError(f"{len(done.execute)} of {STARTED} runs began in {one.name}")
    one.quiet.exec_driver_sql(ENDED)
    return times
