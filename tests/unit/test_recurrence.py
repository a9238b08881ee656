"""Recurrence rules: the examples of RFC 5545 §3.8.5.3, comparison with dateutil itself, bad input, and cost.

The RFC's examples begin in 1996-1998; here they begin 28 years later, when the calendar is the same.
"""

# ruff: noqa: E501
import random
import time
from datetime import datetime, timedelta
from itertools import islice

import pytest
from dateutil.rrule import rrulestr

from clockjack import recurrence, wallclock
from clockjack.schedules import Schedule, ScheduleError, is_occurrence, next_after, validate
from tests.unit import cron_oracle
from tests.unit.schedule_tables import fires, rows, utc

ZONE = "America/New_York"
OPEN = datetime(2026, 1, 31, 9)
WORKDAYS = "MO,TU,WE,TH,FR"
EVERY_DAY = f"{WORKDAYS},SA,SU"
TO_SEPTEMBER_11 = " ".join(f"09-{day:02}" for day in range(2, 12))

# DTSTART's date, 09:00 in New York | rule | the first dates, or all with a full stop (a year stays until the next one)
EXAMPLES = f"""
2025-09-02 | FREQ=DAILY;COUNT=10 | {TO_SEPTEMBER_11} .
2025-09-02 | FREQ=DAILY;INTERVAL=2 | 09-02 09-04 09-06 09-08 09-10 09-12
2025-09-02 | FREQ=DAILY;INTERVAL=10;COUNT=5 | 09-02 09-12 09-22 10-02 10-12 .
2026-01-01 | FREQ=YEARLY;UNTIL=20280131T140000Z;BYMONTH=1;BYDAY={EVERY_DAY} | 01-01 01-02 01-03 01-04 01-05 01-06
2026-01-30 | FREQ=YEARLY;UNTIL=20270103T140000Z;BYMONTH=1;BYDAY={EVERY_DAY} | 01-30 01-31 2027-01-01 01-02 01-03 .
2026-01-30 | FREQ=DAILY;UNTIL=20270103T140000Z;BYMONTH=1 | 01-30 01-31 2027-01-01 01-02 01-03 .
2025-09-02 | FREQ=WEEKLY;COUNT=10 | 09-02 09-09 09-16 09-23 09-30 10-07 10-14 10-21 10-28 11-04 .
2025-11-25 | FREQ=WEEKLY;UNTIL=20251224T000000Z | 11-25 12-02 12-09 12-16 12-23 .
2025-09-02 | FREQ=WEEKLY;INTERVAL=2;WKST=SU | 09-02 09-16 09-30 10-14 10-28 11-11 11-25 12-09 12-23 2026-01-06 01-20
2025-09-02 | FREQ=WEEKLY;COUNT=10;WKST=SU;BYDAY=TU,TH | 09-02 09-04 09-09 09-11 09-16 09-18 09-23 09-25 09-30 10-02 .
2025-09-02 | FREQ=WEEKLY;UNTIL=20251007T000000Z;WKST=SU;BYDAY=TU,TH | 09-02 09-04 09-09 09-11 09-16 09-18 09-23 09-25 09-30 10-02 .
2025-09-01 | FREQ=WEEKLY;INTERVAL=2;UNTIL=20251024T000000Z;WKST=SU;BYDAY=MO,WE,FR | 09-01 09-03 09-05 09-15 09-17 09-19 09-29 10-01 10-03 10-13 10-15 10-17 .
2025-09-02 | FREQ=WEEKLY;INTERVAL=2;COUNT=8;WKST=SU;BYDAY=TU,TH | 09-02 09-04 09-16 09-18 09-30 10-02 10-14 10-16 .
2025-09-05 | FREQ=MONTHLY;COUNT=10;BYDAY=1FR | 09-05 10-03 11-07 12-05 2026-01-02 02-06 03-06 04-03 05-01 06-05 .
2025-09-05 | FREQ=MONTHLY;UNTIL=20251224T000000Z;BYDAY=1FR | 09-05 10-03 11-07 12-05 .
2025-09-07 | FREQ=MONTHLY;INTERVAL=2;COUNT=10;BYDAY=1SU,-1SU | 09-07 09-28 11-02 11-30 2026-01-04 01-25 03-01 03-29 05-03 05-31 .
2025-09-22 | FREQ=MONTHLY;COUNT=6;BYDAY=-2MO | 09-22 10-20 11-17 12-22 2026-01-19 02-16 .
2025-09-28 | FREQ=MONTHLY;BYMONTHDAY=-3 | 09-28 10-29 11-28 12-29 2026-01-29 02-26
2025-09-02 | FREQ=MONTHLY;COUNT=10;BYMONTHDAY=2,15 | 09-02 09-15 10-02 10-15 11-02 11-15 12-02 12-15 2026-01-02 01-15 .
2025-09-30 | FREQ=MONTHLY;COUNT=10;BYMONTHDAY=1,-1 | 09-30 10-01 10-31 11-01 11-30 12-01 12-31 2026-01-01 01-31 02-01 .
2025-09-10 | FREQ=MONTHLY;INTERVAL=18;COUNT=10;BYMONTHDAY=10,11,12,13,14,15 | 09-10 09-11 09-12 09-13 09-14 09-15 2027-03-10 03-11 03-12 03-13 .
2025-09-02 | FREQ=MONTHLY;INTERVAL=2;BYDAY=TU | 09-02 09-09 09-16 09-23 09-30 11-04 11-11 11-18 11-25 2026-01-06
2025-06-10 | FREQ=YEARLY;COUNT=10;BYMONTH=6,7 | 06-10 07-10 2026-06-10 07-10 2027-06-10 07-10 2028-06-10 07-10 2029-06-10 07-10 .
2025-03-10 | FREQ=YEARLY;INTERVAL=2;COUNT=10;BYMONTH=1,2,3 | 03-10 2027-01-10 02-10 03-10 2029-01-10 02-10 03-10 2031-01-10 02-10 03-10 .
2025-01-01 | FREQ=YEARLY;INTERVAL=3;COUNT=10;BYYEARDAY=1,100,200 | 01-01 04-10 07-19 2028-01-01 04-09 07-18 2031-01-01 04-10 07-19 2034-01-01 .
2025-05-19 | FREQ=YEARLY;BYDAY=20MO | 05-19 2026-05-18 2027-05-17
2025-05-12 | FREQ=YEARLY;BYWEEKNO=20;BYDAY=MO | 05-12 2026-05-11 2027-05-17
2025-03-13 | FREQ=YEARLY;BYMONTH=3;BYDAY=TH | 03-13 03-20 03-27 2026-03-05 03-12 03-19 03-26 2027-03-04 03-11 03-18 03-25
2025-06-05 | FREQ=YEARLY;BYDAY=TH;BYMONTH=6,7,8 | 06-05 06-12 06-19 06-26 07-03 07-10 07-17 07-24 07-31 08-07 08-14 08-21 08-28 2026-06-04
2025-09-02 | FREQ=MONTHLY;BYDAY=FR;BYMONTHDAY=13 | 2026-02-13 03-13 11-13 2027-08-13 2028-10-13
2025-09-13 | FREQ=MONTHLY;BYDAY=SA;BYMONTHDAY=7,8,9,10,11,12,13 | 09-13 10-11 11-08 12-13 2026-01-10 02-07 03-07 04-11 05-09 06-13
2024-11-05 | FREQ=YEARLY;INTERVAL=4;BYMONTH=11;BYDAY=TU;BYMONTHDAY=2,3,4,5,6,7,8 | 11-05 2028-11-07 2032-11-02
2025-09-04 | FREQ=MONTHLY;COUNT=3;BYDAY=TU,WE,TH;BYSETPOS=3 | 09-04 10-07 11-06 .
2025-09-29 | FREQ=MONTHLY;BYDAY={WORKDAYS};BYSETPOS=-2 | 09-29 10-30 11-27 12-30 2026-01-29 02-26 03-30
2025-08-05 | FREQ=WEEKLY;INTERVAL=2;COUNT=4;BYDAY=TU,SU;WKST=MO | 08-05 08-10 08-19 08-24 .
2025-08-05 | FREQ=WEEKLY;INTERVAL=2;COUNT=4;BYDAY=TU,SU;WKST=SU | 08-05 08-17 08-19 08-31 .
2035-01-15 | FREQ=MONTHLY;BYMONTHDAY=15,30;COUNT=5 | 01-15 01-30 02-15 03-15 03-30 .
2026-01-31 | FREQ=MONTHLY;COUNT=4 | 01-31 03-31 05-31 07-31 .
2028-02-29 | FREQ=YEARLY;COUNT=3 | 02-29 2032-02-29 2036-02-29 .
2026-06-01 | FREQ=YEARLY;BYYEARDAY=366 | 2028-12-31 2032-12-31
2026-06-01 | FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=-1 | 2027-02-28 2028-02-29
2026-06-01 | FREQ=MONTHLY;BYDAY=MO,2TU | 06-01 06-08 06-09 06-15 06-22 06-29 07-06 07-13 07-14
2026-06-03 | FREQ=WEEKLY;BYDAY={WORKDAYS};BYSETPOS=-1 | 06-05 06-12
2026-06-01 | RRULE:freq=weekly;byday=we;until=20260617 | 06-03 06-10 06-17 .
"""


@pytest.mark.parametrize(("start", "rrule", "expected"), rows(EXAMPLES))
def test_examples_of_the_rfc(start: str, rrule: str, expected: str) -> None:
    schedule = Schedule(rrule=rrule, timezone=ZONE, start_at=utc(ZONE, f"{start}T09:00"))
    validate(schedule)
    year, dates = start[:4], []
    for text in expected.removesuffix(" .").split():
        year = text[:4] if len(text) == 10 else year
        dates.append(f"{year}-{text[-5:]}T09:00:00")
    found = [wallclock.local(ZONE, at).isoformat() for at in fires(schedule, datetime(2000, 1, 1), len(dates) + 1)]
    assert found[: len(dates)] == dates
    assert (len(found) == len(dates)) is expected.endswith(" .")


# rule from 2025-09-02 09:00 in New York | day and time by its clocks
TIMES = """
FREQ=HOURLY;INTERVAL=3;UNTIL=20250902T210000Z       | 02T09:00 02T12:00 02T15:00 .
FREQ=MINUTELY;INTERVAL=15;COUNT=6                   | 02T09:00 02T09:15 02T09:30 02T09:45 02T10:00 02T10:15 .
FREQ=MINUTELY;INTERVAL=90;COUNT=4                   | 02T09:00 02T10:30 02T12:00 02T13:30 .
FREQ=DAILY;BYHOUR=9,16;BYMINUTE=0,20,40             | 02T09:00 02T09:20 02T09:40 02T16:00 02T16:20 02T16:40 03T09:00
FREQ=MINUTELY;INTERVAL=20;BYHOUR=9,16               | 02T09:00 02T09:20 02T09:40 02T16:00 02T16:20 02T16:40 03T09:00
FREQ=HOURLY;INTERVAL=36;COUNT=3                     | 02T09:00 03T21:00 05T09:00 .
FREQ=HOURLY;BYDAY=WE;BYMINUTE=0,30;BYHOUR=0,23      | 03T00:00 03T00:30 03T23:00 03T23:30 10T00:00
FREQ=MINUTELY;INTERVAL=1000;COUNT=3                 | 02T09:00 03T01:40 03T18:20 .
FREQ=DAILY;BYHOUR=8                                 | 03T08:00 04T08:00
FREQ=DAILY;BYSECOND=0,30;COUNT=3                    | 02T09:00 02T09:00:30 03T09:00 .
FREQ=DAILY;BYHOUR=6,9,12;BYSETPOS=-1                | 02T12:00 03T12:00
"""


@pytest.mark.parametrize(("rrule", "expected"), rows(TIMES))
def test_times_of_the_day(rrule: str, expected: str) -> None:
    schedule = Schedule(rrule=rrule, timezone=ZONE, start_at=utc(ZONE, "2025-09-02T09:00"))
    validate(schedule)
    texts = [text if text.count(":") == 2 else f"{text}:00" for text in expected.removesuffix(" .").split()]
    found = [wallclock.local(ZONE, at).isoformat()[8:] for at in fires(schedule, datetime(2000, 1, 1), len(texts) + 1)]
    assert found[: len(texts)] == texts
    assert (len(found) == len(texts)) is expected.endswith(" .")


def test_without_start_at_the_registration_is_the_first_occurrence() -> None:
    schedule = Schedule(rrule="FREQ=DAILY;COUNT=2", anchor=datetime(2026, 5, 1, 12, 0, 0, 1))
    validate(schedule)
    assert fires(schedule, datetime(2000, 1, 1), 9) == [datetime(2026, 5, 1, 12, 0, 1), datetime(2026, 5, 2, 12, 0, 1)]
    validate(Schedule(rrule="FREQ=DAILY"))  # before it is registered
    with pytest.raises(ScheduleError, match="registration"):
        next_after(Schedule(rrule="FREQ=DAILY"), OPEN)


def some(dice: random.Random, low: int, high: int, most: int, signed: bool = False) -> str:
    numbers = [dice.randint(low, high) * (dice.choice([1, -1]) if signed else 1) for _ in range(dice.randint(1, most))]
    return ",".join(map(str, numbers))


def made_up(dice: random.Random) -> str:
    """A rule that the RFC allows, of any kind."""
    freq = dice.choice(["YEARLY", "MONTHLY", "WEEKLY", "DAILY", "HOURLY", "MINUTELY"])
    long, parts = freq in ("YEARLY", "MONTHLY"), [f"FREQ={freq}"]
    weeks = freq == "YEARLY" and dice.random() < 0.15
    if dice.random() < 0.5:
        parts.append(f"INTERVAL={dice.choice([1, 2, 3] if freq == 'YEARLY' else [1, 2, 3, 4, 5, 7, 13, 30, 90])}")
    if dice.random() < 0.3:
        parts.append("BYMONTH=" + some(dice, 1, 12, 4))
    if weeks:
        parts.append("BYWEEKNO=" + some(dice, 1, 53, 3, True))
    if freq in ("YEARLY", "HOURLY", "MINUTELY") and dice.random() < 0.15:
        parts.append("BYYEARDAY=" + some(dice, 1, 366, 40, True))
    if freq != "WEEKLY" and dice.random() < 0.3:
        parts.append("BYMONTHDAY=" + some(dice, 1, 31, 5, True))
    if weeks or dice.random() < 0.4:
        numbers = ["1", "2", "-1", "-2", "+3", "5"] if long and not weeks and dice.random() < 0.5 else [""]
        days = [dice.choice(numbers) + dice.choice(EVERY_DAY.split(",")) for _ in range(dice.randint(1, 4))]
        parts.append("BYDAY=" + ",".join(days))
    places = freq != "WEEKLY" and freq not in ("HOURLY", "MINUTELY") and len(parts) > 2 and dice.random() < 0.2
    for part, high, share in (("BYHOUR", 23, 0.3), ("BYMINUTE", 59, 0.3), ("BYSECOND", 59, 0.1)):
        if dice.random() < share:
            parts.append(f"{part}=" + some(dice, 0, high, 3))
    if places and any("BY" in part for part in parts):
        parts.append("BYSETPOS=" + some(dice, 1, 5, 2, True))
    if dice.random() < 0.3:
        parts.append("WKST=" + dice.choice(EVERY_DAY.split(",")))
    if dice.random() < 0.3:
        parts.append(f"COUNT={dice.randint(1, 40)}")
    return ";".join(parts)


@pytest.mark.parametrize("seed", range(3))
def test_as_dateutil_where_no_clock_changes(seed: int) -> None:
    """dateutil itself walks from DTSTART; ours goes from occurrence to occurrence.

    Left out: WEEKLY with BYSETPOS, where dateutil begins the first week at DTSTART and so counts its places from there.
    """
    dice, compared, unfit = random.Random(seed), 0, []
    while compared < 150:
        text, start = made_up(dice), datetime(2026, 1, 1) + timedelta(seconds=dice.randrange(4 * 366 * 86_400))
        try:
            validate(Schedule(rrule=text, start_at=start))
        except ScheduleError as error:
            unfit.append(str(error))
            continue
        end = start + timedelta(days=900)
        found = [at for at in fires(Schedule(rrule=text, start_at=start), start - timedelta(1), 20) if at <= end]
        bounded = text if "COUNT" in text else f"{text};UNTIL={end:%Y%m%dT%H%M%S}"
        expected = list(islice(rrulestr(bounded, dtstart=start), len(found))) if found else []
        assert found == expected, (text, start)
        compared += 1
    assert all("never fires" in message for message in unfit)


BAD = [
    *("", " ", "FREQ", "FREQ=", "DAILY", "INTERVAL=2", "FREQ=SECONDLY", "FREQ=FORTNIGHTLY", "FREQ=DAILY;", ";FREQ=DAILY"),
    *("FREQ=DAILY;FREQ=DAILY", "FREQ=DAILY;COUNT=0", "FREQ=DAILY;COUNT=-1", "FREQ=DAILY;COUNT=5001", "FREQ=DAILY;COUNT=x"),
    *("FREQ=DAILY;INTERVAL=0", "FREQ=DAILY;INTERVAL=1001", "FREQ=DAILY;INTERVAL=1.5", "FREQ=DAILY;INTERVAL=" + "9" * 400),
    *("FREQ=DAILY;UNTIL=", "FREQ=DAILY;UNTIL=2026", "FREQ=DAILY;UNTIL=20260231", "FREQ=DAILY;UNTIL=20261301T000000Z"),
    *("FREQ=DAILY;COUNT=2;UNTIL=20270101", "FREQ=DAILY;UNTIL=20260101", "FREQ=DAILY;BYEASTER=0", "FREQ=DAILY;X-A=1"),
    *("FREQ=DAILY;BYHOUR=24", "FREQ=DAILY;BYHOUR=-1", "FREQ=DAILY;BYMINUTE=60", "FREQ=DAILY;BYSECOND=60", "FREQ=DAILY;BYHOUR=,"),
    *("FREQ=YEARLY;BYMONTH=0", "FREQ=YEARLY;BYMONTH=13", "FREQ=YEARLY;BYMONTH=-1", "FREQ=YEARLY;BYMONTHDAY=0"),
    *("FREQ=YEARLY;BYMONTHDAY=32", "FREQ=YEARLY;BYYEARDAY=367", "FREQ=YEARLY;BYYEARDAY=0", "FREQ=YEARLY;BYWEEKNO=54;BYDAY=MO"),
    *("FREQ=YEARLY;BYWEEKNO=20", "FREQ=MONTHLY;BYWEEKNO=20;BYDAY=MO", "FREQ=MONTHLY;BYYEARDAY=1", "FREQ=DAILY;BYYEARDAY=1"),
    *("FREQ=WEEKLY;BYMONTHDAY=1", "FREQ=WEEKLY;BYDAY=1MO", "FREQ=DAILY;BYDAY=-1FR", "FREQ=MONTHLY;BYDAY=6MO"),
    *("FREQ=YEARLY;BYDAY=54MO", "FREQ=YEARLY;BYDAY=0MO", "FREQ=YEARLY;BYWEEKNO=1;BYDAY=1MO", "FREQ=WEEKLY;BYDAY=MONDAY"),
    *("FREQ=MONTHLY;BYSETPOS=1", "FREQ=MONTHLY;BYDAY=MO;BYSETPOS=0", "FREQ=MONTHLY;BYDAY=MO;BYSETPOS=367", "FREQ=DAILY;WKST=XX"),
    *("FREQ=HOURLY;BYMINUTE=0,30;BYSETPOS=1", "DTSTART=20260101T000000;FREQ=DAILY", "DTSTART:20260101T000000\nRRULE:FREQ=DAILY"),
    *("FREQ=DAILY\n", "FREQ=DAILY\x00", "FREQ=DAILY;BYHOUR=\u0661", "\ud800", "FREQ=DAILY;BYHOUR=" + "1," * 300 + "1", "a" * 501),
    *("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30", "FREQ=MONTHLY;BYDAY=5MO;BYMONTHDAY=1"),
    *("FREQ=MINUTELY;BYMONTH=2;BYMONTHDAY=30", "FREQ=HOURLY;INTERVAL=24;BYHOUR=5", "FREQ=MINUTELY;INTERVAL=60;BYMINUTE=5"),
    *("FREQ=YEARLY;BYSETPOS=366;BYMONTH=1", "FREQ=DAILY;BYHOUR=9;BYSETPOS=2", "FREQ=YEARLY;INTERVAL=2;BYMONTH=2;BYMONTHDAY=29"),
]  # fmt: skip


@pytest.mark.parametrize("rrule", BAD, ids=lambda rrule: ascii(rrule)[:50])
def test_bad_rules_are_refused_by_name_and_soon(rrule: str) -> None:
    schedule = Schedule(rrule=rrule, start_at=datetime(2027, 1, 31, 9))
    begun = time.process_time()
    for attempt in (lambda: validate(schedule), lambda: next_after(schedule, OPEN)):
        with pytest.raises(ScheduleError) as refused:
            attempt()
        assert refused.value.field == "rrule"
        assert 20 < len(str(refused.value)) < 700
    assert time.process_time() - begun < 0.25


@pytest.mark.parametrize("rrule", [
    *("FREQ=DAILY;COUNT=5000", "FREQ=MINUTELY;COUNT=5000", "FREQ=YEARLY;COUNT=5000", "FREQ=MONTHLY;BYMONTHDAY=31;COUNT=5000"),
    *("FREQ=MINUTELY;INTERVAL=977;BYHOUR=3;BYMONTH=2", "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29;BYDAY=SU"),
    *(f"FREQ=YEARLY;BYDAY={EVERY_DAY};BYHOUR={','.join(map(str, range(24)))};BYMINUTE=0,30;BYSETPOS=-1,366,1", "FREQ=MINUTELY"),
])  # fmt: skip
def test_costly_rules_take_milliseconds(rrule: str) -> None:
    """The bound is for a busy machine; on an idle one each takes less than 20 ms at its first use, then microseconds."""
    schedule = Schedule(rrule=rrule, start_at=OPEN)
    recurrence.parse.cache_clear()
    begun = time.process_time()
    validate(schedule)
    first = next_after(schedule, OPEN)
    assert first
    assert is_occurrence(schedule, first)
    next_after(schedule, datetime(2150, 1, 1))
    assert time.process_time() - begun < 0.25


@pytest.mark.parametrize("seed", range(2))
def test_as_cron_where_both_can_say_it(seed: int) -> None:
    """Near clock changes, under all options: hours and minutes of each day, and every minute of some hours."""
    dice = random.Random(seed)
    for window in cron_oracle.windows(seed, 150, cron_oracle.ZONES, last_year=2030):
        hours, minutes = some(dice, 0, 4, 3), some(dice, 0, 59, 3)
        cron, rrule = dice.choice([
            (f"{minutes} {hours} * * *", f"FREQ=DAILY;BYHOUR={hours};BYMINUTE={minutes}"),
            (f"* {hours} * * *", f"FREQ=MINUTELY;BYHOUR={hours}"),
            (f"{minutes} * * * *", f"FREQ=HOURLY;BYMINUTE={minutes}"),
            (f"{minutes} {hours} * * SUN", f"FREQ=WEEKLY;BYDAY=SU;BYHOUR={hours};BYMINUTE={minutes}"),
        ])  # fmt: skip
        options = dict(zip(("dst_gap", "dst_fold"), window.options, strict=True))
        start = window.after.replace(second=0) - timedelta(days=10)
        recurring = Schedule(rrule=f"{rrule};BYSECOND=0", timezone=window.zone, start_at=start, **options)
        expected = fires(Schedule(cron=cron, timezone=window.zone, **options), window.after, 40)
        assert fires(recurring, window.after, 40) == expected, (window, cron)
