"""`make up`: private servers unless the environment names others, the schema, a first API key, all processes.

`python -m deploy.up [--dir .local] [--scale "consumer=4 dispatcher=2"]` stays until Ctrl-C; `--down` ends it.
"""

import argparse
import base64
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from deploy import grants, servers
from deploy.programs import ServerUnavailable
from deploy.supervisor import Supervisor, free_port, read_scale

ROOT = Path(__file__).resolve().parent.parent
SCALE = {"producer": 1, "dispatcher": 2, "consumer": 2, "dashboard": 1}
HTTP_PORT, DASHBOARD_PORT = 8311, 9181
READY_TIMEOUT_S = 30.0


def environment(database_url: str, redis_url: str, **more: str) -> dict[str, str]:
    """The environment in which Clockjack's processes find their two servers, and whatever else they are told."""
    return {**os.environ, "CLOCKJACK_DATABASE_URL": database_url, "CLOCKJACK_REDIS_URL": redis_url, **more}


@contextlib.contextmanager
def servers_of(home: Path) -> Iterator[tuple[str, str]]:
    """The URLs of database and Redis: those of the environment, else of private servers that live as long as this."""
    with contextlib.ExitStack() as stack:
        urls = []
        for variable, start in (("CLOCKJACK_DATABASE_URL", servers.database), ("CLOCKJACK_REDIS_URL", servers.redis)):
            if not (url := os.environ.get(variable)):
                server = start(home / start.__name__)
                stack.callback(server.stop)
                url = server.url
            urls.append(url)
        yield urls[0], urls[1]


def clockjack(env: Mapping[str, str], *arguments: str) -> str:
    """What the command `clockjack` printed; CommandFailed when it did not succeed."""
    program = Path(sys.executable).with_name("clockjack")
    done = subprocess.run([str(program), *arguments], env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise CommandFailed(f"`clockjack {' '.join(arguments)}` failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout


class CommandFailed(Exception):
    """A command that the start needs did not succeed; the text is what it said."""


def first_api_key(home: Path, env: Mapping[str, str]) -> str:
    """The API key of this directory's database, made the first time and kept in the directory."""
    database_url, kept = env["CLOCKJACK_DATABASE_URL"], home / "api_key.json"
    if kept.exists() and (known := json.loads(kept.read_text()))["database_url"] == database_url:
        return str(known["api_key"])
    api_key = json.loads(clockjack(env, "keys", "create", "first", "--json"))["api_key"]
    write_private(kept, {"database_url": database_url, "api_key": api_key})
    return str(api_key)


def first_secret_key(home: Path) -> str:
    """The key that seals the secrets of this directory's database, made the first time and kept in the directory."""
    kept = home / "secret_keys.json"
    if not kept.exists():
        write_private(kept, {"secret_keys": base64.b64encode(secrets.token_bytes(32)).decode()})
    return str(json.loads(kept.read_text())["secret_keys"])


def write_private(path: Path, content: Mapping[str, Any]) -> None:
    """The file holds `content` as JSON, whole at every moment, readable by its owner only."""
    draft = path.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(content, file, indent=1)
    draft.replace(path)


def answers(port: int, timeout_s: float) -> bool:
    """Whether something accepts connections on the port of 127.0.0.1 before the time is over."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        time.sleep(0.05)
    return False


def up(home: Path, scale: Mapping[str, int], stopped: Callable[[], bool]) -> None:
    """Everything ran, and `home`/up.json said where, until `stopped()`; now nothing runs any more."""
    with servers_of(home) as (database_url, redis_url):
        password = secrets.token_urlsafe(12)
        env = environment(database_url, redis_url, CLOCKJACK_DASHBOARD_PASSWORD=password)
        secret_keys = env.setdefault("CLOCKJACK_SECRET_KEYS", first_secret_key(home))
        clockjack(env, "migrate")
        own_env = {} if os.environ.get("CLOCKJACK_DATABASE_URL") else grants.own_env(grants.users(database_url))
        api_key = first_api_key(home, env)
        ports = {"producer.1": free_port(HTTP_PORT), "dashboard.1": free_port(DASHBOARD_PORT)}
        supervisor = Supervisor(ROOT / "Procfile", scale, env, home / "log", ports=ports, own_env=own_env).start()
        try:
            state: dict[str, Any] = {
                "http": f"http://127.0.0.1:{ports['producer.1']}",
                "api_key": api_key,
                "database_url": database_url,
                "redis_url": redis_url,
                "secret_keys": secret_keys,
                "dashboard": f"http://clockjack:{password}@127.0.0.1:{ports['dashboard.1']}/",
            }
            if scale.get("producer") and not answers(ports["producer.1"], READY_TIMEOUT_S):
                print(f"up: the producer does not answer yet; see {home / 'log/producer.1.log'}", file=sys.stderr)
            print(
                *(f"{name:13} {value}" for name, value in state.items() if name != "secret_keys"),
                f"logs in {home / 'log'}",
                sep="\n",
            )
            print("Ctrl-C or `make down` stops everything.", flush=True)
            written = None
            while not stopped():
                time.sleep(0.25)
                state["processes"] = supervisor.processes()
                if state["processes"] != written:
                    write_private(home / "up.json", state)
                    written = state["processes"]
        finally:
            print("stopping …", flush=True)
            (home / "up.json").unlink(missing_ok=True)
            supervisor.stop()


def down(home: Path) -> None:
    """No `up` runs on this directory any more."""
    asked = False
    while (held := servers.lock(home / "up.lock")) is None:
        if not asked and (pid := (home / "up.lock").read_text().strip()):
            os.kill(int(pid), signal.SIGTERM)
            asked = True
        time.sleep(0.1)
    (home / "up.json").unlink(missing_ok=True)  # of one that was killed
    os.close(held)
    print("stopped." if asked else "nothing was running.")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.up", description="Run all of Clockjack on this machine.")
    parser.add_argument("--dir", type=Path, default=Path(".local"), help="where data, logs and up.json live (.local)")
    parser.add_argument("--scale", default=os.environ.get("SCALE", ""), help='for example "consumer=4 dispatcher=2"')
    parser.add_argument("--down", action="store_true", help="end the one that runs on this directory")
    options = parser.parse_args()
    home = options.dir.resolve()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if options.down:
        return down(home)
    if (held := servers.lock(home / "up.lock")) is None:
        sys.exit(f"up: already running as process {(home / 'up.lock').read_text()} on {home}; `make down` ends it")
    os.truncate(held, 0)
    os.pwrite(held, str(os.getpid()).encode(), 0)
    asked: list[int] = []  # a plain list: a handler may take no lock that the main thread may hold
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: asked.append(number))
    try:
        up(home, {**SCALE, **read_scale(options.scale)}, lambda: bool(asked))
    except ServerUnavailable as error:
        print(f"up: {error}", file=sys.stderr)
        sys.exit(3)
    except (CommandFailed, ValueError) as error:
        sys.exit(f"up: {error}")


if __name__ == "__main__":
    main()
