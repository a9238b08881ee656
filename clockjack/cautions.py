"""What somebody who plans with a schedule should know before it surprises them. Pure."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise

from clockjack import cron, zones
from clockjack.schedules import occurrences
from clockjack.timing import Schedule, cron_rule, recurrence_rule, wall_rule
from clockjack.wallclock import NEAR, FirstWall, Manner
from clockjack.zones import Change

YEAR = timedelta(days=366)
MAX_CHANGES = 4
LENGTHS = {2: 29, 4: 30, 6: 30, 9: 30, 11: 30}
SIZES = {cron.SECOND: 60, cron.MINUTE: 60, cron.HOUR: 24, cron.DAY: 31, cron.MONTH: 12, cron.WEEKDAY: 7}
FAST = {timedelta(seconds=1): "every second", timedelta(minutes=1): "every minute"}


def warnings(schedule: Schedule, after: datetime) -> list[str]:
    """One sentence for each surprise in the schedule, which is sound, for somebody who looks at it from `after`."""
    plain = list(occurrences(replace(schedule, jitter_s=0), after, count=3))
    if not plain:
        return ["no occurrence is left"]
    steps = [later - earlier for earlier, later in pairwise(plain)]
    found = [f"fires {name}, at least some of the time" for step, name in FAST.items() if step in steps]
    if schedule.jitter_s and any(step <= timedelta(seconds=schedule.jitter_s) for step in steps):
        found.append("jitter_s reaches to the next occurrence: each is moved less than that far")
    if schedule.cron is not None:
        found += _of_cron(schedule)
    elif schedule.rrule is not None and schedule.start_at is None:
        found += _of_open_times(schedule)
    return found + list(_of_clock_changes(schedule, after))


def _of_cron(schedule: Schedule) -> Iterator[str]:
    rule = cron_rule(schedule)
    days, weekdays = rule.fields[cron.DAY], rule.fields[cron.WEEKDAY]
    if days != "*" and weekdays != "*":
        if rule.both_days:
            yield "day-of-month and day-of-week must both match, for one begins with * (the rule of Debian's cron)"
        else:
            yield "a day is enough that matches day-of-month or day-of-week (the rule of Debian's cron)"
    for index, field in enumerate(rule.fields):
        for item in field.split(","):
            first, _, step = item.partition("/")
            size = SIZES[index] if first == "*" else 0
            if first == "*" and step and int(step) >= size:
                yield f"{item} in the {cron.FIELDS[index]} field is its first value only"
            elif first == "*" and step and index <= cron.HOUR and size % int(step):
                yield f"{item} in the {cron.FIELDS[index]} field begins anew each time: the last gap is shorter"
    yield from _of_dates(rule)
    if cron.wants_seed(schedule.cron or "") and not schedule.seed:
        yield "H is a slot hashed from the task: without its identity (seed) these are not its times"


def _of_dates(rule: cron.Rule) -> Iterator[str]:
    if rule.fields[cron.DAY].startswith("*"):
        return
    for day in sorted(rule.days - set(range(29))):
        missing = [month for month in sorted(rule.months) if day > LENGTHS.get(month, 31)]
        if missing:
            yield f"day {day} does not exist in month {', '.join(map(str, missing))}: nothing fires there for it"
    if 29 in rule.days and 2 in rule.months:
        yield "29 February exists in leap years only"


def _of_open_times(schedule: Schedule) -> Iterator[str]:
    rule = recurrence_rule(schedule)[0]
    missing = " and ".join(part for part in ("BYHOUR", "BYMINUTE") if part not in rule.numbers)
    if rule.fixed and missing:
        yield f"without start_at the registration decides the time of day, for the rule has no {missing}"


def _of_clock_changes(schedule: Schedule, after: datetime) -> Iterator[str]:
    planned = wall_rule(schedule)
    if not planned:
        return
    first_wall, manner = planned
    moment, count = max(after, schedule.start_at or after), 0
    end = min(moment + YEAR, schedule.end_at or zones.LAST, zones.LAST)
    if schedule.run_at_local:
        moment, end = schedule.run_at_local - NEAR, schedule.run_at_local + NEAR
    while count < MAX_CHANGES and (change := zones.next_change(schedule.timezone, moment)) and change.at <= end:
        outcome = _outcome(change, first_wall, manner)
        if outcome:
            count += 1
            shown = f"{change.at + change.before:%H:%M} becomes {change.at + change.after:%H:%M}"
            yield f"clocks in {schedule.timezone} change on {change.at + change.before:%Y-%m-%d}, {shown}: {outcome}"
        moment = change.at


def _outcome(change: Change, first_wall: FirstWall, manner: Manner) -> str:
    """What becomes of the occurrences that fall into this change; "" if none do."""
    low, high = sorted((change.at + change.before, change.at + change.after))
    found = first_wall(low)
    if not found or found >= high:
        return ""
    forward = change.after > change.before
    if high - low > manner.largest:
        return "more than 3 hours, so a correction: nothing is made up for or held back"
    if forward and not manner.fixed:
        return "occurrences in the skipped time are left out"
    if forward and manner.gap == "run_after":
        return f"occurrences in the skipped time run once, right after it, at {change.at + change.after:%H:%M}"
    if forward:
        return "occurrences in the skipped time are left out (dst_gap = skip)"
    if not manner.fixed or manner.fold == "both":
        return "occurrences in the repeated time run in both passes"
    return f"occurrences in the repeated time run in its {manner.fold} pass only"
