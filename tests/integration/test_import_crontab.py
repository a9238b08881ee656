"""`clockjack import crontab`: tasks kept in step with a file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clockjack import cli
from clockjack.ledger.database import Database
from tests.integration.life import select, sql

pytestmark = pytest.mark.mysql
Importing = Callable[..., tuple[int, str, str]]
FIRST = """\
CRON_TZ=Europe/Berlin
30 2 * * * backup --all
*/5 * * * * poll
0 * * * * poll
@daily report
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ops"


@pytest.fixture
def importing(
    file: Path, users: dict[str, str], redis_url: str, database: Database,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> Importing:  # fmt: skip
    """Writes the file and imports it, as the user of the command; its exit code, stdout and stderr."""
    monkeypatch.setenv("CLOCKJACK_DATABASE_URL", users["producer"])
    monkeypatch.setenv("CLOCKJACK_REDIS_URL", redis_url)

    def run(text: str, *options: str) -> tuple[int, str, str]:
        file.write_text(text)
        code = cli.run(["import", "crontab", str(file), *options])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def table(database: Database, state: str = "active") -> dict[str, Any]:
    found = select(database, "SELECT * FROM tasks WHERE state = :s ORDER BY id", s=state)
    return {row["name"]: row for row in found}


def test_each_entry_is_a_task_of_the_handler_command(importing: Importing, database: Database) -> None:
    code, out, err = importing(FIRST, "--queue", "ops", "--timeout", "600")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "4 added, 0 changed, 0 unchanged, 0 removed"
    row = table(database)["backup --all"]
    assert (row["handler"], row["queue"], row["cron"], row["timezone"]) == (
        "command", "ops", "30 2 * * *", "Europe/Berlin",
    )  # fmt: skip
    assert (row["timeout_s"], row["max_failures"], row["tags"]) == (600, 1, "crontab")
    name = json.loads(row["payload"])["command"]
    assert row["task_key"] == f"crontab/ops/{name}"
    keys = [r["task_key"] for r in select(database, "SELECT task_key FROM tasks WHERE name = 'poll' ORDER BY id")]
    assert keys[1] == f"{keys[0]}#2"


def test_it_is_kept_in_step_with_the_file(importing: Importing, database: Database) -> None:
    importing(FIRST)
    before = table(database)
    events = len(select(database, "SELECT id FROM task_events"))
    assert importing(FIRST)[1] == "0 added, 0 changed, 4 unchanged, 0 removed\n"
    assert len(select(database, "SELECT id FROM task_events")) == events
    second = FIRST.replace("30 2", "45 3").replace("@daily report\n", "@weekly sweep\n")
    code, out, _ = importing(second)
    assert code == 0
    words = [line.split()[0] for line in out.splitlines()]
    assert words == ["added", "changed", "removed", "1"]
    after = table(database)
    assert (after["backup --all"]["cron"], after["backup --all"]["id"]) == ("45 3 * * *", before["backup --all"]["id"])
    assert after["poll"]["version"] == before["poll"]["version"]
    assert set(after) == {"backup --all", "poll", "sweep"}
    assert set(table(database, "cancelled")) == {"report"}
    assert importing(FIRST)[1].splitlines()[-1] == "1 added, 1 changed, 2 unchanged, 1 removed"
    assert table(database)["report"]["id"] == before["report"]["id"]


def test_other_tables_tasks_and_namespaces_are_left_alone(importing: Importing, database: Database) -> None:
    importing(FIRST, "--name", "other")
    importing(FIRST, "--name", "ops2")
    importing(FIRST, "--namespace", "shop")
    sql(database, "INSERT INTO tasks (handler, every_s, task_key) VALUES ('mock', 60, 'crontab')")
    assert importing("", "--name", "ops")[1] == "0 added, 0 changed, 0 unchanged, 0 removed\n"
    assert importing("", "--name", "other")[1].splitlines()[-1] == "0 added, 0 changed, 0 unchanged, 4 removed"
    assert len(select(database, "SELECT id FROM tasks WHERE state = 'active'")) == 9


def test_a_paused_entry_stays_paused(importing: Importing, database: Database) -> None:
    importing(FIRST)
    sql(database, "UPDATE tasks SET state = 'paused' WHERE name = 'report'")
    assert importing(FIRST)[0] == 0
    assert set(table(database, "paused")) == {"report"}


def test_a_dry_run_says_the_same_and_changes_nothing(importing: Importing, database: Database) -> None:
    _, out, _ = importing(FIRST, "--dry-run")
    assert out.splitlines()[-1] == "4 would be added, 0 would be changed, 0 would be unchanged, 0 would be removed"
    assert select(database, "SELECT id FROM tasks") == []
    importing(FIRST)
    before = select(database, "SELECT * FROM tasks")
    _, out, _ = importing("@daily report\n", "--dry-run", "--json")
    said = json.loads(out)
    assert (said["dry_run"], len(said["changed"]), len(said["removed"])) == (True, 1, 3)  # its zone is another
    assert select(database, "SELECT * FROM tasks") == before


def test_bad_lines_are_named_with_their_file_and_nothing_is_changed(
    importing: Importing, file: Path, database: Database
) -> None:
    importing(FIRST)
    before = select(database, "SELECT * FROM tasks")
    bad = "0 25 * * * late\n@reboot x\n* * * * * fine\n* * * *\nCRON_TZ=Mars/Base\n0 0 * * * far\n"
    code, out, err = importing(bad)
    assert (code, out) == (2, "")
    lines = err.splitlines()
    assert [line.removeprefix("clockjack: ").split(": ")[0] for line in lines] == [f"{file}:{n}" for n in (1, 2, 4, 6)]
    assert "cron" in lines[0]
    assert "Mars/Base" in lines[3]
    assert lines[3].endswith("nothing was changed")
    assert select(database, "SELECT * FROM tasks") == before


def test_a_file_that_cannot_be_read_is_one_line(importing: Importing, file: Path, capsys: Any) -> None:
    assert cli.run(["import", "crontab", str(file / "none")]) == 2
    assert "No such file" in capsys.readouterr().err or "Not a directory" in capsys.readouterr().err
    file.write_bytes(b"\xff\n")
    assert cli.run(["import", "crontab", str(file)]) == 2
    assert "UTF-8" in capsys.readouterr().err


def test_commands_are_what_consumers_are_to_allow(importing: Importing, database: Database) -> None:
    code, out, _ = importing("PATH=/bin\n" + FIRST, "--commands")
    allowed = json.loads(out)
    assert code == 0
    assert select(database, "SELECT id FROM tasks") == []
    importing("PATH=/bin\n" + FIRST)
    named = {json.loads(row["payload"])["command"] for row in select(database, "SELECT payload FROM tasks")}
    assert named == set(allowed)
    [backup] = [value for name, value in allowed.items() if name.startswith("backup-")]
    assert backup == {"argv": ["/bin/sh", "-c", "backup --all"], "env": {"PATH": "/bin"}}
