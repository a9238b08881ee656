"""RQ's worker, with batches: RQ's tools see it and can stop it; the loop is the engine's.

Overridden of rq 2.12 (a contract test pins each): `work`, `_install_signal_handlers`, `request_stop`, `handle_payload`,
`execute_job`, `clean_registries`, `teardown`. What RQ would do on its own (scheduler, retries, registry clean-up) is
off: MySQL decides.
"""

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from redis.exceptions import ResponseError
from rq.command import parse_payload
from rq.serializers import JSONSerializer
from rq.worker import Worker
from rq.worker.base import WorkerStatus

from clockjack import telemetry
from clockjack.ledger import server
from clockjack.ledger.database import Database, LoginRefused, Unavailable, UnknownCommit
from clockjack.queues import Queues, RedisError, connect
from clockjack.reach import PROBE_S
from clockjack.settings import Settings
from consumers import inert  # noqa: F401  RQ runs nothing that Redis holds
from consumers.engine import Engine
from consumers.entry import execute
from consumers.leaks import leaking

log = logging.getLogger("clockjack.consumer")

BEAT_S = 2.0
TICK_S, IDLE_S = 0.25, 0.5
PEEK_S = 1.0
LEAKS_S = 1.0


class BatchWorker(Worker):
    """One queue, one process. `call(job, run)` executes a handler; `handlers` are the names it may execute."""

    pubsub_thread: Any

    def __init__(self, settings: Settings, database: Database, handlers: Callable[[], list[str]], call: Any) -> None:
        name = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}"
        super().__init__(
            [settings.queue],
            name=name,
            connection=connect(settings.redis_url, timeout_s=60),
            serializer=JSONSerializer,
            worker_ttl=30,
            maintenance_interval=10**9,
            prepare_for_work=False,  # it would ask Redis
        )
        self.hostname, self.pid = socket.gethostname(), os.getpid()
        self.settings, self.handlers = settings, handlers
        self.engine = Engine(database, Queues(settings.redis_url), settings.queue, name, settings.concurrency, call)
        self._bell_wanted = threading.Event()
        self._leaks = False

    def work(self, *args: Any, **kwargs: Any) -> bool:
        """Work until told to stop; True when the end was clean (asked for, and nothing in hand was left behind)."""
        engine = self.engine
        self._install_signal_handlers()
        self._wait_for_database()
        for target in (self._probe, self._ring, self._beat, self._tell, self._watch, self._weigh):
            threading.Thread(target=target, name=target.__name__, daemon=True).start()
        log.info("consumer serves queue %s", self.settings.queue, extra={"action": "serve"})
        until = float("inf")
        try:
            while time.monotonic() < until:
                if engine.stopping and until == float("inf"):
                    until = time.monotonic() + self.settings.grace_s
                    with contextlib.suppress(RedisError):
                        engine.queues.withdraw(self.name)
                engine.tick()
                worked = self._step()
                if engine.stopping and (engine.empty or self._only_stuck()):
                    break
                telemetry.ticked("consumer")
                if not engine.bell.is_set():
                    self._bell_wanted.set()
                if not worked:
                    engine.wake.wait(TICK_S if engine.pool.jobs else 0.02 if engine.stopping else IDLE_S)
                engine.wake.clear()
        finally:
            self.teardown()
        return engine.empty and not self._leaks

    def _step(self) -> bool:
        try:
            return self.engine.step()
        except Exception:
            log.exception("a step failed", extra={"action": "step_failed"})
            time.sleep(TICK_S)
            return False

    def _only_stuck(self) -> bool:
        return self.engine.stuck and all(job.state == "over" for job in list(self.engine.pool.jobs.values()))

    def _wait_for_database(self) -> None:
        told = False
        while not self.engine.stopping:
            try:
                self.engine.hear()
                server.require(self.engine.database, unsafe_server=self.settings.unsafe_server)
                return
            except LoginRefused:
                raise
            except (Unavailable, UnknownCommit) as error:
                if not told:
                    log.warning("waiting for the database: %s", error, extra={"action": "wait"})
                told = True
                time.sleep(0.5)

    def _probe(self) -> None:
        """Whether Redis can be reached is known, and what came due meanwhile is looked for as soon as it cannot."""
        while True:
            self.engine.queues.probe()
            time.sleep(PROBE_S)

    def _ring(self) -> None:
        """The bell is set while the queue holds something: a rotation of a list onto itself blocks until it does."""
        redis, key = connect(self.settings.redis_url, timeout_s=PEEK_S + 2), f"rq:queue:{self.settings.queue}"
        while True:
            self._bell_wanted.wait()
            try:
                something: object
                try:
                    something = redis.blmove(key, key, timeout=PEEK_S, src="LEFT", dest="LEFT")  # type: ignore[arg-type]
                except ResponseError:  # a full Redis refuses the rotation, but not the pop
                    time.sleep(0.1)
                    something = redis.llen(key)
                if something:
                    self._bell_wanted.clear()
                    self.engine.bell.set()
                    self.engine.wake.set()
            except RedisError:
                time.sleep(0.25)

    def _beat(self) -> None:
        """The leases are extended every 2 s."""
        while True:
            begun = time.monotonic()
            try:
                self.engine.beat()
                telemetry.ticked("heartbeat")
            except Unavailable as error:
                log.warning("heartbeat failed: %s", error, extra={"action": "heartbeat"})
            except Exception:
                log.exception("heartbeat failed", extra={"action": "heartbeat"})
            time.sleep(max(0.1, BEAT_S - (time.monotonic() - begun)))

    def _watch(self) -> None:
        """Timeouts and ends of leases are acted on, whatever the loop waits for."""
        while True:
            try:
                self.engine.watch()
            except Exception:
                log.exception("watching failed", extra={"action": "watch"})
            time.sleep(TICK_S)

    def _weigh(self) -> None:
        """A worker whose handlers leak drains and ends, as at SIGTERM, while it still can; another takes its place."""
        while not self._leaks:
            time.sleep(LEAKS_S)
            if why := leaking(self.settings.memory_mb):
                self._leaks = self.engine.stopping = True
                log.error("handlers leak; this worker drains and exits: %s", why, extra={"action": "leaking"})

    def _tell(self) -> None:
        """Redis hears every 2 s what this consumer serves and has in hand, and RQ that it lives."""
        engine = self.engine
        while True:
            try:
                in_hand = list(engine.pool.jobs)
                engine.queues.keep(self.settings.queue, self.name, in_hand, engine.database.clock.now_us())
                if not engine.stopping:
                    engine.queues.announce(self.name, self.settings.queue, self.handlers(), self.settings.concurrency)
                live = engine.queues.consumers().values()
                engine.peers = max(1, sum(c["queue"] == self.settings.queue for c in live))
                self._appear()
                self.heartbeat()
                self.set_state(WorkerStatus.BUSY if engine.pool.jobs else WorkerStatus.IDLE)
            except RedisError:
                log.debug("Redis does not answer")
            except Exception:
                log.exception("announcing failed", extra={"action": "announce"})
            time.sleep(BEAT_S)

    def _appear(self) -> None:
        """RQ's tools see this worker, also in a Redis that was away at its start or has lost its data."""
        listens = self.pubsub_thread is not None
        if listens and self.connection.hexists(self.key, "birth"):
            return
        self.connection.delete(self.key)
        if listens:
            self.register_birth()  # type: ignore[no-untyped-call]
        else:
            self._set_ip_address(self.connection)
            self.bootstrap("WARNING")

    def _install_signal_handlers(self) -> None:
        signal.signal(signal.SIGINT, self.request_stop)
        signal.signal(signal.SIGTERM, self.request_stop)

    def request_stop(self, signum: Any = None, frame: Any = None) -> None:
        """Nothing more is popped; what has not begun is handed back; begun handlers get the grace period.

        A signal handler may touch no lock: the main thread, which it interrupts, may hold it. So it sets a flag, and
        the loop sees it within 0.5 s.
        """
        self.engine.stopping = True

    def handle_payload(self, message: Any) -> None:
        """RQ's commands: `shutdown` stops like SIGTERM, `stop-job` ends that handler; others are ignored."""
        try:
            payload: Any = parse_payload(message)
        except (ValueError, AttributeError, TypeError, RecursionError):
            return
        if not isinstance(payload, dict):
            return
        if payload.get("command") == "shutdown":
            self.request_stop()
        elif payload.get("command") == "stop-job":
            job = self.engine.pool.jobs.get(str(payload.get("job_id")))
            if job is not None:
                self.engine.pool.stop(job, "stopped")

    def execute_job(self, job: Any, queue: Any) -> None:
        """Always raises: single jobs are not executed here."""
        execute()

    def clean_registries(self) -> None:
        """Nothing: RQ's clean-up would declare failed what MySQL gives to another consumer."""

    def teardown(self) -> None:
        """The worker's entries in Redis are gone, if Redis can be reached."""
        self.engine.pool.close()
        with contextlib.suppress(RedisError):
            self.engine.queues.withdraw(self.name)
            self.register_death()  # type: ignore[no-untyped-call]
