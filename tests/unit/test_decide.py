"""The decision for a due task: every occurrence has exactly one row, runs only where the policy allows, in few claims.

The decision is stepped as the claim does it: rows and the task are dictionaries here, moved on by each Step.
"""

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clockjack.ledger.decide import ON_TIME, Step, decide, ran_before
from clockjack.ledger.tasks import schedule_of
from clockjack.schedules import first, next_after, occurrences

T0 = datetime(2027, 3, 27, 12, 0, 0)  # the night after next, clocks in Berlin change
AHEAD = timedelta(seconds=5)
BLANK: dict[str, Any] = {
    "id": 7,
    "state": "active",
    "run_at": None,
    "run_at_local": None,
    "cron": None,
    "every_s": None,
    "rrule": None,
    "timezone": "UTC",
    "start_at": None,
    "end_at": None,
    "max_runs": None,
    "exclude": None,
    "jitter_s": 0,
    "dst_gap": "run_after",
    "dst_fold": "first",
    "misfire": "once",
    "max_misfires": 100,
    "max_lateness_s": None,
    "runs_claimed": 0,
    "misfires_claimed": 0,
    "missed_since": None,
    "created_at": T0,
}


def s(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


def new(**columns: Any) -> dict[str, Any]:
    """A task as a registration at T0 leaves it, unless `columns` say otherwise."""
    task = BLANK | columns
    if "next_run_at" not in task:
        schedule = schedule_of(task)
        task["next_run_at"] = first(schedule) if schedule.once else next_after(schedule, T0)
    return task


class Ledger:
    """One task, its rows (due_at: what, until, claimed at), and claims of it at any moment."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.task = task
        self.rows: dict[datetime, tuple[str, datetime | None, datetime]] = {}

    def due(self, now: datetime) -> bool:
        stored = self.task["next_run_at"]
        return stored is not None and stored <= now + AHEAD

    def claim(self, now: datetime) -> Step:
        task, step = self.task, decide(self.task, now)
        assert step.invalid is None, step.invalid
        if step.ready and self.rows.get(task["next_run_at"], ("paused",))[0] == "paused":
            self.rows[task["next_run_at"]] = ("run", None, now)
        elif step.ready:
            ran_before(step)  # it is adopted and does not run again
        if step.closes is not None:
            self._close(step.closes)
        if step.skip:
            assert step.skip.due_at not in self.rows or task["run_at"], "an occurrence has two rows"
            self.rows.setdefault(step.skip.due_at, (step.skip.reason, step.skip.until, now))
        task["next_run_at"], task["missed_since"] = step.goes_to, step.missed_since
        task["runs_claimed"] += step.counts
        task["misfires_claimed"] = task["misfires_claimed"] + 1 if step.misfired else 0
        return step

    def _close(self, until: datetime | None) -> None:
        reason, open_until, at = self.rows[self.task["missed_since"]]
        if reason == "paused":
            assert open_until is None
            self.rows[self.task["missed_since"]] = (reason, until, at)

    def settle(self, now: datetime) -> list[Step]:
        """The steps until the task is not due any more."""
        steps = []
        while self.due(now):
            steps.append(self.claim(now))
            assert len(steps) <= 40 + self.task["max_misfires"], "the claim does not settle"
        return steps

    def covered(self, moment: datetime) -> int:
        """How many rows speak for this occurrence."""
        count = 0
        for due_at, (_, until, _) in self.rows.items():
            is_open = self.task["missed_since"] == due_at and self.task["state"] == "paused"
            end = until or (datetime.max if is_open else due_at + s(1e-6))
            count += due_at <= moment < end
        return count

    @property
    def runs(self) -> list[datetime]:
        return sorted(due for due, row in self.rows.items() if row[0] == "run")


kinds = st.one_of(
    st.builds(
        lambda n, ahead: {"every_s": n, "start_at": T0 + s(ahead)}, st.sampled_from([7, 60, 601]), st.integers(0, 99)
    ),
    st.builds(
        lambda text, zone: {"cron": text, "timezone": zone},
        st.sampled_from(["* * * * *", "*/5 * * * *", "30 2 * * *", "*/40 * * * * *", "0 0-4 * * *"]),
        st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe"]),
    ),
    st.builds(lambda n: {"run_at": T0 + s(n)}, st.integers(1, 90_000)),
)
policies = st.fixed_dictionaries(
    {
        "misfire": st.sampled_from(["skip", "once", "all"]),
        "max_misfires": st.integers(1, 5),
        "max_lateness_s": st.sampled_from([None, None, 3, 60, 1800]),
        "max_runs": st.sampled_from([None, None, None, 1, 9]),
        "end_at": st.sampled_from([None, None, T0 + s(50_000)]),
    }
)
gaps = st.one_of(st.floats(0.2, 12), st.floats(12, 4_000), st.floats(4_000, 40_000))
changes = st.sampled_from(["", "", "", "", "pause", "pause", "resume", "resume", "catch_up"])


def change(task: dict[str, Any], what: str, now: datetime) -> None:
    """What the documented UPDATEs of plain SQL do."""
    if what == "pause" and task["state"] == "active":
        task["state"] = "paused"
    elif what == "resume" and task["state"] == "paused":
        task |= {"state": "active", "next_run_at": task["run_at"] or now}
    elif what == "catch_up" and task["state"] == "paused":
        task |= {"state": "active", "next_run_at": task["missed_since"] or task["run_at"] or now}


@settings(max_examples=400, deadline=None)
@given(kinds, policies, st.lists(st.tuples(gaps, changes, st.booleans()), min_size=1, max_size=10))
def test_every_occurrence_has_exactly_one_row(
    kind: dict[str, Any], policy: dict[str, Any], story: list[tuple[float, str, bool]]
) -> None:
    if "run_at" in kind:
        policy = policy | {"end_at": None}
    task = new(**kind, **policy, next_run_at=kind.get("run_at", T0))
    ledger = Ledger(task)
    ledger.settle(T0)
    now = T0
    for gap_s, what, seen_before in story:
        now += timedelta(microseconds=int(gap_s * 1e6))
        if seen_before:  # else the change comes before any dispatcher saw what is due
            late_runs(ledger, now)
        change(task, what, now)
        late_runs(ledger, now)
    schedule, runs = schedule_of(task), ledger.runs
    over = task["max_runs"] is not None and len(runs) >= task["max_runs"]
    for moment in occurrences(schedule, T0 - s(1), until=min(now + AHEAD, runs[-1]) if over else now + AHEAD):
        # plain SQL that resumes before a dispatcher has seen what was due says itself from when on to look
        assert ledger.covered(moment) == 1 or (ledger.covered(moment) == 0 and moment < passed_by(story, now)), moment
    assert all(due <= now + AHEAD for due in ledger.rows)


def passed_by(story: list[tuple[float, str, bool]], now: datetime) -> datetime:
    """Up to when a resume by plain SQL may have passed over what no dispatcher had seen."""
    at, latest = T0, T0 - s(2)
    for gap_s, what, seen_before in story:
        at += timedelta(microseconds=int(gap_s * 1e6))
        if what in ("resume", "catch_up") and not seen_before:
            latest = at
    return latest


def late_runs(ledger: Ledger, now: datetime) -> None:
    """The task is settled at `now`, and what ran late was allowed to."""
    task = ledger.task
    before = set(ledger.runs)
    steps = ledger.settle(now)
    late = [now - due for due in set(ledger.runs) - before if now - due > ON_TIME]
    assert len(late) <= {"skip": 0, "once": 1, "all": task["max_misfires"]}[task["misfire"]]
    if task["max_lateness_s"] is not None:
        assert all(now - due <= s(task["max_lateness_s"]) for due in set(ledger.runs) - before)
    if task["state"] == "paused":
        assert set(ledger.runs) == before
    assert len(steps) <= sum(step.ready for step in steps) + 4


@pytest.mark.parametrize("misfire", ["skip", "once"])
def test_a_year_of_every_second_costs_as_many_claims_as_a_minute(misfire: str) -> None:
    counts = []
    for outage_s in (60, 365 * 86_400):
        ledger = Ledger(new(every_s=1, start_at=T0, misfire=misfire))
        ledger.settle(T0)
        counts.append(len(ledger.settle(T0 + s(outage_s))))
    assert counts[0] == counts[1] <= 18  # the 16 of the last 10 s and the next 5, and what was missed


def outage(**columns: Any) -> Ledger:
    """A task of every minute, away from T0 for an hour and 30 s."""
    ledger = Ledger(new(every_s=60, start_at=T0, next_run_at=T0, **columns))
    ledger.settle(T0)
    ledger.settle(T0 + s(3630))
    return ledger


def shown(ledger: Ledger) -> list[tuple[float, str, float | None]]:
    """The rows in s since T0."""
    return [
        ((due - T0).total_seconds(), row[0], row[1] and (row[1] - T0).total_seconds())
        for due, row in sorted(ledger.rows.items())
    ]


def test_skip_is_one_row() -> None:
    assert shown(outage(misfire="skip")) == [(0, "run", None), (60, "misfire", 3660)]


def test_once_is_the_first_and_one_row() -> None:
    assert shown(outage(misfire="once")) == [(0, "run", None), (60, "run", None), (120, "misfire", 3660)]


def test_all_runs_as_many_as_the_cap_says() -> None:
    ran = [(60.0 * i, "run", None) for i in range(61)]
    assert shown(outage(misfire="all")) == ran
    assert shown(outage(misfire="all", max_misfires=60)) == ran
    assert shown(outage(misfire="all", max_misfires=59)) == [*ran[:-1], (3600, "misfire", 3660)]
    assert shown(outage(misfire="all", max_misfires=1)) == [*ran[:2], (120, "misfire", 3660)]


def test_the_cap_counts_anew_after_work_on_time() -> None:
    ledger = outage(misfire="all", max_misfires=2)
    ledger.settle(T0 + s(3660))
    ledger.settle(T0 + s(3660 + 630))
    assert ledger.runs[-2:] == [T0 + s(3720), T0 + s(3780)]
    assert ledger.task["misfires_claimed"] == 0


def test_too_late_comes_before_misfire() -> None:
    assert shown(outage(misfire="all", max_lateness_s=100)) == [
        (0, "run", None),
        (60, "too_late", 3540),
        (3540, "run", None),
        (3600, "run", None),
    ]
    assert shown(outage(misfire="once", max_lateness_s=100))[1:] == [
        (60, "too_late", 3540),
        (3540, "run", None),
        (3600, "misfire", 3660),
    ]
    assert shown(outage(misfire="skip", max_lateness_s=100))[1:] == [(60, "too_late", 3540), (3540, "misfire", 3660)]


def test_max_lateness_of_less_than_10_s_counts_also_for_what_is_on_time() -> None:
    ledger = Ledger(new(every_s=60, start_at=T0, next_run_at=T0, max_lateness_s=3))
    ledger.settle(T0 + s(4))
    assert shown(ledger) == [(0, "too_late", 60)]
    ledger.settle(T0 + s(63))
    assert ledger.runs == [T0 + s(60)]


def test_the_last_10_s_are_on_time_to_the_microsecond() -> None:
    for misfire, late_by, rows in (("skip", 10.0, "run"), ("skip", 10.000001, "misfire")):
        ledger = Ledger(new(every_s=60, start_at=T0, next_run_at=T0, misfire=misfire))
        ledger.settle(T0 + s(late_by))
        assert ledger.rows[T0][0] == rows


def test_what_is_missed_and_not_run_does_not_count_as_one_of_max_runs() -> None:
    ledger = outage(misfire="skip", max_runs=3)
    for i in range(61, 70):
        ledger.settle(T0 + s(60 * i))
    assert ledger.runs == [T0, T0 + s(3660), T0 + s(3720)]
    assert ledger.task["next_run_at"] is None


def test_the_end_of_a_schedule_closes_its_range_at_the_moment() -> None:
    ledger = Ledger(new(every_s=60, start_at=T0, end_at=T0 + s(300), misfire="skip", next_run_at=T0))
    ledger.settle(T0 + s(3600))
    assert shown(ledger) == [(0, "misfire", 3600)]
    assert ledger.task["next_run_at"] is None


def test_a_task_that_came_paused_or_was_changed_while_paused_has_its_row_too() -> None:
    ledger = Ledger(new(cron="0 * * * *", next_run_at=T0 + s(5), state="paused"))
    for hour in range(5):
        ledger.settle(T0 + s(3600 * hour + 6))
    assert shown(ledger) == [(3600, "paused", None)]
    change(ledger.task, "resume", T0 + s(4 * 3600 + 60))
    ledger.settle(T0 + s(4 * 3600 + 60))
    assert shown(ledger) == [(3600, "paused", 5 * 3600)]


def test_resumed_exactly_at_an_occurrence_that_is_then_skipped_covers_nothing_twice() -> None:
    ledger = Ledger(new(every_s=60, start_at=T0, next_run_at=T0, misfire="skip", state="paused"))
    ledger.settle(T0)
    change(ledger.task, "resume", T0 + s(600))
    ledger.settle(T0 + s(670))  # no dispatcher was there for a minute
    assert shown(ledger) == [(0, "paused", 600), (600, "misfire", 660), (660, "run", None)]


@pytest.mark.parametrize("columns", [{"misfire": "skip"}, {"max_lateness_s": 60}])
def test_catching_up_with_nothing_that_may_run_closes_the_range_of_the_pause(columns: dict[str, Any]) -> None:
    ledger = Ledger(new(every_s=600, start_at=T0, next_run_at=T0, state="paused", **columns))
    ledger.settle(T0)
    change(ledger.task, "catch_up", T0 + s(1500))
    ledger.settle(T0 + s(1500))
    assert shown(ledger) == [(0, "paused", 1800)]


def test_paused_is_stronger_than_late() -> None:
    ledger = Ledger(new(every_s=60, start_at=T0, next_run_at=T0, state="paused", misfire="skip", max_lateness_s=5))
    ledger.settle(T0 + s(3600))
    assert shown(ledger) == [(0, "paused", None)]
    assert ledger.task["missed_since"] == T0


@pytest.mark.parametrize("state", ["cancelled", "invalid"])
def test_what_is_over_goes_nowhere(state: str) -> None:
    ledger = Ledger(new(every_s=60, start_at=T0, next_run_at=T0, state=state))
    ledger.settle(T0 + s(3600))
    assert (shown(ledger), ledger.task["next_run_at"]) == ([], None)
