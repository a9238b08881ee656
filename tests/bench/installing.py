"""What the peers need is in .local/bench: a virtual environment for each in Python, an npm prefix for BullMQ.

Versions are pinned in `tests/bench/peers/NAME.txt`; an environment of other versions is made anew.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
HOME = HERE.parents[1] / ".local" / "bench"
INSTALL_S = 300


class NotInstalled(Exception):
    """A peer cannot be had here; the text says why."""


def python(name: str) -> Path:
    """The interpreter of an environment that has what `peers/NAME.txt` lists, and nothing else."""
    wanted = (HERE / "peers" / f"{name}.txt").read_text()
    home = HOME / name
    if not _made(home, wanted):
        _run([sys.executable, "-m", "venv", str(home)])
        pip = [str(home / "bin/python"), "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-deps"]
        _run([*pip, "-r", str(HERE / "peers" / f"{name}.txt")])
        (home / "made").write_text(wanted)
    return home / "bin/python"


def node(name: str) -> Path:
    """The directory whose node_modules has what `peers/NAME.txt` lists."""
    if not shutil.which("npm") or not shutil.which("node"):
        raise NotInstalled("node and npm are not on this machine")
    wanted = (HERE / "peers" / f"{name}.txt").read_text()
    home = HOME / "node"
    if not _made(home, wanted):
        home.mkdir(parents=True)
        pinned = dict(line.split("==") for line in wanted.split())
        (home / "package.json").write_text(json.dumps({"private": True, "dependencies": pinned}, indent=1))
        _run(["npm", "install", "--prefix", str(home), "--no-audit", "--no-fund", "--loglevel=error"])
        (home / "made").write_text(wanted)
    return home


def _made(home: Path, wanted: str) -> bool:
    """Whether `home` is whole and of the wanted versions; what is there of others is gone."""
    if (home / "made").exists() and (home / "made").read_text() == wanted:
        return True
    shutil.rmtree(home, ignore_errors=True)
    return False


def _run(argv: Sequence[str]) -> None:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=INSTALL_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalled(f"`{' '.join(argv)}`: {error}") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines() or ["(no output)"]
        raise NotInstalled(f"`{argv[0]}` failed: {said[-1]}")
