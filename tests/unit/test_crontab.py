"""A crontab file as crontab(5) has it: what each line means, and which lines are refused."""

import subprocess
from typing import Any

import pytest

from clockjack.crontab import Entry, read


def one(text: str, **options: Any) -> Entry:
    table = read(text, **options)
    assert (table.wrong, len(table.entries)) == ([], 1)
    return table.entries[0]


def test_a_file_with_all_that_a_file_may_have() -> None:
    table = read("""
# m h dom mon dow command
SHELL=/bin/bash
  PATH = "/usr/bin:/bin"
MAILTO=ops@example.org

*/10 *\t* * *   poll --all
CRON_TZ=Europe/Berlin
30 2 * * MON-FRI backup "a b" >/dev/null 2>&1
@daily report
RANDOM_DELAY=5
0 0 1 1 7 greet
""")
    assert table.wrong == []
    assert [(e.line, e.cron, e.timezone, e.jitter_s, e.command) for e in table.entries] == [
        (7, "*/10 * * * *", "UTC", 0, "poll --all"),
        (9, "30 2 * * MON-FRI", "Europe/Berlin", 0, 'backup "a b" >/dev/null 2>&1'),
        (10, "@daily", "Europe/Berlin", 0, "report"),
        (12, "0 0 1 1 7", "Europe/Berlin", 300, "greet"),
    ]
    assert table.entries[0].env == {"SHELL": "/bin/bash", "PATH": "/usr/bin:/bin"}
    assert table.notes == [(5, "MAILTO: nothing is mailed; results are kept with the runs")]


@pytest.mark.parametrize(("command", "run", "stdin"), [
    ("mail ops%Subject: x%%text", "mail ops", "Subject: x\n\ntext\n"),
    (r"date +\%F", "date +%F", None),
    (r"date +\%F%in\%put", "date +%F", "in%put\n"),
    ("cat %", "cat", "\n"),
])  # fmt: skip
def test_percent_is_the_input_unless_escaped(command: str, run: str, stdin: str | None) -> None:
    entry = one(f"* * * * * {command}")
    assert (entry.command, entry.stdin) == (run, stdin)


def test_a_systems_crontab_names_users() -> None:
    table = read("17 * * * *\troot    cd / && run-parts\n@daily www-data sweep\n* * * * * alone\n", system=True)
    assert [(e.user, e.command) for e in table.entries] == [("root", "cd / && run-parts"), ("www-data", "sweep")]
    assert table.wrong == [(3, "there is no user and command")]
    assert table.notes[0] == (1, "user 'root': the command runs as the consumer's user")
    tabbed = read("17 * * * *\troot\tsweep all\n", system=True).entries[0]
    assert (tabbed.user, tabbed.command) == ("root", "sweep all")


@pytest.mark.parametrize(("line", "why"), [
    ("* * * * *", "expected five fields and a command"),
    ("* * * *", "expected five fields and a command"),
    ("nonsense", "expected five fields and a command"),
    ("@reboot start", "@reboot: there is no machine"),
    ("@daily", "there is no command"),
    ("* * * * * %only input", "there is no command"),
    ("RANDOM_DELAY=soon\n* * * * * x", "RANDOM_DELAY: expected minutes"),
])  # fmt: skip
def test_a_line_that_cannot_be_used_is_named_and_its_neighbours_read(line: str, why: str) -> None:
    table = read(f"1 * * * * before\n{line}\nRANDOM_DELAY=0\n2 * * * * after\n")
    [(number, text)] = table.wrong
    assert (number, text[: len(why)]) == (line.count("\n") + 2, why)
    assert [entry.command for entry in table.entries] == ["before", "after"]


def test_more_entries_than_one_transaction_holds_are_refused() -> None:
    assert read("* * * * * x\n" * 500).wrong == []
    assert read("* * * * * x\n" * 501).wrong == [(501, "more than 500 entries")]


def test_a_name_stays_as_long_as_what_is_run_is_the_same() -> None:
    first = one("* * * * * /usr/bin/back up --all")
    assert first.name.startswith("back-")
    assert one("0 5 * * * /usr/bin/back up --all").name == first.name
    others = [
        "* * * * * /usr/bin/back up",
        "* * * * * /usr/bin/back up --all%x",
        "A=1\n* * * * * /usr/bin/back up --all",
    ]
    assert len({first.name, *(one(other).name for other in others)}) == 4
    assert one("* * * * * (cd /x; y)").name.startswith("cd-")
    assert one("* * * * * ☂").name.startswith("command-")


@pytest.mark.parametrize(("text", "output"), [
    ("* * * * * cat; echo $NAME%one%two", "one\ntwo\nyou\n"),
    ("* * * * * echo $NAME \\%", "you %\n"),
])  # fmt: skip
def test_what_consumers_are_to_allow_runs_what_cron_would(text: str, output: str) -> None:
    allowed: Any = one(f"NAME=you\nHOME=/tmp\n{text}").allowed
    assert (allowed["env"], allowed["cwd"]) == ({"NAME": "you", "HOME": "/tmp"}, "/tmp")
    done = subprocess.run(
        allowed["argv"], env=allowed["env"], cwd=allowed["cwd"], capture_output=True, text=True, check=True
    )
    assert done.stdout == output
    assert one("SHELL=/bin/bash\n* * * * * x").allowed == {"argv": ["/bin/bash", "-c", "x"]}
