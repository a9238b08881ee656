"""`python -m tests.chaos.checker DIR [--json FILE]`: the verdict on one chaos run.

One line a violation; the verdict as JSON in DIR/verdict.json and FILE. Exit code 0 if every guarantee held, 1 if not,
2 if the files cannot be judged.
"""

import argparse
import json
import sys
from pathlib import Path

from tests.chaos.checker.files import Garbage, load
from tests.chaos.checker.oracle import Unknown
from tests.chaos.checker.verdict import judge


def main(arguments: list[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.checker", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--json", type=Path, help="write the verdict there as well")
    given = parser.parse_args(arguments)
    try:
        verdict = judge(load(given.directory))
    except (Garbage, Unknown) as error:
        print(f"checker: {error}", file=sys.stderr)
        return 2
    text = json.dumps(verdict, indent=1) + "\n"
    for path in (given.directory / "verdict.json", *([given.json] if given.json else [])):
        path.write_text(text)
    for line in verdict["violations"]:
        print(line)
    print(text, end="")
    return 0 if verdict["verdict"] else 1


if __name__ == "__main__":
    sys.exit(main())
