"""Sentences about tasks and their runs, and what moved an occurrence."""

# ruff: noqa: E501
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clockjack import explaining, phrases, shifts
from clockjack.ledger.history import History
from clockjack.ledger.tasks import DEFAULTS, EDITABLE, SCHEDULE
from clockjack.schedules import Schedule, occurrences, unmoved

BERLIN = "Europe/Berlin"
NOW = datetime(2027, 3, 27, 12)
SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(("seconds", "expected"), [
    (0, "0 ms"), (0.0004, "0 ms"), (0.35, "350 ms"), (1, "1 s"), (1.25, "1.2 s"), (9.99, "9.9 s"), (10, "10 s"), (59.9, "59 s"), (60, "1 min"),
    (303, "5 min 3 s"), (3600, "1 h"), (3603, "1 h"), (7800, "2 h 10 min"), (86_400, "1 day"), (273_600, "3 days 4 h"), (31_536_000, "365 days"),
])  # fmt: skip
def test_spans(seconds: float, expected: str) -> None:
    assert phrases.span(timedelta(seconds=seconds)) == expected


def test_lists_numbers_and_first_lines() -> None:
    assert [phrases.listed("abcdefg"[:n]) for n in (1, 2, 5, 7)] == [
        "a",
        "a and b",
        "a, b, c, d and e",
        "a, b, c, d and 3 more",
    ]
    assert [phrases.number(n, "run", 2000) for n in (1, 0, 1999, 2000)] == [
        "1 run",
        "0 runs",
        "1,999 runs",
        "2,000 runs or more",
    ]
    assert phrases.first_line("\n  ValueError: x  \n secret") == "ValueError: x"
    assert len(phrases.first_line("x" * 300)) == 200
    assert phrases.first_line(" \n") == ""


GAP, FOLD = "(02:00 becomes 03:00)", "(03:00 becomes 02:00)"
NOTES: list[tuple[dict[str, Any], datetime, list[list[str]]]] = [
    ({"cron": "30 2 * * *"}, datetime(2027, 3, 27, 12), [[f"2027-03-28 02:30 does not exist in {BERLIN} {GAP}: due at 03:00"], []]),
    ({"cron": "30 2 * * *", "dst_gap": "skip"}, datetime(2027, 3, 27, 12), [[f"2027-03-28 02:30 does not exist in {BERLIN} {GAP}: left out"], []]),
    ({"cron": "0,30 2,3 * * *"}, datetime(2027, 3, 27, 12), [[f"2027-03-28 02:00 and 02:30 do not exist in {BERLIN} {GAP}: due once, at 03:00"], []]),
    ({"cron": "15 30 2 * * *"}, datetime(2027, 3, 27, 12), [[f"2027-03-28 02:30:15 does not exist in {BERLIN} {GAP}: due at 03:00:15"]]),
    ({"cron": "*/30 * * * *"}, datetime(2027, 3, 28, 0, 40), [[f"2027-03-28 02:00 and 02:30 do not exist in {BERLIN} {GAP}: left out"], []]),
    ({"run_at_local": datetime(2027, 3, 28, 2, 30)}, datetime(2027, 3, 1), [[f"2027-03-28 02:30 does not exist in {BERLIN} {GAP}: due at 03:00"]]),
    ({"rrule": "FREQ=DAILY;BYHOUR=2;BYMINUTE=30", "start_at": datetime(2027, 3, 1)}, datetime(2027, 3, 27, 12), [[f"2027-03-28 02:30 does not exist in {BERLIN} {GAP}: due at 03:00"], []]),
    ({"cron": "30 2 * * *"}, datetime(2027, 10, 30, 12), [[f"2027-10-31 02:30 comes twice in {BERLIN} {FOLD}: due the first time only"], []]),
    ({"cron": "30 2 * * *", "dst_fold": "last"}, datetime(2027, 10, 30, 12), [[f"2027-10-31 02:30 comes twice in {BERLIN} {FOLD}: due the second time only"], []]),
    ({"cron": "30 2 * * *", "dst_fold": "both"}, datetime(2027, 10, 30, 12), [[f"2027-10-31 02:30 comes twice in {BERLIN} {FOLD}: this is the {n} time"] for n in ("first", "second")]),
    ({"cron": "0 9 * * *", "exclude": ("2027-03-28/2027-03-30",)}, NOW, [["exclude leaves out 3 occurrences before it (2027-03-28 to 2027-03-30)"], []]),
    ({"every_s": 3600, "start_at": NOW}, NOW, [[], []]),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "after", "expected"), NOTES)
def test_notes(fields: dict[str, Any], after: datetime, expected: list[list[str]]) -> None:
    schedule = Schedule(**fields, timezone=BERLIN)
    dues = list(occurrences(schedule, after, count=len(expected)))
    assert [shifts.notes(schedule, due, before) for before, due in pairwise([after, *dues])] == expected


def test_a_note_on_jitter_and_the_clocks_together() -> None:
    schedule = Schedule(cron="30 2 * * *", timezone=BERLIN, jitter_s=600, seed="4")
    due = next(occurrences(schedule, NOW))
    clocks, jitter = shifts.notes(schedule, due, NOW)
    assert clocks.endswith("due at 03:00")
    assert jitter == f"jitter moved it by {phrases.span(due - datetime(2027, 3, 28, 1))}"


@settings(max_examples=40, deadline=None)
@given(
    cron=st.sampled_from(["* * * * *", "*/7 * * * *", "30 2 * * *", "* 2 * * *", "0 0 1 * *"]),
    jitter_s=st.sampled_from([0, 1, 90, 86_400]),
    seed=st.text("abc", max_size=3),
    exclude=st.sampled_from([None, ("2027-03-29",)]),
)
def test_jitter_is_taken_back_and_counts_are_exact(cron: str, jitter_s: int, seed: str, exclude: Any) -> None:
    schedule = Schedule(cron=cron, timezone=BERLIN, jitter_s=jitter_s, seed=seed, exclude=exclude)
    plain = list(occurrences(replace(schedule, jitter_s=0), NOW, count=30))
    moved = [due for due in occurrences(schedule, NOW, count=31) if unmoved(schedule, due) > NOW][:30]
    assert [unmoved(schedule, due) for due in moved] == plain[: len(moved)]
    for n in (1, 2, len(moved) - 1):
        assert shifts.count(schedule, moved[0], moved[n]) == n
    assert shifts.count(schedule, moved[0], moved[5], most=3) == 3


def a_task(**fields: Any) -> dict[str, Any]:
    return {
        **dict.fromkeys((*SCHEDULE, *EDITABLE, "task_key", "group_key", "offset_s", "error", "missed_since", "next_run_at")), **DEFAULTS,
        "id": 7, "state": "active", "seen_state": "active", "version": 1, "schedule_version": 1, "seen_schedule_version": 1, "runs_claimed": 0,
        "created_at": NOW, "updated_at": NOW, **fields,
    }  # fmt: skip


def explained(task: dict[str, Any], *warnings: str) -> dict[str, Any]:
    return explaining.explain(History(NOW, task, [], [], []), warnings)


def test_the_schedule_and_every_policy_in_sentences() -> None:
    found = explained(a_task(
        cron="30 2 * * *", timezone=BERLIN, misfire="all", max_misfires=5, max_lateness_s=5400, overlap="queue_one", max_runs=20, runs_claimed=19,
        pause_after_failures=3, group_key="event:7", offset_s=-3600, jitter_s=60, exclude='["2027-12-25"]', next_run_at=datetime(2027, 3, 28, 1),
    ), "no consumer")  # fmt: skip
    assert found["schedule"] == [
        "At 02:30 (Europe/Berlin), except on 2027-12-25, each moved by less than 1 minute.",
        "When clocks change, what falls into a skipped hour runs right after it; what falls into a repeated one runs the first time.",
        "Occurrences that were missed (claimed more than 10 s after they were due) all run, late, up to 5 in a row; the others are skipped.",
        "One that would begin more than 1 h 30 min late is skipped.",
        "A run that is to begin while another has not ended waits for it; one waits, any more are skipped.",
        "At most 20 occurrences run; 19 had a run so far.",
        "After 3 failed runs in a row it pauses by itself.",
        "It belongs to the group 'event:7', 1 h before its anchor.",
    ]
    assert len(found["next"]) == 1
    assert found["warnings"][0] == "no consumer"
    assert found["warnings"][1].startswith("clocks in Europe/Berlin change on 2027-03-28")


@pytest.mark.parametrize(("policies", "says"), [
    ({}, "If it cannot run in time, it runs late, however late that is."),
    ({"misfire": "skip"}, "If it is claimed more than 10 s after it was due, it is skipped."),
    ({"max_lateness_s": 60}, "If it would begin more than 1 min late, it is skipped."),
])  # fmt: skip
def test_a_task_for_one_time(policies: dict[str, Any], says: str) -> None:
    found = explained(a_task(run_at=NOW - SECOND, next_run_at=NOW - SECOND, **policies))
    assert found["schedule"] == ["Once, at 2027-03-27 11:59:59 UTC.", says]
    assert found["next"] == [
        {"utc": "2027-03-27T11:59:59Z", "local": "2027-03-27T11:59:59+00:00", "note": "due 1 s ago"}
    ]


def test_a_schedule_that_cannot_be_used() -> None:
    found = explained(a_task(cron="61 * * * *", state="invalid", seen_state="invalid", error="cron: '61' is no minute"))
    assert found["schedule"][0].startswith("Its schedule cannot be used: cron: '61' is no minute")
    assert found["state"] == ["It is invalid: cron: '61' is no minute.", "It is not due any more: it is invalid."]
    assert found["next"] == []
