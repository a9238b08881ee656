"""The three stages as processes: a person with a mysql client, a kill, a loss of Redis, a SIGTERM."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from clockjack.ledger.database import Database
from clockjack.queues import Queues
from tests.integration.life import select

pytestmark = [pytest.mark.mysql, pytest.mark.xdist_group("heavy")]
ROOT = Path(__file__).parents[2]


class Stages:
    """Processes of the product on the test's servers."""

    def __init__(self, env: dict[str, str], effects: Path, users: dict[str, str]) -> None:
        self.env, self.effects, self.users = env, effects, users
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, module: str) -> "subprocess.Popen[bytes]":
        env = self.env | {"CLOCKJACK_DATABASE_URL": self.users[module.removesuffix("s")]}
        log = (self.effects.parent / f"{module}.{len(self.processes)}.log").open("ab")
        process = subprocess.Popen([sys.executable, "-m", module], env=env, cwd=ROOT, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def entries(self) -> list[list[str]]:
        """Lines that handlers wrote: run_key attempt due_us now_us pid."""
        return [line.split() for line in self.effects.read_text().splitlines()] if self.effects.exists() else []

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def stages(users: dict[str, str], database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Stages]:
    effects = tmp_path / "effects"
    env = os.environ | {
        "CLOCKJACK_DATABASE_URL": users["sql_producer"],
        "CLOCKJACK_REDIS_URL": redis_url,
        "CLOCKJACK_EFFECTS": str(effects),
        "PORT": "0",
    }
    stages = Stages(env, effects, users)
    yield stages
    stages.stop()


def wait(condition: Callable[[], Any], within_s: float = 20) -> None:
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up, "it did not come true"
        time.sleep(0.05)


def late_s(entry: list[str]) -> float:
    return (int(entry[3]) - int(entry[2])) / 1e6


def test_a_person_with_a_mysql_client(stages: Stages, database: Database) -> None:
    stages.start("dispatcher")
    stages.start("consumers")
    session = sa.create_engine(stages.users["sql_producer"])
    with session.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO tasks (handler, payload, run_at) VALUES ('mock', '{}', UTC_TIMESTAMP(6) + INTERVAL 2 SECOND)"
        )
        connection.exec_driver_sql(
            "INSERT INTO tasks (handler, payload, cron, timezone) VALUES ('mock', '{}', '* * * * * *', 'Europe/Berlin')"
        )
    with session.connect() as connection:
        connection.exec_driver_sql("INSERT INTO tasks (handler, run_at) VALUES ('mock', UTC_TIMESTAMP(6))")
        connection.rollback()
    wait(lambda: len(stages.entries()) >= 4)
    ids = [r["id"] for r in select(database, "SELECT id FROM tasks ORDER BY id")]
    ran = {int(entry[0].split("-")[0]) for entry in stages.entries()}
    assert ran == set(ids)
    assert len(ids) == 2
    assert all(0 <= late_s(entry) <= 10 for entry in stages.entries())


def test_a_killed_consumer_a_killed_dispatcher_and_an_empty_redis(
    stages: Stages, database: Database, queues: Queues
) -> None:
    dispatchers = [stages.start("dispatcher"), stages.start("dispatcher")]
    consumers = [stages.start("consumers"), stages.start("consumers")]
    wait(lambda: len(queues.served().get("default", ())) and len(queues.consumers()) == 2)
    begin = database.now()
    with sa.create_engine(stages.env["CLOCKJACK_DATABASE_URL"]).begin() as connection:
        for i in range(300):
            connection.exec_driver_sql(
                "INSERT INTO tasks (handler, payload, run_at)"
                " VALUES ('mock', '{\"sleep_ms\": 50}', %s + INTERVAL %s MICROSECOND)",
                (begin, 1_000_000 + i * 10_000),
            )
    wait(lambda: len(stages.entries()) > 40)
    dispatchers[0].kill()
    wait(lambda: len(stages.entries()) > 80)
    consumers[0].kill()
    wait(lambda: len(stages.entries()) > 120)
    queues.redis.flushall()
    over = "SELECT COUNT(*) AS n FROM runs WHERE state = 'succeeded'"
    wait(lambda: select(database, over) == [{"n": 300}], within_s=40)
    first: dict[str, list[str]] = {}
    for entry in stages.entries():
        first.setdefault(entry[0], entry)
    assert len(first) == 300
    assert max(map(late_s, first.values())) <= 10
    assert min(map(late_s, first.values())) >= 0
    again = len(stages.entries()) - 300
    lost = select(database, "SELECT COUNT(*) AS n FROM attempts WHERE outcome = 'lost'")[0]["n"]
    assert again <= lost <= 60


def test_sigterm_loses_nothing_and_counts_no_failure(stages: Stages, database: Database, queues: Queues) -> None:
    stages.start("dispatcher")
    first = stages.start("consumers")
    wait(lambda: len(queues.consumers()) == 1)
    begin = database.now()
    with sa.create_engine(stages.env["CLOCKJACK_DATABASE_URL"]).begin() as connection:
        for _ in range(150):
            connection.exec_driver_sql(
                "INSERT INTO tasks (handler, payload, run_at) VALUES ('mock', '{\"sleep_ms\": 300}', %s)", (begin,)
            )
    wait(lambda: len(stages.entries()) > 30)
    first.send_signal(signal.SIGTERM)
    stages.start("consumers")
    assert first.wait(20) == 0
    wait(lambda: select(database, "SELECT COUNT(*) AS n FROM runs WHERE state = 'succeeded'") == [{"n": 150}])
    assert len(stages.entries()) == 150
    assert select(database, "SELECT id FROM runs WHERE failures > 0") == []


def parent(pid: int) -> int:
    """The pid of the process's parent; 0 when it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def begun_by(pid: int) -> set[int]:
    """The children of a process."""
    return {int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and parent(int(p.name)) == pid}


def test_no_isolated_handler_outlives_its_consumer(stages: Stages, database: Database, queues: Queues) -> None:
    stages.env["CLOCKJACK_ISOLATED"] = "1"
    stages.start("dispatcher")
    consumer = stages.start("consumers")
    wait(lambda: len(queues.consumers()) == 1)
    with sa.create_engine(stages.env["CLOCKJACK_DATABASE_URL"]).begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO tasks (handler, payload, run_at) VALUES ('mock', '{\"sleep_ms\": 60000}', UTC_TIMESTAMP(6))"
        )
    wait(lambda: len(stages.entries()) == 1)
    child = int(stages.entries()[0][4])
    (server,) = begun_by(consumer.pid) & {parent(child)}
    family = begun_by(consumer.pid) | begun_by(server)
    assert child in family
    assert len(family) > 5  # warm ones, too
    consumer.kill()
    consumer.wait()
    wait(lambda: not any(Path(f"/proc/{pid}").exists() for pid in family), within_s=5)


@pytest.mark.parametrize("what", ["memory", "files"])
def test_a_consumer_whose_handlers_leak_drains_and_ends(stages: Stages, database: Database, what: str) -> None:
    stages.env |= {"CLOCKJACK_HANDLERS": "tests.integration.untrusted", "CLOCKJACK_MEMORY_MB": "300"}
    stages.start("dispatcher")
    consumer = stages.start("consumers")
    with sa.create_engine(stages.env["CLOCKJACK_DATABASE_URL"]).begin() as connection:
        insert = "INSERT INTO tasks (handler, payload, run_at) VALUES (%s, %s, UTC_TIMESTAMP(6))"
        connection.exec_driver_sql(insert, ("mock", '{"sleep_ms": 3000}'))
        connection.exec_driver_sql(insert, ("untrusted.keep", f'"{what}"'))
    assert consumer.wait(20) == 1
    assert '"action": "leaking"' in (stages.effects.parent / "consumers.1.log").read_text()
    ended = select(database, "SELECT state, attempt, failures FROM runs")
    assert ended == [{"state": "succeeded", "attempt": 1, "failures": 0}] * 2  # what had begun went on to its end


def test_a_full_redis_is_drained(stages: Stages, database: Database, queues: Queues) -> None:
    stages.start("dispatcher")
    stages.start("consumers")
    wait(lambda: len(queues.consumers()) == 1)
    with sa.create_engine(stages.env["CLOCKJACK_DATABASE_URL"]).begin() as connection:
        for _ in range(5):
            connection.exec_driver_sql(
                "INSERT INTO tasks (handler, run_at) VALUES ('mock', UTC_TIMESTAMP(6) + INTERVAL 4 SECOND)"
            )
    wait(lambda: queues.redis.zcard("clockjack:staged:default") == 5)
    queues.redis.config_set("maxmemory", "1")
    try:
        wait(lambda: len(stages.entries()) == 5, within_s=14)
    finally:
        queues.redis.config_set("maxmemory", "0")
    assert all(0 <= late_s(entry) <= 10 for entry in stages.entries())
