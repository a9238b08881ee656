"""A second, slow opinion on cron: it walks every minute of UTC, as cron(8) lives through them, without a cron library.

`python -m tests.unit.cron_oracle --windows 20000` compares it with `clockjack.schedules` in windows around the clock
changes of 2015-2037, and exits with 1 if they differ anywhere.
"""

import argparse
import random
import struct
import sys
import time
from calendar import monthrange
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import cache
from importlib import resources
from zoneinfo import ZoneInfo

from clockjack import zones
from clockjack.schedules import Schedule, next_after

MINUTE = timedelta(minutes=1)
CORRECTION = timedelta(hours=3)
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


def occurrences(cron: str, zone: str, after: datetime, until: datetime) -> list[datetime]:
    """What fires after `after` and up to `until` (naive UTC), minute by minute."""
    seconds, *_, fixed = parse(cron)
    begin = after.replace(second=0, microsecond=0) - 4 * timedelta(hours=1)
    walls = wall_clock(zone, begin, int((until - begin) / MINUTE) + 1)
    found = []
    until_wall = previous = walls[0]
    for index, wall in enumerate(walls[1:], 1):
        now = begin + index * MINUTE
        jump = wall - previous - MINUTE
        hit, lost = matches(cron, wall), False
        if jump and abs(jump) <= CORRECTION:
            lost = fixed and any(matches(cron, previous + k * MINUTE) for k in range(1, jump // MINUTE + 1))
            until_wall = previous + MINUTE
        elif jump:
            until_wall = wall
        previous = wall
        if fixed and wall < until_wall:
            continue  # the first pass has had it
        if hit or lost:
            found += [now + timedelta(seconds=s) for s in (sorted(seconds) if hit else [min(seconds)])]
    return [instant for instant in found if after < instant <= until]


@cache
def load(zone: str) -> ZoneInfo:
    with resources.files("tzdata").joinpath(f"zoneinfo/{zone}").open("rb") as file:
        return ZoneInfo.from_file(file)


def wall_clock(zone: str, begin: datetime, minutes: int) -> list[datetime]:
    """What the clock on the wall shows at each of these minutes."""
    place = load(zone)
    aware = begin.replace(tzinfo=UTC)
    return [(aware + n * MINUTE).astimezone(place).replace(tzinfo=None) for n in range(minutes)]


def zone_changes_differ(zone: str, years: range) -> str:
    """Where `zones.changes_of` and the zone's file (RFC 8536) disagree in these years; "" if nowhere.

    The file lists changes up to some instant; from then on a rule in its last line makes two a year, or none.
    """
    data = resources.files("tzdata").joinpath(f"zoneinfo/{zone}").read_bytes()
    start = 0
    for size in (4, 8):  # the second part has the 64-bit times
        utc_flags, std_flags, leaps, times, types, letters = struct.unpack_from(">6l", data, start + 20)
        body, start = start + 44, start + 44 + times * (size + 1) + types * 6 + letters + leaps * (size + 4)
        start += std_flags + utc_flags
    offsets = [struct.unpack_from(">l", data, body + 9 * times + 6 * kind)[0] for kind in range(types)]
    instants = [datetime(1970, 1, 1) + timedelta(seconds=s) for s in struct.unpack_from(f">{times}q", data, body)]
    listed = [offsets[0], *(offsets[kind] for kind in data[body + 8 * times : body + 9 * times])]
    expected = [change for change in zip(instants, listed, listed[1:], strict=False) if change[1] != change[2]]
    last = instants[-1] if instants else datetime.min
    for year in years:
        found = [change for change in zones.changes_of(zone, year)[1:] if change.at.year == year]
        seconds = [(at, before.total_seconds(), after.total_seconds()) for at, before, after in found if at <= last]
        if seconds != [change for change in expected if change[0].year == year]:
            return f"{zone} in {year}: listed changes"
        if year > last.year and len(found) != (2 if b"," in data.splitlines()[-1] else 0):
            return f"{zone} in {year}: {len(found)} changes by rule"
    return ""


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


def windows(
    seed: int, count: int, places: list[str], last_year: int = 2037
) -> Iterator[tuple[str, str, datetime, datetime]]:
    """`count` times (cron, zone, after, until), drawn by the seed: half of the expressions are made up."""
    dice = random.Random(seed)
    while count:
        zone = dice.choice(places)
        changes = half_days_with_changes(zone, 2015, last_year)
        if not changes:
            continue
        cron = dice.choice(EXPRESSIONS) if dice.random() < 0.5 else made_up(dice)
        after = dice.choice(changes) + timedelta(seconds=dice.randrange(-10 * 3600, 12 * 3600))
        if dice.random() < 0.5:
            after = after.replace(second=0)
        yield cron, zone, after, after + timedelta(hours=dice.choice([6, 14, 14, 14, 60]))
        count -= 1


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


def difference(cron: str, zone: str, after: datetime, until: datetime) -> tuple[int, str]:
    """How many occurrences the window has, and in words where the two disagree ("" if nowhere)."""
    expected = occurrences(cron, zone, after, until)
    schedule = Schedule(cron=cron, timezone=zone)
    found = []
    instant = next_after(schedule, after)
    while instant is not None and instant <= until and len(found) <= len(expected):
        found.append(instant)
        instant = next_after(schedule, instant)
    if found == expected:
        return len(found), ""
    wrong = sorted(set(found) ^ set(expected))[:3]
    return len(found), f"{cron!r} in {zone} from {after} to {until}: " + ", ".join(
        f"{instant} {'missing' if instant in expected else 'too much'}" for instant in wrong
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    everywhere = sorted(set(resources.files("tzdata").joinpath("zones").read_text().split()) - {"Factory"})
    unlike = [text for zone in everywhere if (text := zone_changes_differ(zone, range(2000, 2040)))]
    print(f"{len(everywhere)} zones, changes of 2000-2039 unlike the zone file: {unlike or 'none'}")
    begun, fires, differences = time.monotonic(), 0, len(unlike)
    half = arguments.windows // 2
    for places, count in ((ZONES, half), (everywhere, arguments.windows - half)):
        for window in windows(arguments.seed, count, places):
            found, wrong = difference(*window)
            fires, differences = fires + found, differences + bool(wrong)
            if wrong:
                print(wrong)
    print(
        f"{arguments.windows} windows, {fires} occurrences, {differences} differences, {time.monotonic() - begun:.0f} s"
    )
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
