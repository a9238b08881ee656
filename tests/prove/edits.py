"""Tasks that change inside the look-ahead window, when their runs exist already, and rows that spoil a claim."""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from clockjack.ledger import control
from clockjack.ledger.database import from_us, to_us
from tests.prove.counting import Effects, count, settled
from tests.prove.http import Api, task
from tests.prove.stage import Process, Stage

NEIGHBOURS, WINDOW_S = 100, 4.5
POISON = "ALTER TABLE tasks ADD CONSTRAINT prove_poison CHECK (name IS NULL OR name <> 'poison' OR runs_claimed = 0)"
QUIET_S = 3.0


class Edits:
    """What is done to a task between its claim and its due time; every way leaves one run that is to happen."""

    def __init__(self, stage: Stage, api: Api) -> None:
        self._stage, self._api = stage, api
        self.expected: dict[str, int] = {}
        self._lock = threading.Lock()

    def ways(self) -> list[Callable[[int, int], int]]:
        """Each takes a task's id and due_us, and returns the due_us at which it is to run in the end."""
        return [
            self.pause_resume_http,
            self.pause_resume_sql,
            self.pause_resume_ledger,
            self.moved_sql,
            self.moved_there_and_back_sql,
            self.upsert_there_and_back_http,
            self.payload_only_sql,
            self.pause_edit_resume_sql,
        ]

    def run(self, way: Callable[[int, int], int], task_id: int, due_us: int) -> None:
        """The task was changed at some moment of the window."""
        at_us = due_us - int(random.uniform(1.0, WINDOW_S) * 1e6)
        time.sleep(max(0, at_us - self._stage.clock.now_us()) / 1e6)
        final_us = way(task_id, due_us)
        with self._lock:
            self.expected[f"{task_id}-{final_us}"] = final_us

    def pause_resume_http(self, task_id: int, due_us: int) -> int:
        self._api.insist("POST", f"/v1/tasks/{task_id}/pause")
        self._breathe()
        self._api.insist("POST", f"/v1/tasks/{task_id}/resume")
        return due_us

    def pause_resume_sql(self, task_id: int, due_us: int) -> int:
        self._set(task_id, "state = 'paused'")
        self._breathe()
        self._set(task_id, "state = 'active', next_run_at = COALESCE(run_at, UTC_TIMESTAMP(6))")
        return due_us

    def pause_resume_ledger(self, task_id: int, due_us: int) -> int:
        for change in (control.pause, control.resume):
            self._stage.ledger.transaction(lambda c, change=change: change(c, "default", task_id, actor="prove"))
            self._breathe()
        return due_us

    def moved_sql(self, task_id: int, due_us: int) -> int:
        self._move(task_id, due_us + 700_000 + task_id)
        return due_us + 700_000 + task_id

    def moved_there_and_back_sql(self, task_id: int, due_us: int) -> int:
        self._move(task_id, due_us + 900_000)
        self._breathe()
        self._move(task_id, due_us)
        return due_us

    def upsert_there_and_back_http(self, task_id: int, due_us: int) -> int:
        (key,) = self._stage.sql("SELECT task_key FROM tasks WHERE id = :i", i=task_id)[0]
        for moved_us in (due_us + 1_100_000, due_us):
            answer, _ = self._api.insist("POST", "/v1/tasks", task(moved_us, task_key=key))
            assert answer["id"] == task_id, answer
            self._breathe()
        return due_us

    def payload_only_sql(self, task_id: int, due_us: int) -> int:
        self._set(task_id, """payload = '{"echo": "new"}', version = version + 1""")
        return due_us

    def pause_edit_resume_sql(self, task_id: int, due_us: int) -> int:
        self._set(task_id, "state = 'paused'")
        self._breathe()
        self._move(task_id, due_us, ", state = 'active'")
        return due_us

    def _move(self, task_id: int, due_us: int, more: str = "") -> None:
        """A change of schedule with plain SQL: the schedule itself, next_run_at, schedule_version + 1."""
        schedule = f"run_at = :d, next_run_at = :d, schedule_version = schedule_version + 1{more}"
        self._stage.sql(f"UPDATE tasks SET {schedule} WHERE id = :i", d=from_us(due_us), i=task_id)

    def _set(self, task_id: int, what: str) -> None:
        self._stage.sql(f"UPDATE tasks SET {what} WHERE id = :i", i=task_id)

    def _breathe(self) -> None:
        time.sleep(random.choice((0.0, 0.02, 0.4)))


def edited_in_the_window(stage: Stage) -> tuple[str, bool]:
    """200 tasks, one-time and cron, were paused, edited and resumed when their runs were already claimed.

    Among them were 100 neighbours that nobody touched, five run-nows of one task in one transaction, and rows that no
    claim can take: one breaks a CHECK, one a number's range, one has no payload that can be read, one an unknown zone.
    A claim loop would show as claims that go on when nothing is due any more.
    """
    stage.sql(POISON)
    try:
        return _edited(stage)
    finally:
        stage.end()
        stage.sql("TRUNCATE TABLE tasks")
        stage.sql("ALTER TABLE tasks DROP CONSTRAINT prove_poison")


def _edited(stage: Stage) -> tuple[str, bool]:
    producer, first, second, _ = stage.cast(producer=1, dispatcher=2, consumer=1)
    edits = Edits(stage, Api(lambda: producer.port, stage.api_key))
    base_us = (stage.now_us() // 1_000_000 + 7) * 1_000_000
    once = stage.register([base_us + n * 20_000 for n in range(120)])
    for key in once:
        stage.sql("UPDATE tasks SET task_key = :k WHERE id = :i", k=f"edit-{key}", i=int(key.split("-")[0]))
    crons = _daily(stage, base_us)
    neighbours = stage.register([base_us + n * 40_000 for n in range(NEIGHBOURS)])
    bad = _spoilers(stage, base_us)
    ways = edits.ways()
    for_cron = [edits.pause_resume_http, edits.pause_resume_sql, edits.pause_resume_ledger, edits.payload_only_sql]
    work = [(ways[n % len(ways)], key, due) for n, (key, due) in enumerate(once.items())]
    work += [(for_cron[n % len(for_cron)], key, due) for n, (key, due) in enumerate(crons.items())]
    with ThreadPoolExecutor(len(work)) as pool:
        list(pool.map(lambda one: edits.run(one[0], int(one[1].split("-")[0]), one[2]), work))
    manual = _run_now(stage, int(next(iter(neighbours)).split("-")[0]))
    expected = edits.expected | neighbours | manual
    effects = Effects(stage.effects)
    effects.wait(expected, 15)
    quiet = settled(stage.live, 15)
    time.sleep(1.0)
    before = _claims(first, second)
    time.sleep(QUIET_S)
    after = _claims(first, second)
    parked = dict(stage.sql("SELECT id, error FROM tasks WHERE state = 'invalid'"))
    done = count(effects, expected)
    errors = sum(p.metric("clockjack_errors_total") for p in (first, second))
    alone = sum(p.log.read_text().count('"claim_parts"') for p in (first, second))
    figure = (
        f"{len(work)} edited, {len(manual)} run-nows, {len(parked)}/{len(bad)} spoiled rows parked; {done};"
        f" {after:.0f} claims ({alone} of them in parts), {after - before:.0f} in the last {QUIET_S:.0f} s,"
        f" {errors:.0f} errors"
    )
    sound = quiet and set(parked) == set(bad) and all(parked.values()) and alone > 0 and len(edits.expected) == 200
    return figure, sound and done.once_each and done.late_s <= 10 and after == before and not errors


def _claims(*dispatchers: Process) -> float:
    return sum(p.metric("clockjack_claim_seconds_count") for p in dispatchers)


def _daily(stage: Stage, base_us: int) -> dict[str, int]:
    """80 cron tasks that are due once a day, at one of four seconds of the window: {key: due_us}."""
    expected = {}
    for n in range(80):
        due = from_us(base_us) + timedelta(seconds=n % 4)
        cron = f"{due.second} {due.minute} {due.hour} * * *"

        def body(c, cron=cron):
            return c.exec_driver_sql("INSERT INTO tasks (handler, cron) VALUES ('mock', %s)", (cron,)).lastrowid

        expected[f"{stage.ledger.transaction(body)}-{to_us(due)}"] = to_us(due)
    return expected


def _spoilers(stage: Stage, base_us: int) -> list[int]:
    """Tasks due in the same window that cannot be claimed; their ids."""
    at = base_us + 1_010_000
    made = [
        stage.register([at], name="poison"),
        stage.register([at + 1], runs_claimed=4_294_967_295),
        stage.register([at + 2], payload="{not json"),
    ]
    ids = [int(key.split("-")[0]) for one in made for key in one]

    def body(c):
        sql = (
            "INSERT INTO tasks (handler, cron, timezone, next_run_at) VALUES ('mock', '* * * * *', 'Mars/Olympus', %s)"
        )
        return c.exec_driver_sql(sql, (from_us(at + 3),)).lastrowid

    return [*ids, int(stage.ledger.transaction(body))]


def _run_now(stage: Stage, task_id: int) -> dict[str, int]:
    """Five run-nows of one task in one transaction, so at one moment of the database's clock."""
    made = stage.ledger.transaction(lambda c: control.run_now(c, "default", [task_id] * 5, actor="prove"))
    return {f"{task_id}-{to_us(run['due_at'])}": to_us(run["due_at"]) for run in made}
