"""Every operation of the description is tried by schemathesis: all checks, all phases, from the same seed."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from clockjack.ledger.keys import prefix_of
from tests.api import hooks

HERE = Path(__file__).parent
FIGURES = re.compile(r"^ *(?:(?:Selected|Tested): .*|[^\n]*\d+ generated.*|=+ .* in [0-9.]+s.* =+)$", re.MULTILINE)


def tried(url: str, key: str, theirs: str, home: Path, *options: str, timeout_s: int = 580) -> tuple[int, str]:
    """The exit code of schemathesis (0: no failure), and what it said. `theirs` opens another namespace."""
    _wait(url)
    _ask(url, key, "/v1/endpoints", {"name": hooks.ENDPOINT, "url": "https://example.com/"})
    task = _ask(url, key, "/v1/tasks", {"handler": "tried", "every_s": 86_400, "task_key": "tried"})
    people = {"ours": key, "theirs": theirs}
    auth = home / "people.json"
    auth.write_text(
        json.dumps(
            {
                "auth": [
                    {"name": name, "fixedHeaders": [{"name": "Authorization", "value": f"Bearer {of}"}]}
                    for name, of in people.items()
                ]
            }
        )
    )
    config = home / "schemathesis.toml"
    peers = f'[auth.wfc]\npath = "{auth}"\nuser = "ours"\npeers = {json.dumps(list(people))}\n\n'
    config.write_text((HERE / "schemathesis.toml").read_text().replace("# PEOPLE\n", peers))
    found = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            *("--no-color", "--config-file", config, "run", f"{url}/openapi.json", "--seed", "1", *options),
        ],
        cwd=home,
        env={
            **os.environ,
            "PYTHONPATH": str(HERE.parents[1]),
            "SCHEMATHESIS_HOOKS": "tests.api.hooks",
            hooks.TASK_NAME: str(task["id"]),
            hooks.PREFIXES_NAME: f"{prefix_of(key)} {prefix_of(theirs)}",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return found.returncode, found.stdout


def figures(said: str) -> str:
    """The lines of what was said that count."""
    return "; ".join(line.strip(" =") for line in FIGURES.findall(said))


def _wait(url: str) -> None:
    until = time.monotonic() + 10
    while True:
        try:
            urllib.request.urlopen(f"{url}/healthz", timeout=5).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
        time.sleep(0.05)


def _ask(url: str, key: str, path: str, body: Any) -> Any:
    request = urllib.request.Request(
        url + path, json.dumps(body).encode(), {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)
