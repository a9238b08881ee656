"""The benchmarks' own arithmetic and its page: what they measure needs servers and a quiet machine, this does not."""

import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.bench import doors, report, side_by_side
from tests.bench.__main__ import SCENARIOS
from tests.bench.load import _backlog, holds
from tests.bench.measure import Lines, lateness
from tests.bench.plots import bars
from tests.bench.side_by_side import Round
from tests.bench.systems import HERE, SYSTEMS

ROUNDS = {
    "clockjack": [Round(9_000.0, 111.0, 16.0), Round(10_000.0, 100.0, 16.0), Round(11_000.0, 90.0, 16.0)],
    "bullmq": [Round(4_000.0, 250.0, 16.0)] * 3,
}


def test_percentiles_are_values_that_were_measured() -> None:
    assert lateness(us * 1000 for us in range(1, 1001)) == (500.0, 990.0, 999.0, 1000.0)
    assert lateness([7000]) == (7.0, 7.0, 7.0, 7.0)
    assert all(math.isnan(value) for value in lateness([]))


def test_lines_are_counted_as_they_come(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "effects")
    assert lines.more() == 0
    lines.path.write_text("one\ntw")
    assert lines.more() == 1
    with open(lines.path, "a") as file:
        file.write("o\nthree\n")
    assert lines.more() == 3
    assert not lines.reach(4, 0)


def test_the_backlog_is_what_was_due_and_had_not_begun() -> None:
    assert _backlog([10, 20, 30], [12, 35], 30) == 2
    assert _backlog([10, 20, 30], [12, 21, 35], 40) == 0


@pytest.mark.parametrize(("p99", "half", "end", "does"), [(900, 0, 50, True), (1100, 0, 0, False), (9, 50, 200, False)])
def test_a_rate_holds_without_a_growing_backlog(p99: float, half: int, end: int, does: bool) -> None:
    one: dict[str, Any] = {"rate": 1_000, "lateness_ms": {"p99": p99}}
    assert holds(one | {"backlog_half_way": half, "backlog_at_the_end": end}) is does


def test_the_json_of_the_side_by_side_run() -> None:
    assert side_by_side.as_json(ROUNDS, ["clockjack"]) == {
        "clockjack": {
            "rate_per_s": [9_000.0, 10_000.0, 11_000.0],
            "max_lateness_ms": [111.0, 100.0, 90.0],
            "durable": True,
        }
    }
    assert {s.name for s in SYSTEMS if not s.aside} == {
        "clockjack",
        "bullmq",
        "celery",
        "dramatiq",
        "rq",
        "apscheduler",
    }


def test_the_table_compares_medians() -> None:
    table = side_by_side.table(ROUNDS, 10_000)
    assert "| clockjack | yes | 3 | 10,000 | 9,000 to 11,000 | due + 100 ms |  |" in table
    assert "| bullmq | no | 3 | 4,000 | 4,000 to 4,000 | due + 250 ms | 2.50 × |" in table


def test_every_scenario_has_its_place_on_the_page() -> None:
    page = report.PAGE.read_text()
    assert set(SCENARIOS) == set(report.BLOCKS)
    for name in SCENARIOS:
        once = report.between(page, name, "measured")
        assert report.between(once, name, "again").count("again") == page.count("again") + 1
    with pytest.raises(KeyError):
        report.between(page, "nothing", "x")


def test_plots_are_well_formed() -> None:
    root = ElementTree.fromstring(bars("a < b", [("clockjack", 10.0), ("peer & co", 0.0)], "/s"))
    assert len(root.findall(".//{*}rect")) == 2


def test_what_is_installed_is_pinned_and_the_page_says_so() -> None:
    for file in (HERE / "peers").glob("*.txt"):
        pinned = dict(line.lower().split("==") for line in file.read_text().split())
        assert f"| {file.stem} | {pinned[file.stem]}" in report.PAGE.read_text()


def test_a_system_that_cannot_be_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tests.bench.installing.shutil.which", lambda name: None)
    assert set(side_by_side.install(s for s in SYSTEMS if s.name in ("clockjack", "bullmq"))) == {"clockjack"}
    assert "bullmq is left out: node and npm are not on this machine" in capsys.readouterr().err


def test_modules_stay_small() -> None:
    for path in HERE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 300, path


def test_doors_are_compared_by_medians() -> None:
    def measured(rate: float, p50_ms: float) -> doors.Measured:
        return doors.Measured(rate, p50_ms, 9.0, 100)

    by_name = {door.name: door for door in doors.DOORS}
    figures = {"sql": (1_000, 1.0), "http": (400, 3.1), "http-100": (9_000, 9.0), "bullmq-100": (8_000, 10.0)}
    played = {
        by_name[name]: {n: [measured(rate, p50), measured(rate, p50), measured(1, 99)] for n in doors.CONCURRENCIES}
        for name, (rate, p50) in figures.items()
    }
    assert doors.verdicts(played) == [
        "p50 of POST /v1/tasks at 1: 3.10 x that of INSERT and COMMIT, 3 allowed: falls short",
        "tasks/s of POST /v1/tasks/bulk of 100 at 1: 1.12 x BullMQ's addBulk, 1 wanted: holds",
        "tasks/s of POST /v1/tasks/bulk of 100 at 32: 1.12 x BullMQ's addBulk, 1 wanted: holds",
    ]
    assert "| http-100 | POST /v1/tasks/bulk | 100 | yes | 9,000 | 9.00 | 9.00 | 9,000 |" in doors.table(played)
    told = doors.as_json(played)["bullmq-100"]
    assert (told["durable"], told["by_concurrency"]["32"]["rate_per_s"]) == (False, [8_000, 8_000, 1])
