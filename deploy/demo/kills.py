"""Kills a dispatcher and a consumer with SIGKILL while they hold work, and says what they held.

To be sure that it does hold work, a process is frozen for a moment (SIGSTOP) and looked at from outside: in the tables,
in Redis and in the lines of the handlers. If it holds nothing, it runs on, and the next chance is taken.
"""

import contextlib
import re
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from clockjack.ledger.advance import LOOKAHEAD
from clockjack.ledger.database import Database, UnknownCommit, rows, to_us
from clockjack.queues import Queues, job_id
from deploy.demo.effects import Effects
from deploy.demo.metrics import at_work
from deploy.supervisor import Supervisor

DISPATCHERS, CONSUMER = ("dispatcher.1", "dispatcher.2"), "consumer.1"
BATCH_SEEN = 100  # so many new runs at once are a batch of the burst
STARTED_OF_BURST = 300  # handlers entered before the consumer dies
SETTLED_S = 0.25  # what the other dispatcher claimed it has staged by then
BACK_S = 30.0
Runs = dict[int, dict[str, Any]]
CLAIMED = (
    "SELECT id, task_id, due_at, attempt FROM runs FORCE INDEX (wake)"
    " WHERE wake_at >= UTC_TIMESTAMP(6) - INTERVAL 1 HOUR AND state = 'ready' AND attempt = 0 AND id > :above"
)
HELD = (
    "SELECT id, task_id, due_at FROM runs WHERE wake_at IS NOT NULL"
    " AND ((state = 'running' AND worker = :worker) OR (state = 'ready' AND id IN :popped))"
)


@dataclass(slots=True)
class Kill:
    """One process that was killed: what it held (run keys), and how long until its successor was at work."""

    process: str
    pid: int = 0
    at_us: int = 0
    held: set[str] = field(default_factory=set)
    back_after_ms: float | None = None


class Kills:
    """The two kills, on a thread of their own; `fast` is a plain connection, `tell` gets a line about each event."""

    def __init__(
        self,
        supervisor: Supervisor,
        database: Database,
        queues: Queues,
        fast: Any,
        effects: Effects,
        burst: datetime,
        tell: Callable[[str], None],
    ) -> None:
        self.done: list[Kill] = []
        self._supervisor, self._database, self._queues = supervisor, database, queues
        self._fast, self._effects, self._burst, self._tell = fast, effects, burst, tell
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="kills", daemon=True)
        self._waits: list[threading.Thread] = []
        self.error: Exception | None = None

    def start(self) -> "Kills":
        """The kills will happen in their time."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Nobody is killed any more, and nobody is left frozen."""
        self._stopping.set()
        if self._thread.ident is not None:
            for thread in (self._thread, *self._waits):
                thread.join()

    @property
    def over(self) -> bool:
        """Both were killed, and are back or given up."""
        return not self._thread.is_alive() and not any(wait.is_alive() for wait in self._waits)

    def _loop(self) -> None:
        try:
            self._kill_dispatcher()
            self._kill_consumer()
        except Exception as error:
            self.error = error

    def _kill_dispatcher(self) -> None:
        """One dies between the COMMIT of a claim and the staging of what it claimed.

        Both are frozen when a batch appears, because staging takes milliseconds; then the one that worked less in the
        last moments runs on. What stays unstaged is held by the other.
        """
        self._sleep_until(self._burst - LOOKAHEAD)
        newest = self._newest_run()
        work = deque([self._work()], maxlen=10)
        victim, held = DISPATCHERS[0], False
        while not held and self._database.clock.now() < self._burst - timedelta(seconds=1):
            if self._stopping.wait(0.001):
                return
            before, newest = newest, self._newest_run()
            work.append(self._work())
            if newest - before < BATCH_SEEN:
                continue
            for name in DISPATCHERS:
                self._supervisor.kill(name, signal.SIGSTOP)
            if self._without_job({run["id"]: run for run in self._read(CLAIMED, above=before)}):
                victim = max(DISPATCHERS, key=lambda name: self._work()[name] - work[0][name])
                other = next(name for name in DISPATCHERS if name != victim)
                self._supervisor.kill(other, signal.SIGCONT)
                held = bool(self._never_staged(above=before))
            if not held:
                for name in DISPATCHERS:
                    self._supervisor.kill(name, signal.SIGCONT)
                newest = self._newest_run()
        kill = self._killed(victim)
        kill.held = {_key(run) for run in self._never_staged().values()}
        self._tell(f"killed {victim} (pid {kill.pid}): it had claimed {len(kill.held)} runs and not staged them")

    def _work(self) -> dict[str, int]:
        """Nanoseconds that each dispatcher has run on a processor (0 where the kernel does not tell)."""
        found = dict.fromkeys(DISPATCHERS, 0)
        for process in self._supervisor.processes():
            if process["name"] in found:
                with contextlib.suppress(OSError, ValueError):
                    found[process["name"]] = sum(
                        int(path.read_text().split()[0])
                        for path in Path(f"/proc/{process['pid']}/task").glob("*/schedstat")
                    )
        return found

    def _never_staged(self, above: int = 0) -> Runs:
        """READY runs never tried that the other dispatcher does not stage while the victim stands still."""
        found = self._without_job({run["id"]: run for run in self._read(CLAIMED, above=above)})
        settled = time.monotonic() + SETTLED_S
        while found and time.monotonic() < settled:
            time.sleep(0.02)
            if len(left := self._without_job(found)) < len(found):
                found, settled = left, time.monotonic() + SETTLED_S
        if found:  # those that were staged, run and forgotten in between are no longer READY
            live = {run["id"] for run in self._read(CLAIMED, above=above)}
            found = {number: run for number, run in found.items() if number in live}
        return found

    def _kill_consumer(self) -> None:
        """It dies while both consumers execute the burst and it holds runs that it popped or started."""
        self._sleep_until(self._burst)
        burst_us, seen_by, started = to_us(self._burst), set[int](), 0
        give_up = self._burst + timedelta(seconds=5)
        while self._database.clock.now() < give_up:
            if self._stopping.wait(0.002):
                return
            of_burst = [entry.pid for entry in self._effects.more() if entry.due_us == burst_us]
            seen_by.update(of_burst)
            started += len(of_burst)
            if len(seen_by) < 2 or started < STARTED_OF_BURST:
                continue
            pid = self._supervisor.kill(CONSUMER, signal.SIGSTOP)
            if pid in seen_by and self._in_hand(pid):
                break
            self._supervisor.kill(CONSUMER, signal.SIGCONT)
            self._stopping.wait(0.01)
        kill = self._killed(CONSUMER)
        time.sleep(0.05)  # a COMMIT that was under way has ended
        kill.held = self._in_hand(kill.pid)
        self._tell(f"killed {CONSUMER} (pid {kill.pid}): it held {len(kill.held)} runs, {started} of the burst had run")

    def _killed(self, name: str) -> Kill:
        at_us, begun = self._database.clock.now_us(), time.monotonic()
        kill = Kill(name, self._supervisor.kill(name, signal.SIGKILL), at_us)
        self.done.append(kill)
        wait = threading.Thread(target=self._await, args=(kill, begun), name=f"await-{name}", daemon=True)
        self._waits.append(wait)
        wait.start()
        return kill

    def _await(self, kill: Kill, begun: float) -> None:
        while time.monotonic() - begun < BACK_S and not self._stopping.wait(0.05):
            for process in self._supervisor.processes():
                new = process["name"] == kill.process and process["pid"] != kill.pid
                if new and at_work(kill.process, process["port"]):
                    kill.back_after_ms = 1000 * (time.monotonic() - begun)
                    self._tell(f"{kill.process} is back at work after {kill.back_after_ms / 1000:.1f} s")
                    return

    def _newest_run(self) -> int:
        with self._fast.cursor() as cursor:
            cursor.execute("SELECT MAX(id) FROM runs")
            return int(cursor.fetchone()[0] or 0)

    def _without_job(self, runs: Runs) -> Runs:
        pipe = self._queues.redis.pipeline(transaction=False)
        for run in runs.values():
            pipe.exists(f"rq:job:{job_id(run['id'], run['attempt'] + 1)}")
        there = pipe.execute()
        return {number: run for (number, run), job in zip(runs.items(), there, strict=True) if not job}

    def _in_hand(self, pid: int) -> set[str]:
        """Keys of the runs that the consumer of this pid has popped or started, and whose outcome is not written."""
        jobs: list[str] = []
        worker = ""
        for name in self._queues.names():
            members: list[bytes] = self._queues.redis.zrange(f"rq:wip:{name}", 0, -1)  # type: ignore[assignment]
            for member in members:
                job, _, holder = member.decode().partition(":")
                if re.search(rf"-{pid}-[0-9a-f]+$", holder):
                    jobs.append(job)
                    worker = holder
        if not jobs:
            return set()
        popped = sorted(int(job[1 : job.index("-")]) for job in jobs)
        return {_key(run) for run in self._read(HELD, worker=worker, popped=popped)}

    def _read(self, sql: str, **values: Any) -> list[dict[str, Any]]:
        while True:
            try:
                return self._database.transaction(lambda connection: rows(connection, sql, **values))
            except UnknownCommit:
                continue

    def _sleep_until(self, moment: datetime) -> None:
        self._stopping.wait(max(0.0, (moment - self._database.clock.now()).total_seconds()))


def _key(run: dict[str, Any]) -> str:
    return f"{run['task_id']}-{to_us(run['due_at'])}"


def held_by(kills: Iterable[Kill], line: str) -> set[str]:
    """What the killed processes of this Procfile line held."""
    return {key for kill in kills if kill.process.startswith(f"{line}.") for key in kill.held}
