"""A schedule in words for people. Pure; the only module that knows cron-descriptor.

cron-descriptor gets the values that a field has, not its text: it would call `*/90` "every 90 minutes". Its "or on
Friday" is replaced by what Debian's cron does when both day fields are restricted.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from itertools import pairwise

from cron_descriptor import CasingTypeEnum, DescriptionTypeEnum, ExpressionDescriptor, Options

from clockjack import cron, exclusions, rrule_text
from clockjack.timing import Schedule, cron_rule, recurrence_rule

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
NTH = ("last", "first", "second", "third", "fourth", "fifth")
UNITS = {"YEARLY": "year", "MONTHLY": "month", "WEEKLY": "week", "DAILY": "day", "HOURLY": "hour", "MINUTELY": "minute"}
SIZES = ((604_800, "week"), (86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))
MAX_LISTED = 8


def words(schedule: Schedule) -> str:
    """What the schedule, which is sound, says: "At 02:30, only on Friday (Europe/Berlin)"."""
    zone = f" ({schedule.timezone})"
    if schedule.cron is not None:
        text = _cron_words(cron_rule(schedule)) + zone
        if cron.wants_seed(schedule.cron):
            text += ", with this task's slots for H"
    elif schedule.rrule is not None:
        text = _rule_words(recurrence_rule(schedule)[0]) + zone
    elif schedule.every_s is not None:
        origin = "start_at" if schedule.start_at else "its registration"
        text = f"Every {_period(schedule.every_s)}, counted from {origin}"
    elif schedule.run_at_local is not None:
        text = f"Once, at {schedule.run_at_local.isoformat(' ')}" + zone
    else:
        text = f"Once, at {schedule.run_at} UTC"
    bounds = [f"{word} {at} UTC" for word, at in (("from", schedule.start_at), ("until", schedule.end_at)) if at]
    text += "".join(f", {bound}" for bound in bounds)
    if excluded := exclusions.ranges(schedule.exclude):
        spans = [str(first) if first == last else f"{first} to {last}" for first, last in excluded]
        text += f", except on {_listed(spans)}"
    if schedule.jitter_s:
        text += f", each moved by less than {_period(schedule.jitter_s, one='1 ')}"
    return text


def _cron_words(rule: cron.Rule) -> str:
    second, minute, hour, month = (
        _canonical(values, low, high)
        for values, low, high in (
            (rule.seconds, 0, 59),
            (sorted({of_day % 60 for of_day in rule.minutes}), 0, 59),
            (sorted({of_day // 60 for of_day in rule.minutes}), 0, 23),
            (sorted(rule.months), 1, 12),
        )
    )
    text = _described(f"{second} {minute} {hour} * * *", DescriptionTypeEnum.FULL)
    text += _days_words(rule)
    return text + _described(f"0 0 0 * {month} *", DescriptionTypeEnum.MONTH)


def _days_words(rule: cron.Rule) -> str:
    dates = "" if rule.days >= set(range(1, 32)) else _date_words(rule)
    weekdays = "" if len(rule.weekdays) == 7 else _weekday_words(rule)
    if dates and weekdays:
        return f", {dates} {'and only' if rule.both_days else 'or'} {weekdays}"
    if not rule.both_days and not (dates and weekdays):
        return ""  # one of them is every day, and one is enough
    return f", {dates or 'only ' + weekdays}" if dates or weekdays else ""


def _date_words(rule: cron.Rule) -> str:
    plain = sorted(rule.days - {0})
    last = "the last day" if 0 in rule.days else ""
    if not plain:
        return f"on {last} of the month"
    if last:
        return f"on day {_listed([*map(str, plain), last])} of the month"
    return _described(f"0 0 0 {_canonical(plain, 1, 31)} * *", DescriptionTypeEnum.DAYOFMONTH).removeprefix(", ")


def _weekday_words(rule: cron.Rule) -> str:
    if rule.nth_weekdays:
        found = [f"the {NTH[nth]} {DAYS[day - 1]}" for day, nth in sorted(rule.nth_weekdays)]
        return f"on {_listed(found)} of the month"
    if len(rule.weekdays) > 2 and (text := _canonical(sorted(rule.weekdays), 0, 6)).count("-") == 1 and "," not in text:
        first, last = (int(number) for number in text.split("-"))
        return f"{DAYS[first - 1]} through {DAYS[last - 1]}"
    return f"on {_listed([DAYS[day - 1] for day in sorted(rule.weekdays)])}"


def _canonical(values: Sequence[int], low: int, high: int) -> str:
    """The shortest field that has these values in order."""
    steps = {later - earlier for earlier, later in pairwise(values)}
    size = high - low + 1
    if len(values) == size:
        return "*"
    if len(values) > 2 and len(steps) == 1:
        step = steps.pop()
        if step == 1:
            return f"{values[0]}-{values[-1]}"
        whole = values[-1] + step > high
        if whole and values[0] == low and size % step == 0:
            return f"*/{step}"
        if len(values) > MAX_LISTED:
            return f"{values[0]}-{values[-1]}/{step}"
    return ",".join(str(value) for value in values)


def _described(expression: str, part: DescriptionTypeEnum) -> str:
    options = Options(casing_type=CasingTypeEnum.Sentence, use_24hour_time_format=True, locale_code="en_US")
    return str(ExpressionDescriptor(expression, options).get_description(part))


def _rule_words(rule: rrule_text.Rule) -> str:
    unit, numbers = UNITS[rule.freq], rule.numbers
    parts = [f"Every {unit}" if rule.interval == 1 else f"Every {rule.interval} {unit}s"]
    if "BYSETPOS" in numbers:
        parts[0] += f", the {_nth(numbers['BYSETPOS'])} of its times"
    if "BYMONTH" in numbers:
        parts.append(f"in {_listed(MONTHS[month - 1] for month in numbers['BYMONTH'])}")
    if "BYWEEKNO" in numbers:
        parts.append(f"in the {_nth(numbers['BYWEEKNO'])} week of the year")
    if "BYYEARDAY" in numbers:
        parts.append(f"on the {_nth(numbers['BYYEARDAY'])} day of the year")
    if "BYMONTHDAY" in numbers:
        parts.append(f"on the {_nth(numbers['BYMONTHDAY'])} day of the month")
    if rule.days:
        together = "that is a" if {"BYMONTHDAY", "BYYEARDAY"} & set(numbers) else "on"
        days = [
            f"the {_ordinal(nth)} {DAYS[day]}" if nth else DAYS[day]
            for nth, day in sorted(rule.days, key=lambda pair: _from_the_end(pair[0]))
        ]
        parts.append(f"{together} {_listed(days, 'or' if together != 'on' else 'and')}")
    text = f"{' '.join(parts)} {_times_words(rule)}"
    if rule.count:
        text += ", once" if rule.count == 1 else f", {rule.count} times"
    if rule.until or rule.until_utc:
        text += f", until {rule.until or f'{rule.until_utc} UTC'}"
    return text


def _times_words(rule: rrule_text.Rule) -> str:
    if rule.fixed:
        clocks = [f"{hour:02}:{minute:02}" + (f":{second:02}" if second else "") for hour, minute, second in rule.times]
        return f"at {_listed(clocks)}" if len(clocks) <= MAX_LISTED else f"at {len(clocks)} times of the day"
    found = []
    if "BYHOUR" in rule.numbers:
        found.append(f"in the hours {_listed(map(str, rule.numbers['BYHOUR']))}")
    if rule.freq == "HOURLY" or "BYMINUTE" in rule.numbers:
        found.append(f"at minute {_listed(map(str, rule.numbers.get('BYMINUTE', (rule.start.minute,))))}")
    found.append(f"at second {_listed(map(str, rule.numbers.get('BYSECOND', (rule.start.second,))))}")
    return ", ".join(found)


def _nth(numbers: Iterable[int]) -> str:
    return _listed(map(_ordinal, sorted(numbers, key=_from_the_end)))


def _from_the_end(number: int) -> tuple[bool, int]:
    return number < 0, number


def _ordinal(number: int) -> str:
    size = abs(number)
    suffix = "th" if size % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(size % 10, "th")
    if number < 0:
        return "last" if size == 1 else f"{size}{suffix} to last"
    return f"{size}{suffix}"


def _listed(items: Iterable[str], word: str = "and") -> str:
    found = list(items)
    if len(found) > MAX_LISTED + 4:
        found = [*found[:MAX_LISTED], f"{len(found) - MAX_LISTED} more"]
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} {word} {found[-1]}"


def _period(seconds: int, one: str = "") -> str:
    size, unit = next((size, unit) for size, unit in SIZES if seconds % size == 0)
    return f"{one}{unit}" if seconds == size else f"{timedelta(seconds=seconds) // timedelta(seconds=size)} {unit}s"
