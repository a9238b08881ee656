"""What a schedule means in words, its warnings, and `clockjack next --stdin`."""

# ruff: noqa: E501
import io
import json
import subprocess
import sys
import time
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clockjack import lines
from clockjack.cautions import warnings
from clockjack.preview import preview
from clockjack.schedules import Schedule, ScheduleError, validate
from clockjack.wording import words
from tests.unit import cron_oracle, test_recurrence
from tests.unit.schedule_tables import fires, rows

OPEN = datetime(2026, 1, 1)

WORDS = """
* * * * *           | Every minute
*/15 * * * *        | Every 15 minutes
30 2 * * *          | At 02:30
15 30 2 * * *       | At 02:30:15
*/10 * * * * *      | Every 10 seconds
*/90 * * * *        | Every hour
59/15 * * * *       | At 59 minutes past the hour
5-5 * * * *         | At 5 minutes past the hour
5/20 * * * *        | At 5, 25, and 45 minutes past the hour
*/7 * * * *         | Every 7 minutes, minutes 0 through 56 past the hour
*,5 * * * *         | Every minute
0 */2 * * *         | Every 2 hours
0 22-2 * * *        | At 00:00, 01:00, 02:00, 22:00 and 23:00
0 9 * * MON-FRI     | At 09:00, only Monday through Friday
0 9 * * 5-7         | At 09:00, only on Sunday, Friday and Saturday
0 0 13 * FRI        | At 00:00, on day 13 of the month or on Friday
0 0 13 * */7        | At 00:00, on day 13 of the month and only on Sunday
0 0 1-31 * 1        | At 00:00
0 0 *,3 * 1         | At 00:00, only on Monday
0 0 1 1 *           | At 00:00, on day 1 of the month, only in January
0 0 L * *           | At 00:00, on the last day of the month
0 0 1,L * *         | At 00:00, on day 1 and the last day of the month
0 9 * * L5          | At 09:00, only on the last Friday of the month
0 9 * * FRI#2       | At 09:00, only on the second Friday of the month
0 0 * NOV-FEB *     | At 00:00, only in January, February, November, and December
* 2 * * *           | Every minute, between 02:00 and 02:59
@daily              | At 00:00
@hourly             | Every hour
0 9 * * THU         | At 09:00, only on Thursday
"""


@pytest.mark.parametrize(("cron", "expected"), rows(WORDS))
def test_words_of_a_cron(cron: str, expected: str) -> None:
    assert words(Schedule(cron=cron, timezone="Asia/Tokyo")) == f"{expected} (Asia/Tokyo)"


@pytest.mark.parametrize(("schedule", "expected"), [
    (Schedule(run_at=datetime(2026, 5, 1, 12)), "Once, at 2026-05-01 12:00:00 UTC"),
    (Schedule(run_at_local=datetime(2026, 5, 1, 12), timezone="Asia/Tokyo"), "Once, at 2026-05-01 12:00:00 (Asia/Tokyo)"),
    (Schedule(every_s=1), "Every second, counted from its registration"),
    (Schedule(every_s=90), "Every 90 seconds, counted from its registration"),
    (Schedule(every_s=7200, start_at=OPEN), "Every 2 hours, counted from start_at, from 2026-01-01 00:00:00 UTC"),
    (Schedule(cron="0 9 * * *", end_at=OPEN), "At 09:00 (UTC), until 2026-01-01 00:00:00 UTC"),
    (Schedule(cron="0 9 * * *", exclude=("2026-12-24/2026-12-26", "2026-05-01"), jitter_s=60),
     "At 09:00 (UTC), except on 2026-05-01 and 2026-12-24 to 2026-12-26, each moved by less than 1 minute"),
    (Schedule(cron="H H * * *", seed="42"), "At 18:57 (UTC), with this task's slots for H"),
    (Schedule(rrule="FREQ=DAILY", anchor=OPEN), "Every day at 00:00 (UTC)"),
    (Schedule(rrule="FREQ=WEEKLY;INTERVAL=2;BYDAY=TH,MO;COUNT=10", anchor=OPEN), "Every 2 weeks on Monday and Thursday at 00:00, 10 times (UTC)"),
    (Schedule(rrule="FREQ=MONTHLY;BYDAY=2TU,-1FR", anchor=OPEN), "Every month on the 2nd Tuesday and the last Friday at 00:00 (UTC)"),
    (Schedule(rrule="FREQ=MONTHLY;BYDAY=MO,FR;BYSETPOS=-1", anchor=OPEN), "Every month, the last of its times on Monday and Friday at 00:00 (UTC)"),
    (Schedule(rrule="FREQ=MONTHLY;BYDAY=FR;BYMONTHDAY=13", anchor=OPEN), "Every month on the 13th day of the month that is a Friday at 00:00 (UTC)"),
    (Schedule(rrule="FREQ=YEARLY;BYMONTH=1,3;BYMONTHDAY=-1,2;UNTIL=20300101", anchor=OPEN),
     "Every year in January and March on the 2nd and last day of the month at 00:00, until 2030-01-01 23:59:59 (UTC)"),
    (Schedule(rrule="FREQ=YEARLY;BYYEARDAY=1,-1;BYHOUR=9,17;BYSECOND=5", anchor=OPEN), "Every year on the 1st and last day of the year at 09:00:05 and 17:00:05 (UTC)"),
    (Schedule(rrule="FREQ=YEARLY;BYWEEKNO=20;BYDAY=MO", anchor=OPEN), "Every year in the 20th week of the year on Monday at 00:00 (UTC)"),
    (Schedule(rrule="FREQ=HOURLY;INTERVAL=3;BYHOUR=9,12;COUNT=1", anchor=OPEN), "Every 3 hours in the hours 9 and 12, at minute 0, at second 0, once (UTC)"),
    (Schedule(rrule="FREQ=DAILY;BYHOUR=0,1,2,3,4;BYMINUTE=0,30", anchor=OPEN), "Every day at 10 times of the day (UTC)"),
], ids=str)  # fmt: skip
def test_words_of_the_others(schedule: Schedule, expected: str) -> None:
    validate(schedule)
    assert words(schedule) == expected


@pytest.mark.parametrize("seed", range(2))
def test_every_sound_schedule_has_words_and_warnings(seed: int) -> None:
    for window in cron_oracle.windows(seed, 60, cron_oracle.ZONES, last_year=2030):
        found = preview(Schedule(cron=window.cron, timezone=window.zone), window.after, 3)
        assert found["words"]
        assert len(found["next"]) == 3
        assert all(text.isprintable() for text in [found["words"], *found["warnings"]])
    dice = cron_oracle.random.Random(seed)
    for _ in range(60):
        try:
            found = preview(Schedule(rrule=test_recurrence.made_up(dice), start_at=OPEN), OPEN, 3)
        except ScheduleError:
            continue
        assert found["words"].startswith("Every ")


BERLIN_GAP = "clocks in Europe/Berlin change on 2026-03-29, 02:00 becomes 03:00"
BERLIN_FOLD = "clocks in Europe/Berlin change on 2026-10-25, 03:00 becomes 02:00"


@pytest.mark.parametrize(("given", "expected"), [
    ({"cron": "0 12 * * *"}, []),
    ({"cron": "30 2 * * *"}, [
        f"{BERLIN_GAP}: occurrences in the skipped time run once, right after it, at 03:00",
        f"{BERLIN_FOLD}: occurrences in the repeated time run in its first pass only"]),
    ({"cron": "30 2 * * *", "dst_gap": "skip", "dst_fold": "last"}, [
        f"{BERLIN_GAP}: occurrences in the skipped time are left out (dst_gap = skip)",
        f"{BERLIN_FOLD}: occurrences in the repeated time run in its last pass only"]),
    ({"cron": "30 2 * * *", "dst_fold": "both", "end_at": datetime(2026, 12, 1), "start_at": datetime(2026, 4, 1)}, [
        f"{BERLIN_FOLD}: occurrences in the repeated time run in both passes"]),
    ({"cron": "0 * * * *"}, [
        f"{BERLIN_GAP}: occurrences in the skipped time are left out",
        f"{BERLIN_FOLD}: occurrences in the repeated time run in both passes"]),
    ({"cron": "* * * * *", "timezone": "UTC"}, ["fires every minute, at least some of the time"]),
    ({"cron": "* * * * * *", "timezone": "UTC"}, ["fires every second, at least some of the time"]),
    ({"cron": "0 12 13 * FRI"}, ["a day is enough that matches day-of-month or day-of-week (the rule of Debian's cron)"]),
    ({"cron": "0 12 */2 * FRI"}, ["day-of-month and day-of-week must both match, for one begins with * (the rule of Debian's cron)"]),
    ({"cron": "*/90 * * * *", "timezone": "UTC"}, ["*/90 in the minute field is its first value only"]),
    ({"cron": "*/45 * * * *", "timezone": "UTC"}, ["*/45 in the minute field begins anew each time: the last gap is shorter"]),
    ({"cron": "0 12 30,31 2,4 *"}, [
        "day 30 does not exist in month 2: nothing fires there for it",
        "day 31 does not exist in month 2, 4: nothing fires there for it"]),
    ({"cron": "0 12 29 2 *"}, ["29 February exists in leap years only"]),
    ({"cron": "H 12 * * *"}, ["H is a slot hashed from the task: without its identity (seed) these are not its times"]),
    ({"cron": "H 12 * * *", "seed": "5"}, []),
    ({"rrule": "FREQ=DAILY", "anchor": datetime(2026, 1, 1, 12)}, ["without start_at the registration decides the time of day, for the rule has no BYHOUR and BYMINUTE"]),
    ({"rrule": "FREQ=DAILY;BYHOUR=9;BYMINUTE=0", "anchor": OPEN}, []),
    ({"run_at_local": datetime(2030, 3, 31, 2, 30)}, ["clocks in Europe/Berlin change on 2030-03-31, 02:00 becomes 03:00: occurrences in the skipped time run once, right after it, at 03:00"]),
    ({"run_at": datetime(2025, 1, 1)}, ["no occurrence is left"]),
    ({"every_s": 60, "anchor": OPEN, "jitter_s": 300}, ["fires every minute, at least some of the time", "jitter_s reaches to the next occurrence: each is moved less than that far"]),
    ({"cron": "30 2 * * *", "timezone": "Pacific/Apia"}, []),
], ids=str)  # fmt: skip
def test_warnings(given: dict[str, Any], expected: list[str]) -> None:
    schedule = Schedule(**({"timezone": "Europe/Berlin"} | given))
    validate(schedule)
    assert warnings(schedule, OPEN) == expected


def test_a_correction_of_the_clock_is_no_clock_change() -> None:
    lost = warnings(Schedule(cron="0 12 * * *", timezone="Pacific/Apia"), datetime(2011, 6, 1))
    assert any("more than 3 hours, so a correction" in text for text in lost)


# line | answer
LINES = [
    ('{"cron": "30 2 * * *", "timezone": "Europe/Berlin", "after": "2026-03-28T12:00:00Z", "count": 2}', ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]),
    ('{"cron": "30 2 * * *", "timezone": "Europe/Berlin", "after": "2026-03-29T01:00:00Z", "until": "2026-03-31T00:30:00Z"}', ["2026-03-30T00:30:00Z", "2026-03-31T00:30:00Z"]),
    ('{"cron": "30 2 * * *", "timezone": "Europe/Berlin", "after": "2026-03-29T03:00:00+02:00", "until": "2026-03-31T02:29:59.999999999+02:00"}', ["2026-03-30T00:30:00Z"]),
    ('{"cron": "* * * * *", "after": "2026-03-29T00:00:00Z", "until": "2026-03-29T00:00:59.9999999Z"}', []),
    ('{"cron": "* * * * *", "after": "2026-03-29T00:00:59.9999999Z", "count": 1}', ["2026-03-29T00:01:00Z"]),
    ('{"cron": "@hourly", "after": "2026-03-29T00:00:00Z", "until": "2026-03-29T09:00:00Z", "count": 1}', ["2026-03-29T01:00:00Z"]),
    ('{"cron": "@hourly", "after": "2026-03-29T00:00:00Z", "until": "2025-01-01T00:00:00Z"}', []),
    ('{"cron": "@hourly", "after": "2026-03-29T00:00:00Z", "count": 0}', []),
    ('{"cron": "0 0 * * *", "timezone": null, "after": "2199-12-30T00:00:00Z", "count": 5}', ["2199-12-31T00:00:00Z"]),
    ('{"every_s": 3600, "after": "2026-01-01T00:00:00.5Z", "count": 2}', ["2026-01-01T01:00:00.500000Z", "2026-01-01T02:00:00.500000Z"]),
    ('{"rrule": "FREQ=DAILY;COUNT=2", "start_at": "2026-01-01T09:00:00-05:00", "timezone": "America/New_York", "after": "2026-01-01T00:00:00Z", "count": 9}', ["2026-01-01T14:00:00Z", "2026-01-02T14:00:00Z"]),
    ('{"run_at_local": "2026-10-25T02:30", "timezone": "Europe/Berlin", "dst_fold": "last", "after": "2026-01-01T00:00:00Z", "count": 9}', ["2026-10-25T01:30:00Z"]),
    ('{"run_at": "2026-05-01T00:00:00Z", "after": "2026-01-01T00:00:00Z", "count": 9}', ["2026-05-01T00:00:00Z"]),
    ('{"cron": "H H * * *", "seed": "42", "after": "2026-01-01T00:00:00Z", "count": 1}', ["2026-01-01T18:57:00Z"]),
    ('{"cron": "0 9 * * *", "exclude": ["2026-01-01/2026-01-03"], "after": "2026-01-01T00:00:00Z", "count": 1}', ["2026-01-04T09:00:00Z"]),
]  # fmt: skip


@pytest.mark.parametrize(("line", "expected"), LINES)
def test_lines(line: str, expected: list[str]) -> None:
    assert json.loads(lines.answer(line.encode())) == expected


GOOD = {"cron": "* * * * *", "timezone": "UTC", "after": "2026-01-01T00:00:00Z", "count": 1}


@pytest.mark.parametrize(("wrong", "named"), [
    ({"cron": None}, "run_at"), ({"cron": 5}, "cron"), ({"cron": ""}, "cron"), ({"cron": "* * * *"}, "cron"), ({"cron": ["* * * * *"]}, "cron"),
    ({"cron": "R * * * *"}, "cron"), ({"cron": "0 0 30 2 *"}, "cron"), ({"cron": "* * * * *\n"}, "cron"), ({"cron": "\ud800 * * * *"}, "cron"),
    ({"every_s": 5}, "every_s"), ({"timezone": "Mars/X"}, "timezone"), ({"timezone": 5}, "timezone"), ({"timezone": ["UTC"]}, "timezone"), ({"timezone": ""}, "timezone"),
    ({"after": None}, "after"), ({"after": "2026-01-01"}, "after"), ({"after": "2026-01-01T00:00:00"}, "after"), ({"after": 5}, "after"),
    ({"after": "2026-02-30T00:00:00Z"}, "after"), ({"after": "1999-12-31T00:00:00Z"}, "after"), ({"after": "2026-01-01T24:00:00Z"}, "after"),
    ({"count": None}, "count"), ({"count": -1}, "count"), ({"count": 1.5}, "count"), ({"count": "1"}, "count"), ({"count": True}, "count"), ({"count": 10**7}, "count"),
    ({"until": "soon"}, "until"), ({"until": 5}, "until"), ({"bogus": 1}, "bogus"), ({"anchor": "2026-01-01T00:00:00Z"}, "anchor"),
    ({"jitter_s": -1}, "jitter_s"), ({"jitter_s": []}, "jitter_s"), ({"exclude": {"a": 1}}, "exclude"), ({"exclude": [[]]}, "exclude"), ({"seed": {}}, "seed"),
    ({"dst_gap": "x"}, "dst_gap"), ({"dst_fold": {}}, "dst_fold"), ({"start_at": "x"}, "start_at"), ({"end_at": "2025-01-01T00:00:00Z", "start_at": "2026-01-01T00:00:00Z"}, "end_at"),
    ({"cron": None, "run_at_local": "2026-01-01T00:00:00Z"}, "run_at_local"), ({"cron": None, "rrule": "FREQ=SECONDLY"}, "rrule"), ({"cron": None, "rrule": {}}, "rrule"),
], ids=str)  # fmt: skip
def test_a_bad_line_is_answered_with_an_error_that_names_the_field(wrong: dict[str, Any], named: str) -> None:
    (error,) = json.loads(lines.answer(json.dumps(GOOD | wrong).encode())).items()
    assert error[0] == "error"
    assert named in error[1].split(":")[0]
    assert len(error[1]) < 600


@pytest.mark.parametrize("line", [b"", b"\n", b"{", b"[]", b"null", b"5", b'"x"', b"\xff", b"NaN", b"[" * 5000, b'{"a":' * 2000,
                                  b"{" + b" " * 70_000 + b"}", b'{"count": ' + b"9" * 5000 + b"}", b"\xef\xbb\xbf{}"])  # fmt: skip
def test_what_is_no_json_object_is_answered_with_an_error(line: bytes) -> None:
    assert set(json.loads(lines.answer(line))) == {"error"}


def test_too_many_instants_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_INSTANTS", 100)
    line = '{"cron": "* * * * *", "after": "2026-01-01T00:00:00Z", "until": "2026-01-01T01:%s:00Z"}'
    assert len(json.loads(lines.answer((line % "39").encode()))) == 99
    assert "until" in json.loads(lines.answer((line % "40").encode()))["error"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(lines.NAMES)), JSON, max_size=3))
def test_any_json_has_one_answer(document: dict[str, Any]) -> None:
    for given_ in (
        document,
        GOOD | {"count": 3} | {name: value for name, value in document.items() if name != "count"},
    ):
        answer = lines.answer(json.dumps(given_).encode())
        assert "\n" not in answer
        assert isinstance(json.loads(answer), (list, dict))


def test_the_command_answers_each_line_in_order_without_libraries_for_servers() -> None:
    script = (
        "import sys; sys.argv = ['clockjack', 'next', '--stdin']\n"
        "from clockjack.__main__ import main; main()\n"
        "heavy = {'sqlalchemy', 'pydantic', 'httpx2', 'redis', 'rq', 'typer', 'rich', 'fastapi', 'cron_descriptor'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    document = "\n".join(line for line, _ in LINES) + "\nbad\n" + LINES[0][0]
    ended = subprocess.run(
        [sys.executable, "-c", script], input=document, capture_output=True, text=True, env={}, check=True
    )
    answers = [json.loads(line) for line in ended.stdout.splitlines()]
    assert answers[: len(LINES)] == [expected for _, expected in LINES]
    assert set(answers[-2]) == {"error"}
    assert answers[-1] == LINES[0][1]
    assert ended.stderr == "[]\n"


def test_an_answer_comes_before_the_next_line() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "clockjack", "next", "--stdin"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        for line, expected in LINES[:2]:
            process.stdin.write(line.encode() + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline()) == expected
        process.stdin.close()
        assert process.wait(10) == 0


def test_thousands_of_lines_a_second() -> None:
    """About 4,000 a second with 5 instants each on an idle core; the bound is for a busy machine."""
    asked = [
        json.dumps(
            {"cron": window.cron, "timezone": window.zone, "after": window.after.isoformat() + "Z", "count": 5}
        ).encode()
        for window in cron_oracle.windows(1, 500, cron_oracle.ZONES[:6], last_year=2030)
    ]
    out = io.StringIO()
    begun = time.process_time()
    lines.serve(asked, out)
    assert time.process_time() - begun < 2
    assert len(out.getvalue().splitlines()) == 500
    first = json.loads(out.getvalue().splitlines()[0])
    window = next(cron_oracle.windows(1, 500, cron_oracle.ZONES[:6], last_year=2030))
    expected = fires(Schedule(cron=window.cron, timezone=window.zone), window.after, 5)
    assert first == [f"{at.isoformat()}Z" for at in expected]
