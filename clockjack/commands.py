"""The commands that a consumer may execute: named by its operator, never by a payload.

CLOCKJACK_COMMANDS is a JSON object: each name with its argv, or with an object of the fields of `Command`.

    {"vacuum": ["/usr/local/bin/vacuum", "--all"],
     "report": {"argv": ["/opt/report/run"], "env": {"REGION": "eu"}, "cwd": "/opt/report", "memory_mb": 4096}}
"""

import json
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

MEMORY_MB, FILE_MB, FILES = 1_024, 1_024, 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A program and its limits. `memory_mb` of address space, `file_mb` of each file; 0: none."""

    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    cwd: str = "/"
    memory_mb: int = MEMORY_MB
    file_mb: int = FILE_MB


def read(text: str) -> dict[str, Command]:
    """The commands of the setting; ValueError with the name of what cannot be used."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("expected JSON") from None
    if not isinstance(found, dict):
        raise ValueError('expected an object such as {"name": ["/path/of/program", "argument"]}')
    return {name: _command(name, value) for name, value in found.items()}


def _command(name: str, value: Any) -> Command:
    given = {"argv": value} if isinstance(value, list) else value
    if not name or len(name) > 200 or not isinstance(given, dict) or "argv" not in given:
        raise ValueError(f"command {name[:200]!r}: expected a list, or an object with argv")
    for key, each in given.items():
        if not _fits(key, each):
            raise ValueError(f"command {name!r}: {str(key)[:50]}: expected {EXPECTED.get(key, 'no such field')}")
    return Command(**given | {"argv": tuple(given["argv"])})


EXPECTED = {
    "argv": "a list of texts, the first of them the absolute path of a program",
    "env": "an object of texts, none named CLOCKJACK_…",
    "cwd": "an absolute path",
    "memory_mb": "a whole number, 0 for no limit",
    "file_mb": "a whole number, 0 for no limit",
}


def _fits(key: str, value: Any) -> bool:
    if key == "argv":
        return isinstance(value, list) and bool(value) and all(map(_text, value)) and _absolute(value[0])
    if key == "env":
        return isinstance(value, dict) and all(
            name and "=" not in name and not name.startswith("CLOCKJACK_") and _text(name) and _text(each)
            for name, each in value.items()
        )
    if key == "cwd":
        return _text(value) and _absolute(value)
    return key in ("memory_mb", "file_mb") and type(value) is int and 0 <= value <= 1_000_000


def _text(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


def _absolute(path: str) -> bool:
    return PurePosixPath(path).is_absolute()
