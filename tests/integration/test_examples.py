"""The examples, as their README says: real stages on the test's servers, and the examples' own programs."""

import asyncio
import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clockjack.ledger import keys
from clockjack.ledger.database import Database
from tests.integration.life import owner, select
from tests.integration.serving import Producer

pytestmark = pytest.mark.xdist_group("heavy")
ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


class Stages:
    """A dispatcher and consumers on the test's servers, and a client's environment."""

    def __init__(self, env: dict[str, str], users: dict[str, str], logs: Path) -> None:
        self.env, self._users, self._logs = env, users, logs
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, module: str, **settings: str) -> None:
        env = self.env | {"CLOCKJACK_DATABASE_URL": self._users[module.removesuffix("s")], **settings}
        log = (self._logs / f"{module}.log").open("ab")
        self.processes.append(
            subprocess.Popen([sys.executable, "-m", module], env=env, cwd=ROOT, stdout=log, stderr=log)
        )

    def run(self, *argv: str) -> str:
        """What the program said; it ended well, within a minute."""
        done = subprocess.run(
            [sys.executable, "-m", *argv], env=self.env, cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def serving(migrated_url: str, redis_server: Any) -> Iterator[Producer]:
    """A producer that takes tasks which call receivers on this machine."""
    producer = Producer(migrated_url, redis_server.url, CLOCKJACK_HTTP_ALLOW="127.0.0.1/32")
    producer.start()
    yield producer
    producer.end(signal.SIGKILL)


@pytest.fixture
def stages(
    users: dict[str, str], database: Database, redis_url: str, serving: Producer, tmp_path: Path
) -> Iterator[Stages]:
    env = os.environ | {
        "CLOCKJACK_DATABASE_URL": users["producer"],
        "CLOCKJACK_REDIS_URL": redis_url,
        "CLOCKJACK_URL": serving.url,
        "CLOCKJACK_API_KEY": owner(database).transaction(lambda c: keys.create(c, "default", "test")),
        "PORT": "0",
    }
    found = Stages(env, users, tmp_path)
    found.start("dispatcher")
    yield found
    for process in found.processes:
        process.kill()
        process.wait()


def wait(condition: Callable[[], Any], within_s: float = 20) -> None:
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up, "it did not come true"
        time.sleep(0.05)


def test_calendar_reminders(stages: Stages, database: Database) -> None:
    stages.start("consumers", CLOCKJACK_HANDLERS="examples.calendar_reminders", CLOCKJACK_QUEUE="calendar")
    out = stages.run("examples.calendar_reminders")
    assert out.count("told ['ann@example.org', 'bob@example.org'] that Tea is at the garden") == 2
    runs = select(database, "SELECT due_at, first_started_at, state FROM runs ORDER BY due_at")
    assert [run["state"] for run in runs] == ["succeeded"] * 2
    due = re.findall(r"'(\d{4}-[^Z]*)Z'", out)
    assert [run["due_at"].isoformat(timespec="microseconds") for run in runs] == due  # the moved ones, and no others
    assert all(0 <= (run["first_started_at"] - run["due_at"]).total_seconds() <= 10 for run in runs)


def test_an_event_that_is_moved_or_dropped_takes_its_reminders_along(stages: Stages, database: Database) -> None:
    from datetime import datetime

    from clockjack import Client
    from examples import calendar_reminders as calendar

    with Client(stages.env["CLOCKJACK_URL"], stages.env["CLOCKJACK_API_KEY"]) as client:
        at = datetime(2030, 3, 31, 9)  # clocks have changed since the day before
        group = calendar.save(client, "tea", {"title": "Tea", "place": "x", "guests": []}, at, "Europe/Berlin")
        assert [m["next_run_at"][:16] for m in group["members"]] == [
            "2030-03-30T08:00", "2030-03-31T06:00", "2030-03-31T06:50",
        ]  # fmt: skip
        moved = calendar.move(client, "tea", datetime(2030, 4, 1, 9))
        assert moved["members"][0]["next_run_at"].startswith("2030-03-31T07:00")
        assert {m["state"] for m in calendar.drop(client, "tea")["members"]} == {"cancelled"}


def test_distributed_cron(stages: Stages, database: Database) -> None:
    file = "examples/distributed_cron.crontab"
    allowed = stages.run("clockjack", "import", "crontab", file, "--commands")
    out = stages.run("clockjack", "import", "crontab", file, "--queue", "cron")
    assert out.splitlines()[-1] == "3 added, 0 changed, 0 unchanged, 0 removed"
    assert "3 unchanged" in stages.run("clockjack", "import", "crontab", file, "--queue", "cron")
    tasks = select(database, "SELECT id, timezone, queue, payload FROM tasks")
    assert {(task["timezone"], task["queue"]) for task in tasks} == {("Europe/Berlin", "cron")}
    assert {json.loads(task["payload"])["command"] for task in tasks} == set(json.loads(allowed))
    stages.start("consumers", CLOCKJACK_QUEUE="cron", CLOCKJACK_COMMANDS=allowed)
    for task in tasks:
        stages.run("clockjack", "run-now", str(task["id"]))
    # at a moment in five minutes there is one more, of the first entry's schedule
    ended = "SELECT state, result FROM runs WHERE state IN ('succeeded', 'failed') AND origin = 'manual'"
    wait(lambda: len(select(database, ended)) == 3)
    assert {run["state"] for run in select(database, ended)} == {"succeeded"}
    results = " ".join(run["result"] for run in select(database, ended))
    assert all(text in results for text in ("disk: ", "backup done", "report of the week"))


def test_notification_service(stages: Stages, database: Database) -> None:
    stages.env["CLOCKJACK_SECRET_KEYS"] = base64.b64encode(b"k" * 32).decode()
    stages.start("consumers", CLOCKJACK_HTTP_ALLOW="127.0.0.1/32")
    out = stages.run("examples.notification_service", "60").splitlines()
    assert out[0].startswith("60 notices registered, ")
    assert out[1:6] == [
        "15 of them paused: the tenant globex",
        "45 notices received, of acme initech umbrella",
        "15 resumed: the tenant globex",
        "60 notices received, each user's once: True; signatures refused: 0",
        "0 deliveries of a notice that was known",
    ]
    assert [(line.split(":")[0], line.split(": ")[-1]) for line in out[6:]] == [
        (tenant, "held") for tenant in ("acme", "globex", "initech", "umbrella")
    ]
    wait(lambda: len(select(database, "SELECT id FROM runs WHERE state = 'succeeded'")) == 60)


def test_the_receiver_of_notices_takes_what_is_signed_and_each_notice_once() -> None:
    from datetime import UTC, datetime

    from standardwebhooks import Webhook

    from examples import notification_service as service

    secret, body = base64.b64encode(b"s" * 32).decode(), b'{"tenant": "acme", "user": "u"}'
    now = datetime.now(UTC)
    headers = {"webhook-id": "1-1", "webhook-timestamp": str(int(now.timestamp()))}
    signed = headers | {"webhook-signature": Webhook(secret).sign("1-1", now, body.decode())}
    receiver = service.Receiver()
    receiver.secrets = {"acme": Webhook(secret)}

    async def sent() -> list[str]:
        forged = signed | {"webhook-signature": "v1," + base64.b64encode(b"x" * 32).decode()}
        asked = [("acme", signed), ("acme", signed), ("acme", forged), ("globex", signed), ("acme", headers)]
        return [await receiver.take(tenant, given, body) for tenant, given in asked]

    assert [status[:3] for status in asyncio.run(sent())] == ["200", "200", "401", "401", "401"]
    assert (receiver.taken, receiver.again, receiver.refused) == ({"1-1": ("acme", "u")}, 1, 3)
    assert service.most_within([0.0, 0.5, 0.9, 1.1, 5.0], 1) == 3


def test_each_example_has_a_section_and_its_commands_name_files_that_exist() -> None:
    page = (EXAMPLES / "README.md").read_text()
    for file in EXAMPLES.iterdir():
        if file.suffix in (".py", ".crontab") and not file.name.startswith("_"):
            assert f"`{file.name}`" in page
