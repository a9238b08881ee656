"""Schedules: literal facts, bad input, and the comparison with the oracle that walks every minute."""

import random
import time
import zoneinfo
from datetime import UTC, datetime, timedelta
from importlib import resources

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clockjack import zones
from clockjack.schedules import Schedule, ScheduleError, is_occurrence, next_after, validate
from tests.unit import cron_oracle, zone_files
from tests.unit.schedule_tables import fires, rows

TICK = timedelta(microseconds=1)
OPEN = datetime(2026, 1, 1)


# expression | start | what fires strictly after it, UTC
CALENDAR = """
0 0 29 2 *           | 2026-01-01 | 2028-02-29 2032-02-29
0 0 29 2 *           | 2096-03-01 | 2104-02-29
0 0 29 2 */7         | 2026-01-01 | 2032-02-29 2060-02-29
0 0 29 2 MON#5       | 2026-01-01 | 2028-02-29 2032-02-29
0 0 13 * FRI         | 2026-02-10 | 2026-02-13 2026-02-20 2026-02-27 2026-03-06 2026-03-13
0 0 */2 * 1          | 2026-06-01 | 2026-06-15 2026-06-29 2026-07-13
0 0 1 * */2          | 2026-01-01 | 2026-02-01 2026-03-01 2026-08-01
0 0 *,5 * 1          | 2026-06-01 | 2026-06-08 2026-06-15
0 0 L * *            | 2028-01-31 | 2028-02-29 2028-03-31
0 0 1,L 2 *          | 2026-02-01 | 2026-02-28 2027-02-01
0 0 * * L5           | 2026-01-01 | 2026-01-30 2026-02-27
0 0 * * L7           | 2026-05-01 | 2026-05-31 2026-06-28
0 0 * * fri#2        | 2026-01-01 | 2026-01-09 2026-02-13
0 0 * * MON#5        | 2026-01-01 | 2026-03-30 2026-06-29
0 0 * * 1#1,L1       | 2026-01-01 | 2026-01-05 2026-01-26 2026-02-02
0 0 L * 5#1          | 2026-01-01 | 2026-01-02 2026-01-31 2026-02-06
0 0 1 jan-mar *      | 2026-01-01 | 2026-02-01 2026-03-01 2027-01-01
0 0 1 NOV-FEB *      | 2026-11-15 | 2026-12-01 2027-01-01 2027-02-01 2027-11-01
0 0 * * FRI-MON      | 2026-06-01 | 2026-06-05 2026-06-06 2026-06-07 2026-06-08 2026-06-12
0 0 * * 5-7          | 2026-06-01 | 2026-06-05 2026-06-06 2026-06-07 2026-06-12
0 0 * * 7            | 2026-06-01 | 2026-06-07 2026-06-14
0 0 * * 7-7          | 2026-06-01 | 2026-06-07 2026-06-14
0 0 * * 7-0          | 2026-06-01 | 2026-06-07 2026-06-14
0 0 * * 7-1          | 2026-06-01 | 2026-06-07 2026-06-08
0 0 * * 0-7          | 2026-06-01 | 2026-06-02 2026-06-03
0 0 * * 1-7/2        | 2026-06-01 | 2026-06-03 2026-06-05 2026-06-07 2026-06-08
0 0 5-5 * *          | 2026-06-01 | 2026-06-05 2026-07-05
0 0 5-5/2 * *        | 2026-06-01 | 2026-06-05 2026-07-05
0 0 ? * 1            | 2026-06-01 | 2026-06-08 2026-06-15
0 0 12 * * ?         | 2026-06-01 | 2026-06-01T12:00 2026-06-02T12:00
@weekly              | 2026-06-01 | 2026-06-07 2026-06-14
@monthly             | 2026-06-01 | 2026-07-01 2026-08-01
@Yearly              | 2026-06-01 | 2027-01-01 2028-01-01
@annually            | 2026-06-01 | 2027-01-01
@midnight            | 2026-06-01 | 2026-06-02
59/15 * * * *        | 2026-06-01 | 2026-06-01T00:59 2026-06-01T01:59
5/20 6 * * *         | 2026-06-01 | 2026-06-01T06:05 2026-06-01T06:25 2026-06-01T06:45 2026-06-02T06:05
*/90 * * * *         | 2026-06-01 | 2026-06-01T01:00 2026-06-01T02:00
0 22-2 * * *         | 2026-06-01 | 2026-06-01T01:00 2026-06-01T02:00 2026-06-01T22:00
*/20 * * * * *       | 2026-06-01 | 2026-06-01T00:00:20 2026-06-01T00:00:40 2026-06-01T00:01
30 0 12 * * MON-FRI  | 2026-06-05 | 2026-06-05T12:00:30 2026-06-08T12:00:30
"""


@pytest.mark.parametrize(("cron", "start", "expected"), rows(CALENDAR))
def test_calendar(cron: str, start: str, expected: str) -> None:
    instants = [datetime.fromisoformat(text) for text in expected.split()]
    validate(Schedule(cron=cron))
    assert fires(Schedule(cron=cron), datetime.fromisoformat(start), len(instants)) == instants


BAD_CRON = [
    *("", " ", "* * * *", "* * * * * * *", "0 0 1 1 * 0 2027", "@reboot", "@every 5m", "@", "@daily @daily"),
    *("0 @daily * * *", "60 * * * *", "* 24 * * *", "0 0 0 * *", "0 0 32 * *", "0 0 1 0 *", "0 0 1 13 *", "0 0 * * 8"),
    *("60 * * * * *", "0 0-5 0-3 * *", "*/0 * * * *", "5/0 * * * *", "1-5/0 * * * *", "5-5/0 * * * *", "1,,2 * * * *"),
    *(", * * * *", "-1 * * * *", "1- * * * *", "1--2 * * * *", "1-2-3 * * * *", "1/2/3 * * * *", "*5 * * * *"),
    *("** * * * *", "1.5 * * * *", "+1 * * * *", "1e1 * * * *", "a * * * *", "MON * * * *", "0 0 * MON *"),
    *("0 0 * * JAN", "0 0 1 JANFEB *", "0 0 1 JANUARY *", "0 0 * * MON,FRI#2", "0 0 * * *,L5", "0 0 * * MON#0"),
    *("0 0 * * MON#6", "0 0 * * #1", "0 0 * * 1-5#2", "0 0 * * 8#1", "0 0 * * L8", "0 0 * * L", "0 0 * * 5L"),
    *(
        "0 0 L-3 * *",
        "0 0 1-L * *",
        "0 0 L/2 * *",
        "0 0 LW * *",
        "0 0 15W * *",
        "0 0 W15 * *",
        "0 L * * *",
        "0 0 * L *",
    ),
    *(
        "R R * * *",
        "R(0-5) * * * *",
        "H(60) * * * *",
        "H(5-1) * * * *",
        "H(0-60) * * * *",
        "H/0 * * * *",
        "0 0 H(1-31) * *",
        "0 0 * * H#2",
        "0 0 * * LH",
        "HH * * * *",
        "*/H * * * *",
        "H-5 * * * *",
        "? * * * *",
        "0 0 ?,5 * *",
        "0 0 1 ? *",
    ),
    *("0 22-2/3 * * *", "50-10/5 * * * *", "0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 30,31 2 */2", "0 0 */20 * L1"),
    *("\u0660 * * * *", "*\u00a0* * * *", "* * * * *\n", "*\n* * * *", "* * * * *\x00", "\ud800 * * * *", "０ * * * *"),
    *(
        "* * * * *" + " " * 300,
        "1," * 200 + "1 * * * *",
        ",".join(["0-59"] * 5000) + " * * * *",
        "9" * 200 + " * * * *",
    ),
]


@pytest.mark.parametrize("cron", BAD_CRON, ids=lambda cron: ascii(cron)[:40])
def test_bad_cron_is_refused_by_name(cron: str) -> None:
    for attempt in (lambda: validate(Schedule(cron=cron)), lambda: next_after(Schedule(cron=cron), OPEN)):
        with pytest.raises(ScheduleError) as refused:
            attempt()
        assert refused.value.field == "cron"
        assert 20 < len(str(refused.value)) < 600
        assert str(refused.value).isprintable() or "\ud800" in cron


def test_refusals_say_what_to_do() -> None:
    for cron, hint in {
        "\u0661 * * * *": "ASCII",
        "* * * *": "4 field.*5 fields, 6 with the seconds first, or one of @hourly",
        "0 25 * * *": "'25' is no hour.*from 0 to 23",
        "0 0 30 2 *": "never fires.*correct its day and month",
    }.items():
        with pytest.raises(ScheduleError, match=hint):
            validate(Schedule(cron=cron))


@pytest.mark.parametrize("zone", [
    *("", " ", "Mars/Base", "europe/berlin", "EUROPE/BERLIN", "Europe/Berlin ", "Europe", "Europe/", "/Europe/Berlin"),
    *("../../etc/passwd", "Europe/../Europe/Berlin", "/etc/localtime", "./UTC", "Europe/Berlin\x00", "\x00", "a" * 300),
    *("a/" * 3000, "localtime", "posixrules", "Factory", "posix/UTC", "right/UTC", "zone.tab", "__init__.py", "\ud800"),
    *("+01:00", "UTC+1", "CEST", "<script>", "Europe\\Berlin", None, 5, ["UTC"], {}),
], ids=lambda zone: ascii(zone)[:40])  # fmt: skip
def test_bad_zone_is_refused_by_name(zone: str) -> None:
    for kind in ({"cron": "* * * * *"}, {"every_s": 5}, {"run_at": OPEN}):
        with pytest.raises(ScheduleError) as refused:
            validate(Schedule(timezone=zone, **kind))
        assert refused.value.field == "timezone"
        assert len(str(refused.value)) < 200
    if isinstance(zone, str):
        with pytest.raises(ScheduleError):
            next_after(Schedule(cron="* * * * *", timezone=zone), OPEN)


@pytest.mark.parametrize("zone", ["UTC", "Etc/GMT+5", "GMT", "America/Argentina/Ushuaia", "EST5EDT", "Europe/Kiev"])
def test_every_packaged_zone_is_known(zone: str) -> None:
    validate(Schedule(cron="0 0 * * *", timezone=zone))
    assert len(zones.names()) > 590


def test_zone_files_of_the_system_are_never_used(tmp_path) -> None:
    """With a search path on which Berlin is in Tokyo and Mars has a zone, nothing changes."""
    tokyo = (resources.files("tzdata") / "zoneinfo" / "Asia" / "Tokyo").read_bytes()
    for name in ("Europe/Berlin", "Mars/Base"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(tokyo)
    before = zoneinfo.TZPATH
    zoneinfo.reset_tzpath([tmp_path])
    zones.load.cache_clear()
    zones.changes_of.cache_clear()
    try:
        assert zoneinfo.ZoneInfo.no_cache("Mars/Base").utcoffset(OPEN) == timedelta(hours=9)
        assert next_after(Schedule(cron="0 12 5 6 *", timezone="Europe/Berlin"), OPEN) == datetime(2026, 6, 5, 10)
        with pytest.raises(ScheduleError):
            validate(Schedule(cron="0 12 * * *", timezone="Mars/Base"))
    finally:
        zoneinfo.reset_tzpath(before)


@pytest.mark.parametrize("zone", [*cron_oracle.ZONES, "Asia/Dhaka", "Africa/Sao_Tome", "America/Noronha"])
def test_every_change_in_the_zone_file_is_found(zone: str) -> None:
    assert zone_files.changes_differ(zone, range(2000, 2060)) == ""


def test_every_counts_from_start_at_without_drift() -> None:
    start = datetime(2026, 3, 1, 0, 0, 0, 250_001)
    schedule = Schedule(every_s=7, start_at=start, anchor=OPEN)
    validate(schedule)
    assert next_after(schedule, OPEN) == start
    assert next_after(schedule, start - TICK) == start
    assert next_after(schedule, start) == start + timedelta(seconds=7)
    assert next_after(schedule, start + timedelta(seconds=7) - TICK) == start + timedelta(seconds=7)
    far = start + timedelta(seconds=7 * 700_000_000)
    assert next_after(schedule, far - TICK) == far
    assert is_occurrence(schedule, far)
    assert not is_occurrence(schedule, far + TICK)


def test_every_without_start_at_runs_first_one_interval_after_registration() -> None:
    schedule = Schedule(every_s=3600, anchor=OPEN, end_at=OPEN + timedelta(hours=2))
    validate(schedule)
    assert fires(schedule, datetime(2000, 1, 1), 9) == [OPEN + timedelta(hours=1), OPEN + timedelta(hours=2)]
    assert not is_occurrence(schedule, OPEN)
    validate(Schedule(every_s=3600))  # before it is registered
    with pytest.raises(ScheduleError, match="registration"):
        next_after(Schedule(every_s=3600), OPEN)


def test_one_time() -> None:
    at = datetime(2026, 5, 5, 5, 5, 5, 5)
    schedule = Schedule(run_at=at)
    validate(schedule)
    assert next_after(schedule, OPEN) == next_after(schedule, at - TICK) == at
    assert next_after(schedule, at) is None
    assert is_occurrence(schedule, at)
    assert not is_occurrence(schedule, at + TICK)


def test_start_at_and_end_at_are_inclusive() -> None:
    start, end = datetime(2026, 6, 1, 12), datetime(2026, 6, 3, 12)
    daily = Schedule(cron="0 12 * * *", start_at=start, end_at=end)
    validate(daily)
    assert fires(daily, OPEN, 9) == [start, datetime(2026, 6, 2, 12), end]
    assert next_after(daily, end) is None
    late = Schedule(cron="0 12 * * *", start_at=start + TICK, end_at=end - TICK)
    assert fires(late, OPEN, 9) == [datetime(2026, 6, 2, 12)]


def test_years_2000_to_2199() -> None:
    assert next_after(Schedule(cron="0 0 1 1 *"), datetime.min) == datetime(2000, 1, 1)
    assert next_after(Schedule(cron="0 0 1 1 *"), datetime(2198, 6, 1)) == datetime(2199, 1, 1)
    for zone in ("UTC", "Pacific/Kiritimati", "Pacific/Niue", "Europe/Berlin"):
        for after in (datetime(2199, 12, 31, 23, 59, 59), datetime(2200, 1, 1), datetime.max):
            assert next_after(Schedule(cron="* * * * *", timezone=zone), after) is None
    assert next_after(Schedule(every_s=60, anchor=OPEN), datetime.max) is None
    assert next_after(Schedule(every_s=60, start_at=datetime.max), OPEN) is None
    assert next_after(Schedule(run_at=datetime.max), OPEN) is None
    assert not is_occurrence(Schedule(cron="* * * * *"), datetime.min)
    assert not is_occurrence(Schedule(cron="* * * * *"), datetime.max)


@pytest.mark.parametrize(("field", "schedule"), [
    ("run_at", Schedule()),
    ("cron", Schedule(run_at=OPEN, cron="* * * * *")),
    ("every_s", Schedule(cron="* * * * *", every_s=5)),
    ("every_s", Schedule(cron="* * * * *", every_s=5, run_at=OPEN)),
    ("every_s", Schedule(every_s=0, anchor=OPEN)),
    ("every_s", Schedule(every_s=-1, anchor=OPEN)),
    ("every_s", Schedule(every_s=31_536_001, anchor=OPEN)),
    ("every_s", Schedule(every_s=2**63, anchor=OPEN)),
    ("every_s", Schedule(every_s=True, anchor=OPEN)),
    ("every_s", Schedule(every_s=2.5, anchor=OPEN)),
    ("every_s", Schedule(every_s="10", anchor=OPEN)),
    ("cron", Schedule(cron=5)),
    ("cron", Schedule(cron=["* * * * *"])),
    ("cron", Schedule(cron=b"* * * * *")),
    ("run_at", Schedule(run_at=datetime(1999, 12, 31, 23, 59, 59))),
    ("run_at", Schedule(run_at=datetime(2200, 1, 1))),
    ("run_at", Schedule(run_at=datetime(9999, 12, 31))),
    ("run_at", Schedule(run_at=datetime(2026, 1, 1, tzinfo=UTC))),
    ("run_at", Schedule(run_at="2026-01-01T00:00:00Z")),
    ("run_at", Schedule(run_at=0)),
    ("start_at", Schedule(cron="* * * * *", start_at=datetime(1970, 1, 1))),
    ("start_at", Schedule(cron="* * * * *", start_at="")),
    ("end_at", Schedule(cron="* * * * *", end_at=datetime(2200, 1, 1))),
    ("end_at", Schedule(cron="* * * * *", start_at=OPEN, end_at=OPEN)),
    ("end_at", Schedule(cron="* * * * *", start_at=OPEN, end_at=OPEN - TICK)),
    ("end_at", Schedule(cron="0 0 1 1 *", start_at=datetime(2026, 2, 1), end_at=datetime(2026, 3, 1))),
    ("end_at", Schedule(run_at=OPEN, end_at=OPEN - TICK)),
    ("start_at", Schedule(run_at=OPEN, start_at=OPEN + TICK)),
    ("end_at", Schedule(every_s=60, anchor=OPEN, end_at=OPEN + timedelta(seconds=59))),
], ids=str)  # fmt: skip
def test_unsound_schedule_is_refused_by_name(field: str, schedule: Schedule) -> None:
    with pytest.raises(ScheduleError) as refused:
        validate(schedule)
    assert refused.value.field == field
    assert field in str(refused.value)


@pytest.mark.parametrize("seed", range(4))
def test_as_the_oracle_minute_by_minute(seed: int) -> None:
    for window in cron_oracle.windows(seed, 110, cron_oracle.ZONES, last_year=2030):
        assert cron_oracle.difference(window)[1] == ""


@pytest.mark.parametrize("seed", range(2))
def test_days_as_the_oracle_over_28_years(seed: int) -> None:
    """All 14 calendars of a year."""
    dice = random.Random(seed)
    for _ in range(6):
        cron = "0 12 " + " ".join(cron_oracle.made_up(dice).split()[-3:])
        days = [datetime(2000, 1, 1, 12) + timedelta(days=n) for n in range(28 * 365)]
        expected = [day for day in days if cron_oracle.day_matches(cron, day.date())]
        assert fires(Schedule(cron=cron), datetime(2000, 1, 1), len(expected)) == expected


@st.composite
def cases(draw: st.DrawFn) -> tuple[Schedule, datetime]:
    seed = draw(st.integers(0, 2**32))
    cron, zone, after, _, (gap, fold) = next(cron_oracle.windows(seed, 1, cron_oracle.ZONES, last_year=2030))
    return Schedule(cron=cron, timezone=zone, dst_gap=gap, dst_fold=fold), after + timedelta(
        microseconds=draw(st.integers(0, 999_999))
    )


@settings(max_examples=150, deadline=None)
@given(cases(), st.data())
def test_strictly_increasing_and_restart_equals_continue(case: tuple[Schedule, datetime], data: st.DataObject) -> None:
    schedule, after = case
    found = fires(schedule, after, 12)
    assert all(earlier < later for earlier, later in zip([after, *found], found, strict=False))
    assert all(is_occurrence(schedule, instant) for instant in found)
    restart = after + data.draw(st.floats(0, 1)) * (found[-1] - after)
    assert fires(schedule, restart, len([i for i in found if i > restart])) == [i for i in found if i > restart]


def test_cost_of_many_tasks_that_share_expressions() -> None:
    """The promise is 20 µs on average; tests may run on a busy machine."""
    schedules = [Schedule(cron=cron, timezone="Europe/Berlin") for cron in cron_oracle.EXPRESSIONS[:50]] * 20
    for schedule in schedules[:50]:
        next_after(schedule, OPEN)  # parsed, and the year's changes known
    begun = time.process_time()
    for schedule in schedules:
        next_after(schedule, OPEN + timedelta(days=100))
    assert (time.process_time() - begun) / len(schedules) < 100e-6
