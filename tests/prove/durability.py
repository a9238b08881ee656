"""The database is killed again and again while tasks are being registered through two doors."""

import threading
import time
from collections import Counter

import pymysql
import sqlalchemy as sa

from clockjack.ledger.database import from_us, to_us
from tests.prove.counting import Effects, count, settled
from tests.prove.http import Api, task
from tests.prove.stage import Stage, until

EACH, KILLS, THREADS = 2_500, 5, 3


class Doors:
    """Registrations by several threads until each door has acknowledged EACH of them."""

    _mine = threading.local()

    def __init__(self, stage: Stage, api: Api, now_us: int) -> None:
        self._api, self._url = api, sa.make_url(stage.database.url)
        self._ahead_us = now_us + 3_000_000 - time.monotonic_ns() // 1000
        self.by_http: dict[str, int] = {}
        self.by_sql: dict[str, int] = {}
        self.tries, self.unknown, self.failed = Counter[str](), 0, 0
        self.errors: list[str] = []
        self._next, self._lock = Counter[str](), threading.Lock()

    @property
    def acknowledged(self) -> int:
        """How many registrations were acknowledged until now."""
        return len(self.by_http) + len(self.by_sql)

    def run(self, door: str) -> None:
        """One thread's work at one door."""
        done = self.by_http if door == "http" else self.by_sql
        try:
            while len(done) < EACH:
                with self._lock:
                    self._next[door] += 1
                    name = f"{door}-{self._next[door]}"
                self._http(name) if door == "http" else self._sql(name)
        except Exception as error:
            self.errors.append(f"{door}: {type(error).__name__}: {error}"[:300])

    def _due_us(self) -> int:
        return self._ahead_us + time.monotonic_ns() // 1000

    def _http(self, name: str) -> None:
        due_us = self._due_us()
        answer, tries = self._api.insist("POST", "/v1/tasks", task(due_us, name=name))
        self.tries[name] = tries
        self.by_http[f"{answer['id']}-{due_us}"] = due_us

    def _sql(self, name: str) -> None:
        """Acknowledged is what COMMIT answered OK to; a COMMIT without an answer is not tried again."""
        due_us, connection = self._due_us(), getattr(self._mine, "connection", None)
        try:
            if connection is None:
                connection = self._mine.connection = pymysql.connect(
                    unix_socket=self._url.query["unix_socket"], user="root", database="clockjack", read_timeout=10
                )
            with connection.cursor() as cursor:
                cursor.execute(
                    "INSERT INTO tasks (handler, name, payload, run_at) VALUES ('mock', %s, '{}', %s)",
                    (name, from_us(due_us)),
                )
                task_id = cursor.lastrowid
        except (pymysql.MySQLError, OSError):
            self._mine.connection = None
            self.failed += 1
            time.sleep(0.05)
            return
        try:
            connection.commit()
        except (pymysql.MySQLError, OSError):
            self._mine.connection = None
            self.unknown += 1
            return
        self.by_sql[f"{task_id}-{due_us}"] = due_us


def database_killed(stage: Stage) -> tuple[str, bool]:
    """The database was killed 5 times during 5,000 acknowledged registrations, half by HTTP and half by SQL.

    HTTP clients repeat a request with its Idempotency-Key until it is acknowledged. What has run by the end is compared
    with the acknowledged ids; a name that two tasks bear was registered twice. Runs were executed all the time.
    """
    producer, *_ = stage.cast(producer=1, dispatcher=2, consumer=2)
    doors = Doors(stage, Api(lambda: producer.port, stage.api_key), stage.now_us())
    threads = [threading.Thread(target=doors.run, args=(door,)) for door in ("http", "sql") for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    back_s, killed = [], 0
    for n in range(1, KILLS + 1):
        until(lambda n=n: doors.acknowledged >= n * 2 * EACH // (KILLS + 1) or doors.errors, 60, 0.005)
        begun = time.monotonic()
        stage.database.kill()
        killed += 1
        stage.database.start()
        back_s.append(time.monotonic() - begun)
    for thread in threads:
        thread.join(90)
    expected = doors.by_http | doors.by_sql
    effects = Effects(stage.effects)
    until(lambda: stage.ledger.now(), 10)
    effects.wait(expected, 40)
    quiet = settled(stage.live, 30)
    known = dict(stage.sql("SELECT id, name FROM tasks"))
    gone = sum(int(key.split("-")[0]) not in known for key in expected)
    double = sum(n > 1 for n in Counter(known.values()).values())
    unsure = {f"{i}-{to_us(due)}": to_us(due) for i, due in stage.sql("SELECT id, run_at FROM tasks")}
    more = {key: due for key, due in unsure.items() if key not in expected}
    done = count(effects, expected | more)
    repeated = sum(n > 1 for n in doors.tries.values())
    figure = (
        f"{len(expected)} acknowledged, {killed} kills (back in ≤ {max(back_s):.1f} s), {repeated} requests repeated,"
        f" {doors.unknown} COMMITs unanswered ({len(more)} of these are there); acknowledged and gone {gone},"
        f" names twice {double}; {done}{''.join(doors.errors[:1])}"
    )
    sound = quiet and not doors.errors and killed == KILLS and len(expected) >= 2 * EACH and repeated > 0
    return figure, sound and not gone and not double and done.once_each and producer.alive
