"""What the simulation says: literal cases. That production does the same is tests/integration's to show."""

# ruff: noqa: E501
import json
import subprocess
import sys
from datetime import datetime, timedelta
from typing import Any

import pytest

from clockjack import cli, registration, trial
from clockjack.registration import Refused
from clockjack.simulation import together

NOON = datetime(2027, 3, 27, 12)
WINDOW = {"from": "2027-03-27T12:00:00Z", "to": "2027-03-27T13:00:00Z"}
OUT = {"outages": [{"from": "2027-03-27T12:15:00Z", "to": "2027-03-27T12:45:00Z"}]}
TEN = WINDOW | {"cron": "*/10 * * * *"}


def told(**fields: Any) -> dict[str, Any]:
    return trial.of_schedule(registration.read(trial.Trial, fields), NOON, 10_000)


def brief(found: dict[str, Any]) -> list[str]:
    return [f"{row['utc'][11:16]} {row['what']}" for row in found["rows"]]


def test_nothing_happens() -> None:
    found = told(**TEN)
    assert brief(found) == [f"{hour} runs" for hour in ("12:10", "12:20", "12:30", "12:40", "12:50", "13:00")]
    assert {row["why"] for row in found["rows"]} == {""}
    assert found["summary"] == "6 occurrences: 6 run (6 on time), none is skipped"


@pytest.mark.parametrize(("policies", "expected", "summary"), [
    ({}, ["12:20 runs late", "12:30 skipped"], "6 occurrences: 4 run (3 on time, 1 late), 2 skipped (2 misfire); 1 outage"),
    ({"misfire": "skip"}, ["12:20 skipped"], "6 occurrences: 3 run (3 on time), 3 skipped (3 misfire); 1 outage"),
    ({"misfire": "all"}, ["12:20 runs late", "12:30 runs late", "12:40 runs late"], "6 occurrences: 6 run (3 on time, 3 late), none is skipped; 1 outage"),
    ({"misfire": "all", "max_misfires": 2}, ["12:20 runs late", "12:30 runs late", "12:40 skipped"], "6 occurrences: 5 run (3 on time, 2 late), 1 skipped (1 misfire); 1 outage"),
    ({"misfire": "all", "max_lateness_s": 600}, ["12:20 skipped", "12:40 runs late"], "6 occurrences: 4 run (3 on time, 1 late), 2 skipped (2 too_late); 1 outage"),
    ({"misfire": "all", "overlap": "skip", "duration_s": 60}, ["12:20 runs late", "12:30 skipped", "12:40 skipped"], "6 occurrences: 4 run (3 on time, 1 late), 2 skipped (2 overlap); 1 outage"),
    ({"misfire": "all", "overlap": "queue_one", "duration_s": 60}, ["12:20 runs late", "12:30 waits, runs", "12:40 skipped"], "6 occurrences: 5 run (3 on time, 1 late, 1 after another), 1 skipped (1 overlap); 1 outage"),
    ({"misfire": "all", "overlap": "replace", "duration_s": 60}, ["12:20 replaced", "12:30 replaced", "12:40 runs late"], "6 occurrences: 6 run (3 on time, 1 late, 2 replaced), none is skipped; 1 outage"),
])  # fmt: skip
def test_an_outage(policies: dict[str, Any], expected: list[str], summary: str) -> None:
    found = told(**TEN, **OUT, **policies)
    assert brief(found) == ["12:10 runs", *expected, "12:50 runs", "13:00 runs"]
    assert found["summary"] == summary


def test_why() -> None:
    rows = told(**TEN, **OUT, misfire="all", overlap="queue_one", duration_s=60)["rows"]
    assert [row["why"] for row in rows[1:4]] == [
        "begins at 12:45, 25 min late: missed until then (misfire = all)",
        "begins at 12:46, 16 min late: waits for the run due 12:20 to end (overlap = queue_one)",
        "the run due 12:20 has not ended (overlap = queue_one)",
    ]
    assert (
        told(**TEN, **OUT, misfire="skip")["rows"][1]["why"]
        == "3 occurrences, to before 12:50, missed until 12:45 (misfire = skip)"
    )


def test_a_run_that_was_claimed_before_the_outage_begins_after_it() -> None:
    outages = [{"from": "2027-03-27T12:09:58Z", "to": "2027-03-27T12:11:00Z"}]
    row = told(**TEN, outages=outages)["rows"][0]
    assert (row["what"], row["why"]) == ("runs late", "begins at 12:11, 1 min late: claimed before the outage")
    row = told(**TEN, outages=outages, max_lateness_s=30)["rows"][0]
    assert (row["what"], row["reason"]) == ("skipped", "too_late")


def test_long_runs_in_their_own_way() -> None:
    found = told(**TEN, overlap="skip", duration_s=900)
    assert brief(found) == ["12:10 runs", "12:20 skipped", "12:30 runs", "12:40 skipped", "12:50 runs", "13:00 skipped"]
    found = told(**TEN, overlap="replace", duration_s=900)
    assert found["rows"][0]["why"] == "cancelled at 12:20, when the run due 12:20 begins"
    assert brief(found)[-2:] == ["12:50 replaced", "13:00 runs"]
    assert told(**TEN, overlap="skip", duration_s=600)["summary"] == "6 occurrences: 6 run (6 on time), none is skipped"


def test_clock_changes_are_said() -> None:
    found = told(
        cron="0,30 2 * * *", timezone="Europe/Berlin", **{"from": "2027-03-27T12:00:00Z", "to": "2027-03-28T12:00:00Z"}
    )
    assert len(found["rows"]) == 1
    assert found["rows"][0]["stands_for"] == 2
    assert (
        found["rows"][0]["why"]
        == "2027-03-28 02:00 and 02:30 do not exist in Europe/Berlin (02:00 becomes 03:00): due once, at 03:00"
    )
    assert found["summary"] == "1 occurrence: 1 run (1 on time), none is skipped; 1 merged by a clock change"


@pytest.mark.parametrize(("fields", "says"), [
    (TEN | {"to": "2027-03-27T12:00:00Z"}, "to: must be later than from"),
    (TEN | {"cron": "* * * * * *", "to": "2027-03-28T12:00:00Z"}, "to: more than 10,000 rows: ask for a shorter time"),
    (TEN | {"outages": [{"from": "2027-03-27T12:15:00Z", "to": "2027-03-27T12:10:00Z"}]}, "outages: an outage must end later than it begins"),
    (TEN | {"overlap": "maybe"}, "overlap: expected 'allow', 'skip', 'queue_one' or 'replace'"),
    (WINDOW, "run_at: give exactly one of"),
])  # fmt: skip
def test_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(Refused, match=says):
        told(**fields)


def test_outages_that_touch_are_one() -> None:
    hours = [NOON + n * timedelta(hours=1) for n in range(6)]
    assert together([(hours[3], hours[4]), (hours[0], hours[2]), (hours[1], hours[3])]) == [(hours[0], hours[4])]


def test_the_command_needs_no_server() -> None:
    argv = [
        sys.executable,
        "-m",
        "clockjack",
        "simulate",
        "*/10 * * * *",
        "--from",
        WINDOW["from"],
        "--to",
        WINDOW["to"],
    ]
    argv += ["--outage", "2027-03-27T12:15:00Z..2027-03-27T12:45:00Z", "--misfire", "skip", "--duration", "90s"]
    done = subprocess.run(argv, env={}, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "6 occurrences: 3 run (3 on time), 3 skipped (3 misfire); 1 outage"


def test_the_command_and_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    window = ["--from", WINDOW["from"], "--to", WINDOW["to"]]
    assert cli.run(["simulate", "--every", "600", *window, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 6
    for argv, says in (
        (["--outage", "x"], "--outage: expected A..B"),
        (["--duration", "x"], "--duration: expected seconds"),
        (["--misfire", "x"], "misfire: expected 'skip', 'once' or 'all'"),
        (["--task", "1"], "every_s: the schedule is the task's"),
        (["--from", "noon"], "from: expected RFC 3339"),
    ):
        assert cli.run(["simulate", "--every", "600", *argv]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert says in printed.err
        assert printed.err.count("\n") == 1
