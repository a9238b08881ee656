"""Every example in docs/schedules.md is what the command prints."""

import io
import json
import re
import shlex
from pathlib import Path

import pytest

from clockjack import cli, lines

TEXT = (Path(__file__).parents[2] / "docs" / "schedules.md").read_text()
CELLS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in TEXT.splitlines() if line.startswith("| `")]
EXAMPLES = [cells for cells in CELLS if len(cells) == 5]


def test_there_are_examples() -> None:
    assert len(EXAMPLES) > 30


@pytest.mark.parametrize(("schedule", "zone", "after", "expected", "_"), EXAMPLES)
def test_example(
    schedule: str, zone: str, after: str, expected: str, _: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = re.findall(r"`([^`]+)`", schedule)
    argv = [
        word for text in given for word in ([text] if not text.startswith("--") else shlex.split(text, posix=False))
    ]
    times = [text if text.count(":") == 2 else f"{text}:00" for text in expected.split()]
    options = ["--tz", zone, "--from", f"{after}:00Z", "--count", str(len(times)), "--json"]
    assert cli.run(["next", *argv, *options]) == 0
    found = [due["utc"].removesuffix("Z") for due in json.loads(capsys.readouterr().out)["next"]]
    assert [text[-len(time) :] for text, time in zip(found, times, strict=True)] == times


@pytest.mark.parametrize("command", ["next", "simulate"])
def test_the_shown_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    block = re.search(rf'    \$ (clockjack {command} "[^\n]+)\n((?:    [^\n]+\n)+)', TEXT)
    assert block
    assert cli.run(shlex.split(block[1])[1:]) == 0
    printed = capsys.readouterr()
    assert printed.out + printed.err == "".join(line[4:] + "\n" for line in block[2].splitlines())


def test_the_shown_lines() -> None:
    asked, answers = (re.findall(rf"^    {sign} (.+)$", TEXT, re.MULTILINE) for sign in "<>")
    out = io.StringIO()
    lines.serve([line.encode() for line in asked], out)
    assert len(asked) == 3
    assert out.getvalue().splitlines() == answers
