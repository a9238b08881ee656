"""Every pair of operations, one of them stopped at each of its points while the other goes through.

A is stopped before each of its statements, COMMITs and Redis calls; B runs to its end, or until it waits for a lock
that A holds; then A goes on. At the end everybody works until nothing is left to do, and the rows must tell what was
executed.

Without INTERLEAVINGS=all, which takes minutes, these are tried: all points of a claim beside a change of the due task,
and the other way round; two of each pair of the stages' own operations; one of a fourth of the other pairs.
INTERLEAVINGS=2 draws others.
"""

import os
import random
import time
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from clockjack.ledger.database import Database
from clockjack.ledger.tasks import StateConflict
from clockjack.queues import Queues
from deploy import servers
from tests.integration.agreement import check
from tests.integration.failpoints import Stopped, waits_for_a_lock
from tests.integration.life import deadlocks, latest_deadlock
from tests.integration.situations import CONTROL, DUE, ENDS, ON, SITUATIONS, WORK, Operation
from tests.integration.world import World, world

pytestmark = pytest.mark.mysql

ALL = 1000
STILL_S = 2.5  # a session that can hold locks is ended after 3 s without a statement
CHOSEN = os.environ.get("INTERLEAVINGS", "1")
FUSS = {"innodb_flush_log_at_trx_commit": 2, "sync_binlog": 0}  # nobody pulls the plug here


def drawn() -> Iterator[tuple[str, str, str, int]]:
    """Pairs, and how many points of A are tried at most."""
    for situation, a, b in pairs():
        if CHOSEN == "all" or (situation == "due" and "claim" in (a, b)):
            yield situation, a, b, ALL
        elif a in WORK and b in WORK:
            yield situation, a, b, 2
        elif random.Random(f"{situation} {a} {b} {CHOSEN}").random() < 0.25:
            yield situation, a, b, 1


def pairs() -> Iterator[tuple[str, str, str]]:
    """All pairs; two changes of one task meet in the same way wherever its run is, so they do in two situations."""
    for name, (_, operations) in SITUATIONS.items():
        for a in operations:
            for b in operations:
                if a != "begin" and (name in ("due", "paused") or a in WORK or b in WORK):  # "begin" has no points
                    yield name, a, b


@pytest.fixture(scope="module")
def quick(database_server: servers.Server | None, migrated_url: str) -> Iterator[sa.Connection]:
    """A connection for looking; until the end of the module the server (if it is ours) does not sync its commits."""
    engine = sa.create_engine(migrated_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        before = {n: connection.exec_driver_sql(f"SELECT @@GLOBAL.{n}").scalar_one() for n in FUSS}
        try:
            for name, value in FUSS.items() if database_server else ():
                connection.exec_driver_sql(f"SET GLOBAL {name} = {value}")
            yield connection
        finally:
            for name, value in before.items() if database_server else ():
                connection.exec_driver_sql(f"SET GLOBAL {name} = {value}")
    engine.dispose()


@pytest.fixture(scope="module")
def there(
    quick: sa.Connection, users: dict[str, str], migrated_url: str, emptier: sa.Engine, redis_server: servers.Server
) -> Iterator[World]:
    database, owner = Database(users["stages"], size=8), Database(migrated_url, size=1)
    with world(database, Queues(redis_server.url), emptier) as one:
        before = deadlocks(owner)
        yield one
        assert deadlocks(owner) == before, latest_deadlock(owner)
    database.close()
    owner.close()


def drive(w: World, looking: sa.Connection, a: Operation, b: Operation, nth: int) -> tuple[Stopped, Stopped, bool]:
    """A has stopped at its `nth` point, B went through or waited, and both are over; whether B waited."""
    first = w.points.run(lambda: a(w, 0), nth)
    assert first.here.wait(15)
    if not first.over:
        w.look()
    second, waited = w.points.run(lambda: b(w, 1)), False
    for pause_s in (0.002, *[0.005] * 2000):
        if first.over or second.here.wait(pause_s):
            break
        if waits_for_a_lock(looking):
            waited = True
            break
    if second.over:
        w.look()
    first.join()
    second.join()
    return first, second, waited


@pytest.mark.parametrize(("situation", "a", "b", "most"), list(drawn()))
def test_pair(there: World, quick: sa.Connection, situation: str, a: str, b: str, most: int) -> None:
    if most == ALL:
        nth, over = 1, False  # stopped before all is what (b, a) does at its end
        while not over:
            over = one_case(there, quick, situation, a, b, nth)
            nth += 1
    else:
        dice, there_are = random.Random(f"{a} {b} {CHOSEN} {situation}"), points(there, situation, a)
        for nth in dice.sample(range(1, there_are + 1), min(most, there_are)):
            one_case(there, quick, situation, a, b, nth)


def one_case(w: World, looking: sa.Connection, situation: str, a: str, b: str, nth: int) -> bool:
    """All held when A was stopped at its `nth` point; returns whether A had no such point.

    Where the machine stood still meanwhile, the server has ended A's session, as it should: then it is played again.
    """
    for last in (False, False, True):
        began_s = time.monotonic()
        troubles, over = play(w, looking, situation, a, b, nth)
        if not troubles or last or time.monotonic() - began_s < STILL_S:
            assert not troubles, "\n".join(troubles)
            return over
    raise AssertionError("unreachable")


def play(w: World, looking: sa.Connection, situation: str, a: str, b: str, nth: int) -> tuple[list[str], bool]:
    """What did not hold, if anything, after the line that tells the case; and whether A had no such point."""
    operations = CONTROL | WORK
    random.seed(nth)  # of back-offs
    w.reset()
    SITUATIONS[situation][0](w)
    first, second, waited = drive(w, looking, operations[a], operations[b], nth)
    troubles = [
        f"{which} raised {one.error!r:.300}"
        for which, one in ((a, first), (b, second))
        if one.error is not None and not isinstance(one.error, StateConflict)
    ]
    if {a, b} & ON:
        w.off = {}
    w.calm()
    troubles += check(w)
    if situation != "paused" and not {a, b} & ENDS:
        troubles += [
            f"the run that was due is {run['state']} {run['reason']}"
            for run in w.runs()
            if run["due_at"] == DUE and run["state"] != "succeeded" and run["reason"] != "replaced"
        ]
    name = f"{situation}: {a} stopped before {(first.passed[nth:] or ['its end'])[0]!r} ({nth}), {b} "
    name += "waited" if waited else "went through"
    return ([name, *troubles] if troubles else []), len(first.passed) <= nth


_points: dict[tuple[str, str], int] = {}


def points(w: World, situation: str, a: str) -> int:
    """How many points the operation has when nobody else does anything."""
    if (situation, a) not in _points:
        w.reset()
        SITUATIONS[situation][0](w)
        alone = w.points.run(lambda: (CONTROL | WORK)[a](w, 0))
        alone.join()
        _points[situation, a] = len(alone.passed)
    return _points[situation, a]
