"""`python -m deploy.demo`: a fresh private instance, the main job on it, one table; exit code 0 when all held.

DEMO_JSON=file gets the figures. CLOCKJACK_DATABASE_URL and CLOCKJACK_REDIS_URL use servers of one's own, on which
nothing else of Clockjack may run meanwhile.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from clockjack.client import Client
from clockjack.ledger.database import Database, Unavailable, rows, to_us
from clockjack.queues import Queues, RedisError
from deploy import grants, servers
from deploy.demo import doors, metrics, verdict
from deploy.demo.effects import Effects
from deploy.demo.kills import Kills
from deploy.demo.plan import plan
from deploy.demo.progress import Show
from deploy.programs import ServerUnavailable
from deploy.supervisor import Supervisor
from deploy.up import ROOT, SCALE, CommandFailed, clockjack, first_api_key, servers_of

READY_S = 30.0
LONGEST_S = 56.0  # from the moment that everything is ready
QUIET_S = 24.0  # after the consumer's death: the last lease that it could hold (20 s) has ended, and was acted on
ORPHAN_S = 10.0
KEPT = {"CLOCKJACK_UNSAFE_SERVER", "CLOCKJACK_LOG_LEVEL"}  # other settings of one's own would make it another demo


class DemoFailed(Exception):
    """The demo could not be carried out; the text says why."""


def main() -> int:
    """The exit code: 0 all guarantees held, 1 one did not, or the demo failed; 3 no servers, 130 interrupted."""
    home = ROOT / ".local" / "demo"
    home.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if (lock := servers.lock(home.parent / "demo.lock")) is None:
        print("demo: another demo runs in this directory; wait for its end", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        empty(home)
        with Show() as show:
            held = demo(home, show)
        return 0 if held else 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted; everything is stopped", file=sys.stderr)
        return 130
    except ServerUnavailable as error:
        print(f"demo: {error}", file=sys.stderr)
        return 3
    except (DemoFailed, CommandFailed, Unavailable, RedisError, OSError) as error:
        print(f"demo: {error}\ndemo: the logs are in {home / 'log'}", file=sys.stderr)
        return 1
    finally:
        os.close(lock)


def empty(home: Path) -> None:
    """The directory is empty; servers that a killed demo left behind have ended."""
    for directory in (home / "database", home / "redis"):
        until = time.monotonic() + ORPHAN_S
        while directory.is_dir() and (held := servers.lock(directory / "server.lock")) is None:
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((directory / "server.pid").read_text()), signal.SIGKILL)
            if time.monotonic() > until:
                raise DemoFailed(f"an old server still holds {directory}; end it by hand")
            time.sleep(0.05)
        if directory.is_dir() and held is not None:
            os.close(held)
    if home.exists():
        shutil.rmtree(home)
    home.mkdir(mode=0o700)


@dataclass(frozen=True, slots=True)
class Instance:
    """A running Clockjack, all of whose processes are at work."""

    home: Path
    env: Mapping[str, str]
    database: Database
    queues: Queues
    supervisor: Supervisor
    http: str
    api_key: str
    sql_url: str  # of whoever registers by plain SQL


def demo(home: Path, show: Show) -> bool:
    """The whole demo was run and its table shown, and nothing runs any more; whether every guarantee held."""
    with contextlib.ExitStack() as stack:
        database_url, redis_url = stack.enter_context(servers_of(home))
        env = {name: text for name, text in os.environ.items() if not name.startswith("CLOCKJACK_") or name in KEPT} | {
            "CLOCKJACK_DATABASE_URL": database_url,
            "CLOCKJACK_REDIS_URL": redis_url,
            "CLOCKJACK_EFFECTS": str(home / "effects"),
            "CLOCKJACK_DASHBOARD_PASSWORD": secrets.token_urlsafe(12),
        }
        clockjack(env, "migrate")
        urls = {} if os.environ.get("CLOCKJACK_DATABASE_URL") else grants.users(database_url)
        own_env = grants.own_env(urls) if urls else {}
        api_key = first_api_key(home, env)
        queues = Queues(redis_url)
        if others := queues.consumers():
            raise DemoFailed(f"consumers of another installation use this Redis: {', '.join(sorted(others))}")
        database = Database(database_url, size=6, locks=False)
        stack.callback(database.close)
        show.tell("the servers are up; starting the processes of the Procfile")
        supervisor = stack.enter_context(
            _running(Supervisor(ROOT / "Procfile", SCALE, env, home / "log", own_env=own_env))
        )
        stack.callback(_let_it_stop)
        http = wait_until_ready(supervisor)
        sql_url = urls.get("sql_producer", database_url)
        return story(Instance(home, env, database, queues, supervisor, http, api_key, sql_url), show)


def story(on: Instance, show: Show) -> bool:
    """Tasks were registered, ran while two processes died, and were counted; whether every guarantee held."""
    begun = time.monotonic()
    wanted = plan(on.database.now())
    effects = Effects(on.home / "effects")
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(Client(on.http, on.api_key))
        measured = metrics.Metrics(on.supervisor).start()
        stack.callback(measured.stop)
        ways: dict[str, Callable[[], doors.Door]] = {
            "http": lambda: doors.http_door(on.http, on.api_key),
            "sql": lambda: doors.sql_door(on.sql_url),
            "cli": lambda: doors.cli_door(on.env),
            "python": lambda: doors.python_door(client),
        }
        registrations = doors.Registrations(wanted.tasks, ways, on.database.clock).start()
        stack.callback(registrations.stop)
        fast = stack.enter_context(contextlib.closing(doors.connect(on.env["CLOCKJACK_DATABASE_URL"])))
        eyes = Effects(effects.path)
        kills = Kills(on.supervisor, on.database, on.queues, fast, eyes, wanted.burst, show.tell).start()
        stack.callback(kills.stop)
        stack.callback(_let_it_stop)
        show.tell(f"everything is at work; registering {registrations.total} tasks through four doors")
        while time.monotonic() - begun < LONGEST_S:
            time.sleep(0.25)
            effects.more()
            done = list(registrations.acknowledged)
            keys = [key for one in done for key in one.keys]
            show.figures(len(done), registrations.total, sum(key in effects.by_key for key in keys), len(keys))
            if kills.error:
                raise DemoFailed(f"the kills went wrong: {kills.error}") from kills.error
            now = on.database.now()
            if now > wanted.ends and registrations.over and kills.over:
                show.once("waiting until the last lease of the killed consumer is over: nothing may run twice")
                quiet_s = (to_us(now) - max((kill.at_us for kill in kills.done), default=0)) / 1e6
                if quiet_s > QUIET_S and not verdict.count(done, effects, kills.done).missing:
                    break
    effects.more()
    return report(show, registrations, effects, kills, measured, versions(on.database, on.queues))


def report(
    show: Show,
    registrations: doors.Registrations,
    effects: Effects,
    kills: Kills,
    measured: metrics.Metrics,
    of_servers: Mapping[str, str],
) -> bool:
    """The table is shown and DEMO_JSON written; whether every guarantee held."""
    counted = verdict.count(registrations.acknowledged, effects, kills.done)
    p99_ms = {stage.name: measured.p99_ms(stage) for stage in metrics.STAGES}
    held = verdict.guarantees(counted, kills.done, registrations.total - len(registrations.acknowledged))
    found = verdict.document(len(registrations.acknowledged), counted, p99_ms, kills.done, of_servers, held)
    show.still()
    show.console.print(verdict.table(found, p99_ms, kills.done))
    if not all(stage["held"] for stage in found["stages"].values()):
        show.console.print("A stage's promise is for a healthy machine; one that is missed does not break a guarantee.")
    for line in registrations.failed[:5]:
        show.console.print(f"not registered: {line}", markup=False)
    if late := doors.too_late(registrations.acknowledged):
        show.console.print(f"{late} tasks were registered only after they were due: this machine is very busy")
    if path := os.environ.get("DEMO_JSON"):
        Path(path).write_text(json.dumps(found, indent=1) + "\n")
    show.console.print(f"database {of_servers['database']}, redis {of_servers['redis']}")
    broken = [name.replace("_", " ") for name, good in held.items() if not good]
    show.console.print(f"broken: {', '.join(broken)}" if broken else "every guarantee held", style="bold")
    if broken:
        show.console.print(f"the logs are in {effects.path.parent / 'log'}", markup=False, soft_wrap=True)
    return not broken


def wait_until_ready(supervisor: Supervisor) -> str:
    """All processes are at work; the URL of the producer."""
    until = time.monotonic() + READY_S
    while True:
        processes = supervisor.processes()
        waiting = [p["name"] for p in processes if not metrics.at_work(p["name"], p["port"])]
        if len(processes) == sum(SCALE.values()) and not waiting:
            return next(f"http://127.0.0.1:{p['port']}" for p in processes if p["name"] == "producer.1")
        if time.monotonic() > until:
            raise DemoFailed(f"not at work after {READY_S:g} s: {', '.join(waiting) or 'processes that keep dying'}")
        time.sleep(0.1)


def versions(database: Database, queues: Queues) -> dict[str, str]:
    """What the two servers call themselves."""
    found = database.transaction(lambda connection: rows(connection, "SELECT VERSION() AS version"))
    return {"database": str(found[0]["version"]), "redis": str(queues.redis.info("server")["redis_version"])}


@contextlib.contextmanager
def _running(supervisor: Supervisor) -> Iterator[Supervisor]:
    try:
        yield supervisor.start()
    finally:
        supervisor.stop()


def _let_it_stop() -> None:
    """A second Ctrl-C does not break off the stopping."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
