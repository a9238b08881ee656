"""The four doors, each used as somebody outside would use it, and the threads that go through them."""

import contextlib
import http.client
import json
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pymysql
from sqlalchemy.engine import make_url

from clockjack.client import Client
from clockjack.ledger.database import Clock
from deploy.demo.plan import Wanted, run_keys

THREADS = {"http": 2, "python": 2, "sql": 1, "cli": 1}
Door = Callable[[Wanted], int]


class NotAcknowledged(Exception):
    """A door did not take a registration; the text is what it said."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A task that a door has taken, when (naive UTC, the database's clock), and the keys of all its occurrences."""

    wanted: Wanted
    task_id: int
    at: datetime
    keys: tuple[str, ...]


def http_door(url: str, api_key: str) -> Door:
    """HTTP with nothing but Python's own library."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)

    def register(wanted: Wanted) -> int:
        headers = {
            "Authorization": f"Bearer {api_key}",
            "Content-Type": "application/json",
            "Idempotency-Key": uuid.uuid4().hex,
        }
        connection.request("POST", "/v1/tasks", json.dumps(_document(wanted)), headers)
        answer = connection.getresponse()
        body = answer.read().decode(errors="replace")
        if answer.status != 201:
            raise NotAcknowledged(f"{answer.status} {body[:200]}")
        return int(json.loads(body)["id"])

    return register


def connect(database_url: str) -> Any:
    """A plain connection that commits every statement by itself."""
    where = make_url(database_url)
    given = {"host": where.host, "port": where.port, "user": where.username, "password": where.password}
    return pymysql.connect(
        **{name: value for name, value in given.items() if value is not None},
        database=where.database,
        unix_socket=where.query.get("unix_socket"),
        charset="utf8mb4",
        autocommit=True,
    )


def sql_door(database_url: str) -> Door:
    """A plain INSERT, as anybody's program would make it."""
    connection = connect(database_url)

    def register(wanted: Wanted) -> int:
        columns = wanted.columns()
        names, places = ", ".join(columns), ", ".join(["%s"] * len(columns))
        with connection.cursor() as cursor:
            cursor.execute(f"INSERT INTO tasks ({names}) VALUES ({places})", tuple(columns.values()))  # noqa: S608
            return int(cursor.lastrowid)

    return register


def cli_door(env: Mapping[str, str]) -> Door:
    """The command `clockjack add`."""
    program = str(Path(sys.executable).with_name("clockjack"))
    options = {"run_at": "at", "every_s": "every", "backoff_s": "backoff"}

    def register(wanted: Wanted) -> int:
        document = {**_document(wanted), "payload": json.dumps(wanted.payload)}
        words = [program, "add", str(document.pop("handler")), "--json"]
        for name, value in document.items():
            words += [f"--{options.get(name, name).replace('_', '-')}", str(value)]
        done = subprocess.run(words, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise NotAcknowledged(done.stderr.strip()[:200])
        return int(json.loads(done.stdout)["id"])

    return register


def python_door(client: Client) -> Door:
    """`clockjack.Client`."""

    def register(wanted: Wanted) -> int:
        document = _document(wanted)
        when = document.pop("run_at", None)
        run_at = None if when is None else datetime.fromisoformat(when)
        return int(client.schedule(document.pop("handler"), document.pop("payload"), run_at=run_at, **document)["id"])

    return register


def _document(wanted: Wanted) -> dict[str, Any]:
    """The registration as HTTP and the command line take it: fields are columns, moments are RFC 3339."""
    columns = {**wanted.columns(), "payload": wanted.payload}
    return {k: f"{v.isoformat()}Z" if isinstance(v, datetime) else v for k, v in columns.items()}


class Registrations:
    """Registers everything that is wanted through its door, early ones at once and late ones shortly before due."""

    def __init__(self, wanted: Sequence[Wanted], open_door: Mapping[str, Callable[[], Door]], clock: Clock) -> None:
        self.total = len(wanted)
        self.acknowledged: list[Acknowledged] = []
        self.failed: list[str] = []
        self._clock = clock
        self._stopping = threading.Event()
        self._threads = []
        for door, opened in open_door.items():
            early = iter([w for w in wanted if w.door == door and w.notice_s is None])
            late = [w for w in wanted if w.door == door and w.notice_s is not None]
            late.sort(key=lambda w: w.first_at - timedelta(seconds=w.notice_s or 0))
            self._threads += [self._thread(door, opened, _shared(early)) for _ in range(THREADS[door])]
            self._threads += [self._thread(door, opened, iter(late).__next__)] if late else []

    def start(self) -> "Registrations":
        """Registering has begun."""
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        """Nothing more is registered."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    @property
    def over(self) -> bool:
        """Everything was tried."""
        return not any(thread.is_alive() for thread in self._threads)

    def _thread(self, door: str, opened: Callable[[], Door], following: Callable[[], Wanted]) -> threading.Thread:
        return threading.Thread(target=self._loop, args=(door, opened, following), name=f"door-{door}", daemon=True)

    def _loop(self, door: str, opened: Callable[[], Door], following: Callable[[], Wanted]) -> None:
        register: Door | None = None
        with contextlib.suppress(StopIteration):
            while not self._stopping.is_set():
                wanted = following()
                if wanted.notice_s is not None:
                    at = wanted.first_at - timedelta(seconds=wanted.notice_s)
                    if self._stopping.wait(max(0.0, (at - self._clock.now()).total_seconds())):
                        return
                try:
                    register = register or opened()
                    task_id = register(wanted)
                    keys = run_keys(task_id, wanted.schedule)
                    self.acknowledged.append(Acknowledged(wanted, task_id, self._clock.now(), tuple(keys)))
                except Exception as error:
                    self.failed.append(f"{door}: {error or type(error).__name__}")
                    register = None


def _shared(items: Any) -> Callable[[], Wanted]:
    """The next item for whichever thread asks; StopIteration at the end."""
    lock = threading.Lock()

    def following() -> Wanted:
        with lock:
            return next(items)  # type: ignore[no-any-return]

    return following


def too_late(acknowledged: Sequence[Acknowledged]) -> int:
    """How many were taken only after they were due: this machine was too slow for the plan."""
    return sum(a.at > a.wanted.first_at for a in acknowledged)
