"""Catching up: an hour of 20,000 every-minute tasks is overdue while other tasks are due, also in their queue.

The overdue tasks are inserted as a dispatcher that was dead for an hour leaves them: active, with a next_run_at of an
hour ago, spread over the minute. They go on every minute afterwards. One-time tasks, 50 a second, every other one in
another queue, were registered before. How late their handlers began is counted from the lines that these wrote. The
overdue tasks' own next occurrences are only told: one that comes up before its task's overdue run was claimed waits.
"""

import statistics
from collections.abc import Mapping, Sequence

from tests.prove.contention import p99
from tests.prove.counting import Effects, count
from tests.prove.history import NUMBERS
from tests.prove.stage import Stage, until

OUTAGE_S, PERIOD_S, A_SECOND = 3600, 60, 50
BEGIN_S, BEFORE_S, MOST_S, AFTER_S = 8, 3, 75, 5
P99_S, MOST_LATE_S = 2.0, 10.0
OVERDUE = (
    "INSERT INTO tasks (handler, payload, queue, every_s, start_at, next_run_at, version, seen_state,"
    " seen_schedule_version, created_at)"
    f" SELECT 'mock', '{{}}', 'a', {PERIOD_S}, begin, begin, 1, 'active', 1, begin FROM ("
    f" SELECT n, UTC_TIMESTAMP(6) - INTERVAL {OUTAGE_S} SECOND + INTERVAL (n * {PERIOD_S}000000 DIV :tasks) MICROSECOND"
    f" AS begin FROM ({NUMBERS}) AS numbers WHERE n <= :tasks) AS missed ORDER BY n"
)
# of tasks and of live runs: what was due more than 10 s ago
LEFT = (
    "SELECT COUNT(*) FROM tasks FORCE INDEX (due) WHERE next_run_at < UTC_TIMESTAMP(6) - INTERVAL 10 SECOND",
    "SELECT COUNT(*) FROM runs FORCE INDEX (wake) WHERE wake_at IS NOT NULL"
    " AND due_at < UTC_TIMESTAMP(6) - INTERVAL 10 SECOND",
)
# each occurrence before next_run_at has a row of its own, or lies in the range of one that was skipped
WITHOUT_ROW = f"""
SELECT COUNT(*) FROM (
  SELECT TIMESTAMPDIFF(SECOND, t.start_at, t.next_run_at) DIV {PERIOD_S} AS wanted,
    SUM(IF(r.skipped_until IS NULL, 1, TIMESTAMPDIFF(SECOND, r.due_at, r.skipped_until) DIV {PERIOD_S})) AS found
  FROM tasks t LEFT JOIN runs r ON r.task_id = t.id WHERE t.every_s IS NOT NULL GROUP BY t.id, t.start_at, t.next_run_at
) AS counted WHERE found IS NULL OR found <> wanted
"""
FIRST = "FROM runs r JOIN tasks t ON t.id = r.task_id WHERE t.every_s IS NOT NULL AND r.due_at = t.start_at"
COVERED = f"SELECT SUM(TIMESTAMPDIFF(SECOND, due_at, skipped_until) DIV {PERIOD_S}) FROM runs WHERE state = 'skipped'"


def catch_up(stage: Stage, *, tasks: int) -> tuple[str, bool]:
    """What was overdue ran or is covered by a row, and what was on time meanwhile hardly waited."""
    base_us = stage.now_us() + BEGIN_S * 1_000_000
    dues = [base_us + n * 1_000_000 // A_SECOND for n in range((BEFORE_S + MOST_S + AFTER_S) * A_SECOND)]
    beside = {"a": stage.register(dues[::2], queue="a"), "b": stage.register(dues[1::2], queue="b")}
    begun = [stage.start("dispatcher", wait=False) for _ in range(2)]
    begun += [stage.start("consumer", wait=False, queue=queue) for queue in ("a", "a", "b")]
    for process in begun:
        stage.ready(process)
    until(lambda: stage.clock.now_us() > base_us + BEFORE_S * 1_000_000, BEGIN_S + BEFORE_S + 20)
    back_us = stage.now_us()
    stage.sql(OVERDUE, tasks=tasks)
    over = until(lambda: not any(stage.one(sql) for sql in LEFT), MOST_S, 0.5)
    over_us = stage.now_us()
    until(lambda: stage.clock.now_us() > over_us + AFTER_S * 1_000_000, AFTER_S + 5)
    effects = Effects(stage.effects)
    meanwhile = [
        {key: due for key, due in expected.items() if back_us <= due <= over_us} for expected in beside.values()
    ]
    for expected in meanwhile:
        effects.wait(expected, MOST_LATE_S, 0.5)
    stage.end()
    counts = [count(effects, expected) for expected in meanwhile]
    late = [_late_s(effects, expected) for expected in meanwhile]
    theirs = {key: int(key.split("-")[1]) for key in effects.by_key if not any(key in keys for keys in beside.values())}
    own = _late_s(effects, {key: due for key, due in theirs.items() if back_us <= due <= over_us})
    ran, silent = (
        int(stage.one(f"SELECT COUNT(*) {FIRST} AND r.first_started_at IS {null}")) for null in ("NOT NULL", "NULL")
    )
    gaps, covered = int(stage.one(WITHOUT_ROW)), int(stage.one(COVERED) or 0)
    figure = (
        f"{ran} overdue runs began and {covered} occurrences are covered by rows after"
        f" {(over_us - back_us) / 1e6:.0f} s{'' if over else ', when more were left'}, {tasks - ran} not begun,"
        f" {gaps} tasks with an occurrence that has no row; on time meanwhile: {_show(late[0])} in the same queue,"
        f" {_show(late[1])} in another, missing {sum(c.missing for c in counts)}, twice {sum(c.twice for c in counts)};"
        f" the next occurrences of the overdue tasks {_show(own)}"
    )
    exact = (
        over and ran == tasks and not silent and not gaps and not any(c.missing or c.twice or c.early for c in counts)
    )
    return figure, exact and all(part and p99(part) <= P99_S and max(part) <= MOST_LATE_S for part in late)


def _late_s(effects: Effects, expected: Mapping[str, int]) -> list[float]:
    """How late (s) each of these runs began that did."""
    by_key = effects.read().by_key
    return [(min(e.now_us for e in by_key[key]) - due) / 1e6 for key, due in expected.items() if key in by_key]


def _show(late_s: Sequence[float]) -> str:
    if not late_s:
        return "none"
    return (
        f"{len(late_s)} runs p50 {statistics.median(late_s):.2f} s, p99 {p99(late_s):.2f} s, latest {max(late_s):.2f} s"
    )
