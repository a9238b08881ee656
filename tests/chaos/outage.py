"""An hour in which nothing of ours runs, in seconds: all processes are dead while the database's clock moves on."""

import time
from collections.abc import Generator

from tests.chaos.clients import AHEAD, now_us
from tests.chaos.nemesis import ACTS, Nemesis
from tests.chaos.plan import Fault
from tests.chaos.world import AT_WORK_S
from tests.prove.stage import until

Act = Generator[None, None, tuple[bool, str]]


def outage(nemesis: Nemesis, fault: Fault) -> Act:
    """kill -9 of all eight; the database's clock jumps an hour ahead and stays; all are started again.

    Plain SQL goes on before and after the jump: what it registers in the outage is missed, too. Nobody asks anything in
    the second of the jump itself, so that each stamp of ours is on one side of it.
    """
    world, by_s = nemesis.world, fault.options["by_s"]
    for name in world.places:
        world.kill(name, restart_after_s=10**6)
    gone = until(lambda: all(place.process is None for place in world.places.values()), 10, 0.05)
    running = world.sql("SELECT COUNT(*) FROM runs WHERE state = 'running'")[0][0]
    time.sleep(2)
    AHEAD.open.clear()
    try:
        time.sleep(1)  # what plain SQL had begun is over
        at_us = now_us()
        (world.home / "clock-mysqld").write_text(f"{by_s:+d}")

        def ahead_s() -> float:
            return float(world.sql("SELECT UNIX_TIMESTAMP(NOW(6))")[0][0]) - time.time()

        moved = until(lambda: abs(ahead_s() - by_s) < 1, 10, 0.1)
        time.sleep(1)
        AHEAD.by_us = by_s * 1_000_000
        world.moved = {"at_us": at_us, "by_us": AHEAD.by_us}
    finally:
        AHEAD.open.set()
    missed = world.sql("SELECT COUNT(*) FROM tasks WHERE next_run_at < UTC_TIMESTAMP(6) - INTERVAL 10 SECOND")[0][0]
    yield
    world.start_again()
    back = all(world.wait_at_work(name, AT_WORK_S) for name in world.places)
    return bool(gone and moved and missed and back), (
        f"all ended: {gone}, with {running} runs in hand; {by_s:+d} s, seen from outside: {moved};"
        f" {missed} tasks had missed something; at work again: {back}"
    )


ACTS["outage"] = outage
