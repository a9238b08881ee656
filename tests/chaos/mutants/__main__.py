"""`python -m tests.chaos.mutants [NAME …] [--seed N] [--json FILE]`: the checker catches every mutant of Clockjack.

The tree is copied, the patch applied, its scenario played there; the line of the verdict that its head names must come,
with the next seed if not with the first one.
One line a mutant: caught or MISSED, the seconds, and that line. Exit code 0 if all were caught. `--plain` plays each
scenario without its patch instead, and shows what the verdict says then.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).parent
LEFT_OUT = (".git", ".local", ".venv", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis")
LONGEST_S = 240
TRIES = 2  # where a fault hits a process is chance: what a freeze in a claim holds may be one task that nobody misses


class Mutant(NamedTuple):
    """A patch, the scenario that is to catch it, how long about, and what the line looks like that does."""

    name: str
    words: str
    scenario: str
    seconds: float
    caught: str
    path: Path


def mutants() -> list[Mutant]:
    """All patches of this folder, in order."""
    found = []
    for path in sorted(HERE.glob("*.patch")):
        head = path.read_text().partition("\ndiff --git ")[0]
        values = dict(re.findall(r"^(Scenario|Seconds|Caught): (.+)$", head, re.MULTILINE))
        words = head.splitlines()[0]
        found.append(Mutant(path.stem, words, values["Scenario"], float(values["Seconds"]), values["Caught"], path))
    return found


def copied(home: Path) -> Path:
    """A copy of the tree; what was downloaded is shared."""
    tree = home / "tree"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*LEFT_OUT))
    (tree / ".local").mkdir()
    (tree / ".local" / "cache").symlink_to(ROOT / ".local" / "cache")
    return tree


def apply(patch: Path, tree: Path, *, check: bool = False) -> None:
    """The tree has the patch (with `check`: could have it); ValueError if it does not apply.

    Own, since a bare machine has no program for it: what a hunk takes away must be in its file exactly once.
    """
    for part in patch.read_text().split("\ndiff --git ")[1:]:
        path = tree / part.partition("\n+++ b/")[2].partition("\n")[0]
        if not path.is_file():
            raise ValueError(f"{patch.name}: no file {path.relative_to(tree)}")
        text = path.read_text()
        for hunk in re.split(r"^@@ .*\n", part, flags=re.MULTILINE)[1:]:
            lines = hunk.splitlines(keepends=True)
            old = "".join(line[1:] for line in lines if line[0] in " -")
            new = "".join(line[1:] for line in lines if line[0] in " +")
            if text.count(old) != 1:
                raise ValueError(f"{patch.name}: {path.relative_to(tree)} has not once:\n{old}")
            text = text.replace(old, new)
        if not check:
            path.write_text(text)


def play(tree: Path, mutant: Mutant, seed: int) -> dict[str, Any]:
    """The verdict on this tree; its only violation says so if there is none."""
    out = tree.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    argv = [sys.executable, "-m", "tests.chaos", "--only", mutant.scenario, "--seconds", str(mutant.seconds)]
    argv += ["--seed", str(seed), "--out", str(out)]
    with open(tree.parent / "log", "w") as log:
        child = subprocess.Popen(argv, cwd=tree, stdout=log, stderr=subprocess.STDOUT)
        try:
            child.wait(LONGEST_S)
        except subprocess.TimeoutExpired:
            child.terminate()
            child.wait()
    file = out / "verdict.json"
    if not file.exists():
        last = (tree.parent / "log").read_text().splitlines()[-1:]
        return {"verdict": False, "violations": [f"no verdict: {last[0] if last else child.returncode}"]}
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.mutants", description="Is every mutant caught?")
    parser.add_argument("names", nargs="*", help="the beginnings of their names; all if none is given")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where the table is written to as well")
    parser.add_argument("--plain", action="store_true", help="play the scenarios without the patches")
    options = parser.parse_args()
    chosen = [m for m in mutants() if not options.names or m.name.startswith(tuple(options.names))]
    if not chosen:
        parser.error("no mutant has such a name")
    table, begun = [], time.monotonic()
    for mutant in chosen:
        since, lines, tries = time.monotonic(), list[str](), 0
        while not lines and tries < TRIES:
            with tempfile.TemporaryDirectory(prefix="clockjack-mutant-") as home:
                tree = copied(Path(home))
                if not options.plain:
                    apply(mutant.path, tree)
                verdict = play(tree, mutant, options.seed + 1000 * tries)
            lines = [line for line in verdict["violations"] if re.search(mutant.caught, line)]
            tries = TRIES if options.plain else tries + 1
        row = {"name": mutant.name, "what": mutant.words, "scenario": mutant.scenario, "tries": tries}
        row |= {"caught": bool(lines), "seconds": round(time.monotonic() - since, 1)}
        row |= {"line": lines[0] if lines else None, "violations": verdict["violations"]}
        table.append(row)
        shown = lines[0] if lines else f"{len(verdict['violations'])} other lines: {verdict['violations'][:3]}"
        print(f"{'caught' if lines else 'MISSED'}  {mutant.name:26} {row['seconds']:5.0f} s  {shown}", flush=True)
    print(f"{sum(row['caught'] for row in table)} of {len(table)} caught, {time.monotonic() - begun:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")
    return 0 if all(row["caught"] for row in table) or options.plain else 1


if __name__ == "__main__":
    sys.exit(main())
