"""A second, slow opinion on cron: it walks every minute of UTC, as cron(8) lives through them, without a cron library.

`python -m tests.unit.cron_oracle --windows 20000` compares it with `clockjack.schedules` in windows near every clock
change of every zone in 2015-2037, under all options for clock changes, and exits with 1 if they differ anywhere.
`--cronsim` asks that library for a second opinion, `--cost` measures.
"""

import argparse
import random
import sys
import time
from calendar import monthrange
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import cache
from importlib import resources
from itertools import cycle, islice
from typing import NamedTuple
from zoneinfo import ZoneInfo

from clockjack import schedules
from clockjack.schedules import Schedule
from tests.said import compared
from tests.unit import zone_files

MINUTE = timedelta(minutes=1)
CORRECTION = timedelta(hours=3)
GAPS, FOLDS = ("run_after", "skip"), ("first", "last", "both")
Options = tuple[str, str]
DEFAULT: Options = ("run_after", "first")
WEEKDAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}

ZONES = [
    *("Europe/Berlin", "Europe/Dublin", "Europe/Riga", "Europe/Lisbon", "Europe/Istanbul"),
    *(
        "America/New_York",
        "America/Havana",
        "America/St_Johns",
        "America/Santiago",
        "America/Sao_Paulo",
        "America/Caracas",
    ),
    *(
        "Asia/Beirut",
        "Asia/Gaza",
        "Asia/Tehran",
        "Asia/Pyongyang",
        "Africa/Cairo",
        "Africa/Casablanca",
        "Africa/Khartoum",
    ),
    *(
        "Australia/Lord_Howe",
        "Antarctica/Troll",
        "Antarctica/Casey",
        "Pacific/Apia",
        "Pacific/Norfolk",
        "Pacific/Chatham",
    ),
]

EXPRESSIONS = [
    *("* * * * *", "*/5 * * * *", "*/7 * * * *", "*/30 * * * *", "0 * * * *", "30 * * * *", "17 * * * *", "@hourly"),
    *("0 */2 * * *", "0 */3 * * *", "30 */2 * * *", "* 2 * * *", "* 0,1 * * *", "*/30 1 * * *", "*/30 2 * * *"),
    *("*/10 1 * * 0,5", "*/15 23 * * *", "24,44 * * * *", "5,35 * * * 0", "0 0 * * *", "@daily", "0 0 * * 5"),
    *("0 0 * * 0", "@weekly", "30 0 * * *", "59 0 * * *", "0 1 * * *", "30 1 * * *", "45 1 * * *", "0 2 * * *"),
    *("15 2 * * *", "30 2 * * *", "5,35 2 * * *", "30 2,3 * * *", "30 1,2 * * *", "0 1,2,3,4,5 * * *", "0 3 * * *"),
    *("30 2-4 * * *", "0-59/30 1-3 * * *", "0/30 0-4 * * *", "5-55/10 22-2 * * *", "30 23 * * *", "59 23 * * *"),
    *("0 23,0,1 * * *", "0 12 * * *", "0 0 1 * *", "@monthly", "30 2 L * *", "0 2 * * 7", "30 1 * * SUN#1"),
    *("30 2 * * L0", "0 3 */2 * 0", "0 2 29-31 MAR,OCT SUN", "30 2 1-7 * SAT-MON", "0 0 24 4 *", "1 0 1 1 *"),
    *("0 30 2 * * *", "15 30 2 * * *", "10,40 5,35 2 * * *", "*/20 0 * * * *", "59 59 1-3 * * *", "30 */10 2 * * *"),
]


class Window(NamedTuple):
    """A question: what fires after `after` and up to `until`."""

    cron: str
    zone: str
    after: datetime
    until: datetime
    options: Options = DEFAULT


@cache
def parse(cron: str) -> tuple[set[int], set[int], set[int], set[int], str, str, bool]:
    """Seconds, minutes, hours, months, the two day fields as text, and whether the job is at a fixed time."""
    fields = NICKNAMES.get(cron.lower(), cron.upper()).split()
    if len(fields) == 5:
        fields.insert(0, "0")
    second, minute, hour, day, month, weekday = fields
    for number, name in enumerate(WEEKDAYS):
        weekday = weekday.replace(name, str(number))
    for number, name in enumerate(MONTHS, 1):
        month = month.replace(name, str(number))
    fixed = minute[0] != "*" and hour[0] != "*"
    return values(second, 0, 59), values(minute, 0, 59), values(hour, 0, 23), values(month, 1, 12), day, weekday, fixed


def values(field: str, low: int, high: int) -> set[int]:
    """The numbers that a list of `*`, `a`, `a-b`, each with or without `/step`, stands for."""
    found = set()
    for item in field.split(","):
        span, _, step = item.partition("/")
        first, _, last = span.partition("-")
        if first == "*":
            first, last = str(low), str(high)
        elif not last:
            last = str(high) if step else first
        number = int(first)
        while True:
            found.add(number)
            if number == int(last) or (step and number + int(step) > int(last)):
                break
            number += int(step or 1)
            if number > high:
                number = low  # FRI-MON
    return found


@cache
def day_matches(cron: str, day: date) -> bool:
    """Debian's rule: both day fields if either begins with `*`, else one of them is enough."""
    _, _, _, months, dates, weekdays, _ = parse(cron)
    if day.month not in months:
        return False
    length = monthrange(day.year, day.month)[1]
    by_date = any(day.day == length if item == "L" else day.day in values(item, 1, 31) for item in dates.split(","))
    by_weekday = any(weekday_matches(item, day, length) for item in weekdays.split(","))
    return by_date and by_weekday if "*" in (dates[0], weekdays[0]) else by_date or by_weekday


def weekday_matches(item: str, day: date, length: int) -> bool:
    today = day.isoweekday() % 7
    if item[0] == "L":
        return today == int(item[1:]) % 7 and day.day > length - 7
    if "#" in item:
        weekday, nth = item.split("#")
        return today == int(weekday) % 7 and (day.day + 6) // 7 == int(nth)
    return today in {number % 7 for number in values(item, 0, 7 if "7" in item else 6)}


def matches(cron: str, wall: datetime) -> bool:
    _, minutes, hours, *_ = parse(cron)
    return wall.minute in minutes and wall.hour in hours and day_matches(cron, wall.date())


def occurrences(cron: str, zone: str, after: datetime, until: datetime, options: Options = DEFAULT) -> list[datetime]:
    """What fires after `after` and up to `until` (naive UTC), minute by minute."""
    seconds, minutes, hours, *_, fixed = parse(cron)
    gap, fold = options
    begin = after.replace(second=0, microsecond=0) - 4 * timedelta(hours=1)
    count = int((until - begin) / MINUTE) + 1
    walls = wall_clock(zone, begin, count + 4 * 60)
    passes, lost = passes_of(walls), lost_before(walls)
    found = []
    for index, wall in enumerate(walls[1:count], 1):
        hit = wall.minute in minutes and wall.hour in hours and day_matches(cron, wall.date())
        made_up = fixed and gap == "run_after" and any(matches(cron, missing) for missing in lost.get(index, ()))
        if fixed and fold != "both" and passes.get(index, fold) != fold:
            continue
        if hit or made_up:
            now = begin + index * MINUTE
            found += [now + timedelta(seconds=s) for s in (sorted(seconds) if hit else [min(seconds)])]
    return [instant for instant in found if after < instant <= until]


def passes_of(walls: list[datetime]) -> dict[int, str]:
    """For each minute that the clocks show twice because of a clock change: is it the first or the last time."""
    found = {}
    for index in range(1, len(walls)):
        back = walls[index - 1] + MINUTE - walls[index]
        if timedelta(0) < back <= CORRECTION:
            for step in range(back // MINUTE):
                found[index + step] = "last"
                found[index - 1 - step] = "first"
    return found


def lost_before(walls: list[datetime]) -> dict[int, list[datetime]]:
    """What the clocks have just skipped at this minute because of a clock change."""
    found = {}
    for index in range(1, len(walls)):
        jump = walls[index] - walls[index - 1] - MINUTE
        if timedelta(0) < jump <= CORRECTION:
            found[index] = [walls[index - 1] + step * MINUTE for step in range(1, jump // MINUTE + 1)]
    return found


@cache
def load(zone: str) -> ZoneInfo:
    with resources.files("tzdata").joinpath(f"zoneinfo/{zone}").open("rb") as file:
        return ZoneInfo.from_file(file)


def wall_clock(zone: str, begin: datetime, minutes: int) -> list[datetime]:
    """What the clock on the wall shows at each of these minutes."""
    place = load(zone)
    aware = begin.replace(tzinfo=UTC)
    return [(aware + n * MINUTE).astimezone(place).replace(tzinfo=None) for n in range(minutes)]


@cache
def half_days_with_changes(zone: str, first_year: int = 2015, last_year: int = 2037) -> list[datetime]:
    """The beginnings of the half days of UTC in which the zone's offset changes."""
    place = load(zone)
    found, moment, step = [], datetime(first_year, 1, 1, tzinfo=UTC), timedelta(hours=12)
    offset = moment.astimezone(place).utcoffset()
    while moment.year <= last_year:
        now = (moment + step).astimezone(place).utcoffset()
        if now != offset:
            found.append(moment.replace(tzinfo=None))
        moment, offset = moment + step, now
    return found


def windows(seed: int, count: int, places: list[str], last_year: int = 2037) -> Iterator[Window]:
    """`count` windows, drawn by the seed, near the changes of these zones: each change equally often.

    Half of the expressions are made up, and half of the windows have the default options.
    """
    dice = random.Random(seed)
    changes = [(zone, half_day) for zone in places for half_day in half_days_with_changes(zone, 2015, last_year)]
    dice.shuffle(changes)
    for zone, half_day in islice(cycle(changes), count):
        cron = dice.choice(EXPRESSIONS) if dice.random() < 0.5 else made_up(dice)
        after = half_day + timedelta(seconds=dice.randrange(-10 * 3600, 12 * 3600))
        if dice.random() < 0.5:
            after = after.replace(second=0)
        until = after + timedelta(hours=dice.choice([6, 14, 14, 14, 60]))
        options = DEFAULT if dice.random() < 0.5 else (dice.choice(GAPS), dice.choice(FOLDS))
        yield Window(cron, zone, after, until, options)


def made_up(dice: random.Random) -> str:
    """An expression of any kind, mostly about the hours in which clocks are changed."""

    def span(low: int, high: int) -> str:
        first, last = sorted(dice.sample(range(low, high + 1), 2))
        return f"{first}-{last}"

    minute = dice.choice(["*", f"*/{dice.randrange(1, 70)}", str(dice.randrange(60)), "0", "30", span(0, 59)])
    minute = dice.choice(
        [minute, f"{dice.randrange(60)},{dice.randrange(60)}", f"{span(0, 59)}/{dice.randrange(1, 20)}"]
    )
    hour = dice.choice(
        ["*", f"*/{dice.randrange(1, 5)}", str(dice.randrange(4)), "2", span(0, 5), "22-2", "23,0,1", "*,3"]
    )
    day = dice.choice(["*", "*", "*", "*", "*/2", span(1, 31), "L", "15,L", f"{dice.randrange(1, 32)}/3"])
    month = dice.choice(["*", "*", "*", "*", "MAR-MAY,SEP-NOV", "OCT-APR", "*/2"])
    weekday = dice.choice(
        ["*", "*", "*", "*", "0", "7", "SUN", "FRI-MON", "*/2", "5-7", "1-5", "SUN#2", "L0,L5", "0-7/2"]
    )
    second = dice.choice(["", "", "", "0 ", "15 ", "7,37 ", "*/20 ", "30-35 "])
    return f"{second}{minute} {hour} {day} {month} {weekday}"


def difference(window: Window) -> tuple[int, str]:
    """How many occurrences the window has, and in words where the two disagree ("" if nowhere)."""
    cron, zone, after, until, (gap, fold) = window
    expected = occurrences(*window)
    schedule = Schedule(cron=cron, timezone=zone, dst_gap=gap, dst_fold=fold)
    found = list(schedules.occurrences(schedule, after, until=until, count=len(expected) + 1))
    compared["windows"] += 1
    if found == expected:
        return len(found), ""
    compared["differences"] += 1
    wrong = sorted(set(found) ^ set(expected))[:3]
    return len(found), f"{cron!r} in {zone} ({gap}, {fold}) from {after} to {until}: " + ", ".join(
        f"{instant} {'missing' if instant in expected else 'too much'}" for instant in wrong
    )


def everywhere() -> list[str]:
    """Every packaged zone that is a place."""
    return sorted(set(resources.files("tzdata").joinpath("zones").read_text().split()) - {"Factory"})


def compare(count: int, seed: int) -> int:
    """How many of the windows differ, which are printed."""
    begun, fires, differences, seen = time.monotonic(), 0, 0, set()
    for window in windows(seed, count, everywhere()):
        found, wrong = difference(window)
        fires, differences = fires + found, differences + bool(wrong)
        seen.add((window.zone, window.after.date().replace(day=1)))
        if wrong:
            print(wrong)
    zones_seen = len({zone for zone, _ in seen})
    print(
        f"{count} windows in {zones_seen} zones with changes, {fires} occurrences, {differences} differences,"
        f" {time.monotonic() - begun:.0f} s"
    )
    return differences


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cronsim", action="store_true", help="compare with cronsim, and explain each difference")
    parser.add_argument("--cost", action="store_true", help="measure next_after beside raw croniter")
    arguments = parser.parse_args()
    if arguments.cost:
        from tests.unit import schedule_cost

        return schedule_cost.main()
    if arguments.cronsim:
        from tests.unit import second_opinion

        return second_opinion.main(arguments.windows, arguments.seed)
    unlike = [text for zone in everywhere() if (text := zone_files.changes_differ(zone, range(2000, 2040)))]
    print(f"{len(everywhere())} zones, changes of 2000-2039 unlike the zone file: {unlike or 'none'}")
    return 1 if compare(arguments.windows, arguments.seed) or unlike else 0


if __name__ == "__main__":
    sys.exit(main())
