"""Clockjack on a stage: its own processes with one handler, bulk INSERTs, and the count of what came of them."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from clockjack.ledger.advance import LOOKAHEAD
from clockjack.ledger.database import to_us
from tests.bench.measure import Lateness, Lines, lateness
from tests.prove.counting import SETTLE_S, Count, Effects, count
from tests.prove.stage import Process, Stage, until

HANDLERS = "tests.bench.handlers"
SETTINGS: dict[str, Any] = {"handlers": HANDLERS, "log_level": "WARNING"}  # no log line a run, as with the peers
LEAD_S = 15.0
SECOND = 1_000_000


class Broken(Exception):
    """What was measured does not count: not every run was executed once, or one was early."""


def register_recurring(stage: Stage, rows: Sequence[Mapping[str, Any]], every_s: int, last_us: int) -> dict[str, int]:
    """Tasks with these columns, `start_at` among them, are registered: {the key of each of their runs: due_us}.

    Each has an occurrence at `start_at` and then every `every_s`, up to `last_us`, which the columns have to say.
    """
    names, expected = list(rows[0]), {}
    for i in range(0, len(rows), 500):
        part = rows[i : i + 500]

        def body(connection: Any, part: Sequence[Mapping[str, Any]] = part) -> int:
            done = connection.exec_driver_sql(
                f"INSERT INTO tasks ({', '.join(names)}) VALUES "
                + ", ".join([f"({', '.join(['%s'] * len(names))})"] * len(part)),
                tuple(value for row in part for value in row.values()),
            )
            return int(done.lastrowid)

        first = stage.ledger.transaction(body)  # the ids of one INSERT are contiguous
        for n, row in enumerate(part):
            for due in range(to_us(row["start_at"]), last_us + 1, every_s * SECOND):
                expected[f"{first + n}-{due}"] = due
    return expected


def cast(stage: Stage, dispatchers: int = 1, consumers: int = 2, **settings: Any) -> dict[str, Process]:
    """So many processes of each are at work: {name: process}."""
    kinds = {f"dispatcher.{i + 1}": "dispatcher" for i in range(dispatchers)}
    kinds |= {f"consumer.{i + 1}": "consumer" for i in range(consumers)}
    begun = {name: stage.start(kind, wait=False, **SETTINGS | settings) for name, kind in kinds.items()}
    for process in begun.values():
        stage.ready(process)
    return begun


def pids(stage: Stage, processes: Mapping[str, Process]) -> dict[str, int]:
    """The processes and the two servers."""
    servers = {"database": stage.database.pid, "redis": stage.redis.pid}
    return {name: process.pid for name, process in processes.items()} | servers


def whole_second(us: int) -> int:
    """The next whole second."""
    return -(-us // SECOND) * SECOND


def ahead(seconds: float) -> int:
    """A whole second, at least so far ahead, in µs; every peer can express it."""
    return whole_second(time.time_ns() // 1000 + int(seconds * SECOND))


def sleep_until(us: int) -> None:
    """It is that time. Broken when it was less than the look-ahead away: the registration took too long."""
    left_s = us / 1e6 - time.time()
    if left_s < LOOKAHEAD.total_seconds():
        raise Broken(f"registered only {left_s:.1f} s before the first is due: this machine is too busy")
    time.sleep(left_s)


def wait_for(stage: Stage, number: int, until_us: int, timeout_s: float) -> bool:
    """Whether so many lines were written; nobody looks before `until_us`."""
    time.sleep(max(0.0, (until_us - time.time_ns() // 1000) / 1e6))
    return Lines(stage.effects).reach(number, timeout_s)


def finished(stage: Stage, expected: Mapping[str, int], timeout_s: float = 60.0) -> tuple[Effects, Count]:
    """Every run is finished in the database and was executed once, none early; Broken otherwise."""
    until(lambda: stage.live() == 0, timeout_s, 0.25)
    time.sleep(SETTLE_S)  # for what should not happen
    effects = Effects(stage.effects)
    done = count(effects, expected)
    tasks = [int(key.split("-")[0]) for key in expected]
    succeeded = stage.one(
        "SELECT COUNT(*) FROM runs WHERE task_id BETWEEN :low AND :high AND state = 'succeeded'",
        low=min(tasks),
        high=max(tasks),
    )
    if not done.once_each or succeeded != len(expected):
        raise Broken(f"{done}; {succeeded} succeeded in the database")
    return effects, done


def late_us(effects: Effects) -> list[int]:
    """How late each entry was."""
    return [entry.now_us - entry.due_us for entry in effects.all]


def figures(effects: Effects) -> Lateness:
    """The lateness of all entries."""
    return lateness(late_us(effects))
