"""H, jitter and exclude: literal facts, and what must hold for any schedule."""

import json
import random
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clockjack import exclusions, spread, zones
from clockjack.schedules import Schedule, ScheduleError, is_occurrence, next_after, validate
from tests.unit import cron_oracle, test_recurrence
from tests.unit.schedule_tables import fires, rows

OPEN = datetime(2026, 1, 1)
TICK = timedelta(microseconds=1)
SEEDS = [str(number) for number in range(500)]

# expression | what each field may show: second minute hour day month weekday (from Monday = 1) | how many choices
SLOTS = """
H * * * *            | 0 0-59 0-23 1-31 1-12 1-7        | 60
H H * * *            | 0 0-59 0-23 1-31 1-12 1-7        | 1440
H H H * *            | 0 0-59 0-23 1-28 1-12 1-7        | 40320
H H H H *            | 0 0-59 0-23 1-28 1-12 1-7        | 483840
H H * * H            | 0 0-59 0-23 1-31 1-12 1-7        | 10080
H(0-29) 3 * * *      | 0 0-29 3 1-31 1-12 1-7           | 30
0 H(22-23) * * *     | 0 0 22-23 1-31 1-12 1-7          | 2
0 0 H(10-12) * *     | 0 0 0 10-12 1-12 1-7             | 3
0 0 * * H(MON-FRI)   | 0 0 0 1-31 1-12 1-5              | 5
0 0 1 H(jan-mar) *   | 0 0 0 1 1-3 1-7                  | 3
H 0 0 * * *          | 0-59 0 0 1-31 1-12 1-7           | 60
H(5-5) 0 * * *       | 0 5 0 1-31 1-12 1-7              | 1
"""


@pytest.mark.parametrize(("cron", "shown", "choices"), rows(SLOTS))
def test_h_is_one_slot_in_its_range(cron: str, shown: str, choices: str) -> None:
    ranges = [range(int(text.split("-")[0]), int(text.split("-")[-1]) + 1) for text in shown.split()]
    slots = set()
    for seed in SEEDS:
        schedule = Schedule(cron=cron, seed=seed)
        validate(schedule)
        found = next_after(schedule, OPEN)
        assert found
        parts = (found.second, found.minute, found.hour, found.day, found.month, found.isoweekday())
        assert all(part in allowed for part, allowed in zip(parts, ranges, strict=True)), (seed, found)
        slots.add(parts[:3] if "H *" in cron and " * * *" in cron else found)
    assert len(slots) == int(choices) if int(choices) <= 60 else len(slots) > min(int(choices), 500) * 0.6


@pytest.mark.parametrize(("cron", "step", "count"), [
    ("H/15 * * * *", 15, 4), ("H/20 * * * *", 20, 3), ("H(0-29)/10 * * * *", 10, 3), ("H/7 * * * *", 7, 8),
    ("H/90 * * * *", 60, 1), ("H(10-20)/60 * * * *", 60, 1),
])  # fmt: skip
def test_h_with_a_step_begins_at_its_slot(cron: str, step: int, count: int) -> None:
    starts = set()
    for seed in SEEDS:
        hour = [at for at in fires(Schedule(cron=cron, seed=seed), OPEN - TICK, 70) if at < OPEN + timedelta(hours=1)]
        assert {later - earlier for earlier, later in pairwise(hour)} <= {timedelta(minutes=step)}
        assert count <= len(hour) <= count + 1
        starts.add(hour[0])
    assert len(starts) > 5


def test_each_field_has_a_slot_of_its_own_and_others_are_not_moved() -> None:
    pairs = {(at.minute, at.hour) for seed in SEEDS if (at := next_after(Schedule(cron="H H * * *", seed=seed), OPEN))}
    assert len(pairs) > 350
    assert sum(minute % 24 == hour for minute, hour in pairs) < 60
    for cron in ("0 9 * * THU", "@monthly", "0 9 1 MAR *"):
        assert len({next_after(Schedule(cron=cron, seed=seed), OPEN) for seed in SEEDS}) == 1


def test_slots_are_the_same_in_every_process() -> None:
    """Literal, for a task must not move when Clockjack is updated."""
    assert fires(Schedule(cron="H H * * *", seed="42"), OPEN, 1) == [datetime(2026, 1, 1, 18, 57)]
    assert spread.delay("42", OPEN, timedelta(hours=1)) == timedelta(minutes=40, seconds=47, milliseconds=140)
    script = "from clockjack import spread; print(spread.number('42', 'minute'))"
    printed = {subprocess.check_output([sys.executable, "-c", script], env={"PYTHONHASHSEED": s}) for s in ("1", "2")}
    assert printed == {f"{spread.number('42', 'minute')}\n".encode()}


def test_h_is_at_a_particular_time_as_its_number_is() -> None:
    """In the hour that Berlin skips: with a fixed slot right after it, with `*` not at all."""
    night = datetime(2026, 3, 29, 0, 30)
    fixed = Schedule(cron="H(30-31) 2 * * *", timezone="Europe/Berlin", seed="7")
    assert fires(fixed, night, 1) == [datetime(2026, 3, 29, 1)]
    every = Schedule(cron="H(30-31) * * * *", timezone="Europe/Berlin", seed="7")
    assert fires(every, night - timedelta(minutes=30), 2)[1] - datetime(2026, 3, 29, 1, 30) < timedelta(minutes=2)


# schedule without jitter, jitter_s, and how far an occurrence may move at most (seconds, exclusive)
@pytest.mark.parametrize(("plain", "jitter_s", "most"), [
    ({"cron": "0 9 * * *", "timezone": "Europe/Berlin"}, 3600, 3600),
    ({"cron": "* * * * *"}, 3600, 60),
    ({"cron": "* * * * * *"}, 86_400, 1),
    ({"every_s": 7, "anchor": OPEN}, 5, 5),
    ({"cron": "0,1 * * * *"}, 300, 300),
    ({"rrule": "FREQ=DAILY;BYHOUR=8,20", "start_at": OPEN}, 86_400, 43_200),
    ({"cron": "*/5 * * * *", "end_at": datetime(2026, 1, 1, 0, 30)}, 299, 299),
])  # fmt: skip
def test_jitter_stays_before_the_next_occurrence(plain: dict[str, Any], jitter_s: int, most: int) -> None:
    schedule = Schedule(**plain, jitter_s=jitter_s, seed="task")
    validate(schedule)
    without = fires(Schedule(**plain), OPEN, 60)
    moved = [at for at in fires(schedule, without[0] - TICK, 60) if at <= (schedule.end_at or at)]
    assert len(moved) == len(without)
    delays = [after - before for before, after in zip(without, moved, strict=True)]
    assert all(timedelta(0) <= delay < timedelta(seconds=most) for delay in delays)
    assert all(before < after for before, after in pairwise(moved))
    assert all(after < later for after, later in zip(moved, without[1:], strict=False))
    if most > 1:
        assert len(set(delays)) > len(delays) // 3
    assert moved != fires(Schedule(**plain, jitter_s=jitter_s, seed="other"), without[0] - TICK, len(moved))


def test_jitter_spreads_a_herd_evenly() -> None:
    delays = [next_after(Schedule(cron="0 9 * * *", jitter_s=600, seed=seed), OPEN) for seed in SEEDS]
    minutes = [sum(at.minute == minute for at in delays if at) for minute in range(10)]
    assert sum(minutes) == 500
    assert all(25 < number < 80 for number in minutes)


def test_jitter_of_one_time_tasks() -> None:
    at = datetime(2026, 5, 1, 12)
    for once in ({"run_at": at}, {"run_at_local": at}):
        schedule = Schedule(**once, jitter_s=60, seed="x")
        validate(schedule)
        (moved,) = fires(schedule, OPEN, 9)
        assert at <= moved < at + timedelta(seconds=60)
        assert is_occurrence(schedule, moved)


def test_jitter_does_not_pass_the_end_or_enter_an_excluded_date() -> None:
    late = Schedule(cron="59 23 * * *", jitter_s=86_400, exclude=("2026-01-02", "2026-01-04/2026-01-05"), seed="s")
    found = fires(late, OPEN, 20)
    assert found[0] < datetime(2026, 1, 2)
    assert not {at.date() for at in found} & {date(2026, 1, 2), date(2026, 1, 4), date(2026, 1, 5)}
    bounded = Schedule(run_at=datetime(2026, 5, 1), end_at=datetime(2026, 5, 1), jitter_s=600, seed="s")
    validate(bounded)
    assert fires(bounded, OPEN, 9) == [datetime(2026, 5, 1)]


# zone | cron | excluded | after (UTC) | what fires (UTC, without the year)
EXCLUDED = """
UTC           | 0 9 * * *   | 2026-12-25                       | 2026-12-24T00:00 | 12-24T09:00 12-26T09:00
UTC           | 0 9 * * *   | 2026-12-24/2027-01-01            | 2026-12-23T00:00 | 12-23T09:00 01-02T09:00
UTC           | 0 9 * * *   | 2026-12-24/2026-12-26 2026-12-25/2026-12-31 | 2026-12-23T12:00 | 01-01T09:00
UTC           | * * * * * * | 2026-12-24/2026-12-31            | 2026-12-23T23:59:58 | 12-23T23:59:59 01-01T00:00:00
Asia/Tokyo    | 0 8 * * *   | 2026-12-25                       | 2026-12-23T00:00 | 12-23T23:00 12-25T23:00
Europe/Berlin | 30 0 * * *  | 2026-07-01                       | 2026-06-29T12:00 | 06-29T22:30 07-01T22:30
Europe/Berlin | 30 2 * * *  | 2026-03-29                       | 2026-03-28T12:00 | 03-30T00:30 03-31T00:30
Africa/Cairo  | 30 23 * * * | 2026-10-29                       | 2026-10-28T12:00 | 10-28T20:30 10-30T21:30
Africa/Cairo  | */30 23 * * * | 2026-10-29                     | 2026-10-29T12:00 | 10-30T21:00 10-30T21:30
Africa/Cairo  | 0 0 * * *   | 2026-04-24                       | 2026-04-22T12:00 | 04-22T22:00 04-24T21:00
Africa/Cairo  | 45 23 * * * | 2026-04-24                       | 2026-04-23T12:00 | 04-23T21:45 04-25T20:45
Pacific/Apia  | 0 12 * * *  | 2011-12-31                       | 2011-12-29T00:00 | 12-29T22:00 12-31T22:00
"""


@pytest.mark.parametrize(("zone", "cron", "excluded", "after", "expected"), rows(EXCLUDED))
def test_excluded_dates_are_those_of_the_zone(zone: str, cron: str, excluded: str, after: str, expected: str) -> None:
    texts = [text if text.count(":") == 2 else f"{text}:00" for text in expected.split()]
    for exclude in (tuple(excluded.split()), json.dumps(excluded.split())):
        schedule = Schedule(cron=cron, timezone=zone, exclude=exclude)
        validate(schedule)
        found = [at.isoformat()[5:] for at in fires(schedule, datetime.fromisoformat(after), len(texts))]
        assert found == texts


@pytest.mark.parametrize("exclude", [
    *("", "[]", "null", (), None, '["2026-12-25"]', ("2026-12-25", "2026-12-25", "2026-12-20/2026-12-31")),
    tuple(f"{year}-01-01" for year in range(2000, 2200)),
], ids=str)  # fmt: skip
def test_sound_exclusions(exclude: Any) -> None:
    validate(Schedule(cron="0 9 * * *", exclude=exclude))


def test_ranges_are_joined() -> None:
    day = date(2026, 1, 1)
    found = exclusions.ranges(("2026-01-05/2026-01-07", "2026-01-01/2026-01-02", "2026-01-03", "2026-01-06"))
    assert found == ((day, date(2026, 1, 3)), (date(2026, 1, 5), date(2026, 1, 7)))
    assert exclusions.covering(found, date(2026, 1, 4)) is None
    assert exclusions.covering(found, date(2026, 1, 2)) == date(2026, 1, 3)
    assert exclusions.covering((), day) is None


@pytest.mark.parametrize("exclude", [
    *("[", "{}", '"2026-12-25"', "5", "[5]", "[null]"),
    *('["2026-02-30"]', '["2026-12-25/"]', '["2026-12-26/2026-12-25"]'),
    *('["1999-12-31"]', '["2200-01-01"]', '["2026-12-25T00:00:00"]'),
    *('["25.12.2026"]', '["2026-12-25/2026-12-26/2026-12-27"]'),
    *(("2026-1-1",), ("٢٠٢٦-12-25",), ("",), (5,), ({},), ({"a": []},), (["2026-12-25"],), 5, {"a": 1}, b"[]", True),
    *("[" * 5000, '["\\ud800"]', tuple(["2026-12-25"] * 401), json.dumps(["2026-12-25"] * 1000)),
], ids=lambda value: ascii(value)[:40])  # fmt: skip
def test_bad_exclusions_are_refused_by_name(exclude: Any) -> None:
    for attempt in (validate, lambda schedule: next_after(schedule, OPEN)):
        with pytest.raises(ScheduleError) as refused:
            attempt(Schedule(cron="0 9 * * *", exclude=exclude))
        assert refused.value.field == "exclude"
        assert len(str(refused.value)) < 300


@pytest.mark.parametrize(("field", "wrong"), [
    ("jitter_s", {"jitter_s": -1}), ("jitter_s", {"jitter_s": 86_401}), ("jitter_s", {"jitter_s": True}),
    ("jitter_s", {"jitter_s": 1.5}), ("jitter_s", {"jitter_s": "5"}), ("jitter_s", {"jitter_s": None}),
    ("jitter_s", {"jitter_s": 2**70}), ("seed", {"seed": 5}), ("seed", {"seed": None}), ("seed", {"seed": "x" * 201}),
    ("dst_gap", {"dst_gap": "last"}), ("dst_gap", {"dst_gap": None}), ("dst_gap", {"dst_gap": []}),
    ("dst_fold", {"dst_fold": "SKIP"}), ("dst_fold", {"dst_fold": ""}),
    ("exclude", {"cron": None, "run_at": datetime(2026, 5, 1), "exclude": ("2026-05-01",)}),
    ("exclude", {"end_at": datetime(2026, 5, 1), "exclude": ("2000-01-01/2026-05-01",)}),
    ("run_at_local", {"cron": None, "run_at_local": datetime(2026, 5, 1, tzinfo=UTC)}),
    ("run_at_local", {"cron": None, "run_at_local": "2026-05-01T00:00:00"}),
    ("run_at_local", {"cron": None, "run_at_local": datetime(1999, 5, 1)}),
    ("cron", {"run_at_local": datetime(2026, 5, 1)}), ("rrule", {"rrule": "FREQ=DAILY"}),
    ("rrule", {"cron": None, "rrule": 5}), ("end_at", {"cron": None, "rrule": "FREQ=DAILY", "start_at": OPEN,
                                            "end_at": OPEN}),
    ("end_at", {"cron": None, "run_at_local": OPEN, "end_at": OPEN - TICK}),
], ids=str)  # fmt: skip
def test_bad_options_are_refused_by_name(field: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ScheduleError) as refused:
        validate(Schedule(**({"cron": "0 9 * * *"} | wrong)))
    assert refused.value.field == field


@st.composite
def cases(draw: st.DrawFn) -> tuple[Schedule, datetime]:
    """Any schedule that repeats, with any options, near a clock change."""
    dice = random.Random(draw(st.integers(0, 2**32)))
    window = next(cron_oracle.windows(dice.randrange(2**32), 1, cron_oracle.ZONES, last_year=2030))
    zone, after, (gap, fold) = window.zone, window.after, window.options
    kind = dice.choice(["cron", "cron", "rrule", "every_s"])
    given = {"cron": window.cron, "rrule": test_recurrence.made_up(dice), "every_s": dice.choice([1, 59, 3600, 86_400])}
    today = after.date()
    days = [today + timedelta(days=dice.randrange(-2, 5)) for _ in range(dice.randrange(4))]
    schedule = Schedule(
        **{kind: given[kind]},
        timezone=zone,
        start_at=after - timedelta(days=dice.randrange(3), microseconds=dice.randrange(2)) if kind != "cron" else None,
        end_at=after + timedelta(days=dice.randrange(1, 400)) if dice.random() < 0.3 else None,
        exclude=tuple(str(day) for day in days),
        jitter_s=dice.choice([0, 0, 1, 90, 3_600, 86_400]),
        seed=str(dice.randrange(100)),
        dst_gap=gap,
        dst_fold=fold,
    )
    return schedule, after + timedelta(microseconds=draw(st.integers(0, 999_999)))


@settings(max_examples=250, deadline=None)
@given(cases(), st.data())
def test_strictly_increasing_and_restart_equals_continue(case: tuple[Schedule, datetime], data: st.DataObject) -> None:
    schedule, after = case
    try:
        validate(schedule)
    except ScheduleError:
        return  # a rule that never fires, or not before end_at
    found = fires(schedule, after, 12)
    assert all(earlier < later for earlier, later in pairwise([after, *found]))
    assert all(is_occurrence(schedule, instant) for instant in found)
    zone = zones.load(schedule.timezone)
    dates = {instant.replace(tzinfo=UTC).astimezone(zone).date() for instant in found}
    assert not dates & {date.fromisoformat(text) for text in schedule.exclude or ()}
    assert all(instant <= (schedule.end_at or instant) for instant in found)
    if found:
        restart = after + data.draw(st.floats(0, 1)) * (found[-1] - after)
        rest = [instant for instant in found if instant > restart]
        assert fires(schedule, restart, len(rest)) == rest
