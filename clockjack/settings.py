"""The one place that reads the environment.

Every value has its unit in its name. A value that cannot be used stops the process with its name, the value and what
was expected; nothing is guessed. `NAME_FILE` names a file that holds the value (for secrets).
"""

import ipaddress
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clockjack import commands
from clockjack.commands import Command
from clockjack.sealing import read_keys

PREFIX = "CLOCKJACK_"
UP_FILE = Path(".local/up.json")


class SettingsError(Exception):
    """A setting is missing or cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the processes are told from outside. All durations in seconds."""

    database_url: str
    redis_url: str
    http_host: str = "127.0.0.1"
    http_port: int = 8311
    metrics_port: int = 0
    queue: str = "default"
    isolated: bool = False
    concurrency: int = 50
    memory_mb: int = 0
    handlers: tuple[str, ...] = ()
    builtin: tuple[str, ...] = ("mock", "http")
    grace_s: float = 25.0
    http_allow: tuple[str, ...] = ()
    commands: Mapping[str, Command] = field(default_factory=dict)
    http_ports: tuple[int, ...] = (80, 443, 8080, 8443)
    secret_keys: tuple[bytes, ...] = field(default=(), repr=False)
    effects: str | None = None
    retention_days: int = 30
    log_level: str = "INFO"
    unsafe_server: bool = False


def from_environment(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of this process; raises SettingsError naming the variable that cannot be used.

    Without CLOCKJACK_DATABASE_URL the servers of a running `make up` in the working directory are used.
    """
    env = dict(os.environ if environ is None else environ)
    if environ is None and f"{PREFIX}DATABASE_URL" not in env:
        env = _running_up() | env
    values: dict[str, Any] = {}
    for name, read in _READERS.items():
        text = _text(env, PREFIX + name.upper())
        if text is not None:
            values[name] = _read(PREFIX + name.upper(), text, read)
    if "PORT" in env:  # what a Procfile runner gives each process
        port = _read("PORT", env["PORT"], _port)
        values.setdefault("http_port", port)
        values.setdefault("metrics_port", port)
    for name in ("database_url", "redis_url"):
        if name not in values:
            raise SettingsError(
                f"{PREFIX}{name.upper()} is not set and no `make up` runs here: set it, or start `make up` first"
            )
    return Settings(**values)


def for_process(name: str) -> Settings:
    """The settings of this process; exits with code 2 and one line on stderr when they cannot be used."""
    try:
        return from_environment()
    except SettingsError as error:
        print(f"{name}: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def client_environment() -> tuple[str | None, str | None]:
    """The URL and API key for clients: from the environment, else from a running `make up`, else None."""
    up = _up()
    return (
        os.environ.get(f"{PREFIX}URL") or up.get("http"),
        _text(dict(os.environ), f"{PREFIX}API_KEY") or up.get("api_key"),
    )


def _up() -> dict[str, Any]:
    try:
        return dict(json.loads(UP_FILE.read_text()))
    except (OSError, ValueError):
        return {}


def _running_up() -> dict[str, str]:
    up = _up()
    return {f"{PREFIX}{k.upper()}": str(up[k]) for k in ("database_url", "redis_url", "secret_keys") if k in up}


def _text(env: Mapping[str, str], name: str) -> str | None:
    if f"{name}_FILE" in env:
        try:
            return Path(env[f"{name}_FILE"]).read_text().strip()
        except OSError as error:
            raise SettingsError(f"{name}_FILE: cannot read {env[f'{name}_FILE']!r}: {error.strerror}") from None
    return env.get(name) or None


def _read(name: str, text: str, read: Callable[[str], Any]) -> Any:
    try:
        return read(text)
    except ValueError as error:
        shown = "(hidden)" if name.endswith(("_URL", "_COMMANDS", "_KEYS")) else repr(text)
        raise SettingsError(f"{name}={shown}: {error}") from None


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.strip().isdecimal() or not low <= int(text) <= high:
            raise ValueError(f"expected a whole number from {low} to {high}")
        return int(text)

    return read


def _seconds(low: float, high: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise ValueError(f"expected seconds from {low:g} to {high:g}")
        return value

    return read


def _flag(text: str) -> bool:
    if text.lower() not in ("0", "1", "false", "true", "no", "yes"):
        raise ValueError("expected 1 or 0")
    return text.lower() in ("1", "true", "yes")


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _networks(text: str) -> tuple[str, ...]:
    names = _names(text)
    for name in names:
        try:
            ipaddress.ip_network(name, strict=False)
        except ValueError:
            raise ValueError("expected networks such as 10.1.0.0/16, separated by commas") from None
    return names


def _ports(text: str) -> tuple[int, ...]:
    return tuple(_whole(1, 65535)(name) for name in _names(text))


def _builtin(text: str) -> tuple[str, ...]:
    names = () if text.strip().lower() == "none" else _names(text)
    if set(names) - {"mock", "http"}:
        raise ValueError("expected some of mock, http; or none")
    return names


def _url(*schemes: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if not text.startswith(tuple(f"{s}://" for s in schemes)):
            raise ValueError("expected a URL that begins with " + " or ".join(f"{s}://" for s in schemes))
        return text

    return read


def _name(text: str) -> str:
    if not (0 < len(text) <= 64 and all(c.isalnum() or c in "_-." for c in text) and text.isascii()):
        raise ValueError("expected 1 to 64 letters, digits, '_', '-' or '.'")
    return text


def _database(text: str) -> str:
    return _url("mysql+pymysql")(
        text.replace("mysql://", "mysql+pymysql://", 1) if text.startswith("mysql://") else text
    )


_port = _whole(0, 65535)
_READERS: dict[str, Callable[[str], Any]] = {
    "database_url": _database,
    "redis_url": _url("redis", "rediss", "unix"),
    "http_host": str,
    "http_port": _port,
    "metrics_port": _port,
    "queue": _name,
    "isolated": _flag,
    "concurrency": _whole(1, 1000),
    "memory_mb": _whole(0, 1_000_000),
    "handlers": _names,
    "builtin": _builtin,
    "grace_s": _seconds(0, 3600),
    "commands": commands.read,
    "http_allow": _networks,
    "http_ports": _ports,
    "secret_keys": read_keys,
    "effects": str,
    "retention_days": _whole(1, 3650),
    "log_level": str.upper,
    "unsafe_server": _flag,
}
