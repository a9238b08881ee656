"""What made an occurrence other than its rule says: a change of clocks, days off, jitter. Pure."""

from dataclasses import replace
from datetime import datetime, timedelta
from itertools import islice
from typing import NamedTuple

from clockjack import phrases, zones
from clockjack.schedules import Schedule, is_occurrence, next_after, occurrences, unmoved
from clockjack.timing import wall_rule
from clockjack.wallclock import TICK, FirstWall
from clockjack.zones import Change

MAX_WALLS, MAX_COUNTED = 100, 2_000
NONE = timedelta(0)


class Shift(NamedTuple):
    """A clock change that touches an occurrence: in words, and for how many times that do not exist it stands."""

    text: str
    stands_for: int = 0


def notes(schedule: Schedule, due: datetime, after: datetime) -> list[str]:
    """One phrase for each thing that moved this occurrence, or left some out since `after`, the one before it."""
    planned = unmoved(schedule, due)
    shift = of_clocks(schedule, due)
    found = [shift.text] if shift else []
    if schedule.exclude:
        found += _of_days_off(replace(schedule, exclude=None, jitter_s=0), planned, after)
    if planned != due:
        found.append(f"jitter moved it by {phrases.span(due - planned)}")
    return found


def of_clocks(schedule: Schedule, due: datetime) -> Shift | None:
    """What a clock change does to this occurrence; None if none touches it."""
    rule = wall_rule(schedule)
    if not rule:
        return None
    due, plain = unmoved(schedule, due), replace(schedule, jitter_s=0)
    first_wall, manner = rule
    last, coming = zones.stretch(schedule.timezone, due)[0], zones.next_change(schedule.timezone, due)
    if last.after > last.before:
        made_up = manner.fixed and manner.gap == "run_after" and last.after - last.before <= manner.largest
        first = last.at + timedelta(seconds=manner.first_second) if made_up else next_after(plain, last.at - TICK)
        if due == first:
            return _of_gap(schedule.timezone, last, _walls(first_wall, last), due if made_up else None)
    only = manner.fold if manner.fixed and manner.fold != "both" else None
    if last.before - last.after > NONE and due < last.at + (last.before - last.after):
        only = only if last.before - last.after <= manner.largest else None
        return _of_fold(schedule.timezone, due + last.after, last, "second", only)
    if coming and due >= coming.at - (coming.before - coming.after):
        only = only if coming.before - coming.after <= manner.largest else None
        return _of_fold(schedule.timezone, due + coming.before, coming, "first", only)
    return None


def count(schedule: Schedule, due: datetime, until: datetime, most: int = MAX_COUNTED) -> int:
    """How many occurrences lie from `due`, which is one, to before `until`; counted up to `most`."""
    if until <= due:
        return 0
    end = unmoved(schedule, until) if is_occurrence(schedule, until) else until
    plain = replace(schedule, jitter_s=0)
    start = unmoved(schedule, due)
    if schedule.every_s and not schedule.exclude and not schedule.end_at:
        return min(most, -(-(end - start) // timedelta(seconds=schedule.every_s)))
    return sum(1 for _ in islice(occurrences(plain, start - TICK, until=end - TICK), most))


def _walls(first_wall: FirstWall, change: Change) -> list[datetime]:
    found: list[datetime] = []
    wall, end = change.at + change.before, change.at + change.after
    while len(found) < MAX_WALLS and (next_one := first_wall(wall)) and next_one < end:
        found.append(next_one)
        wall = next_one + TICK
    return found


def _of_gap(timezone: str, change: Change, lost: list[datetime], runs_at: datetime | None) -> Shift | None:
    if not lost:
        return None
    begin, end = phrases.clock(change.at + change.before), phrases.clock(change.at + change.after)
    times = phrases.listed([phrases.clock(wall) for wall in lost])
    text = f"{lost[0]:%Y-%m-%d} {times} {'does' if len(lost) == 1 else 'do'} not exist in {timezone}"
    text += f" ({begin} becomes {end})"
    if runs_at is None:
        return Shift(f"{text}: left out")
    how = "due" if len(lost) == 1 else "due once,"
    return Shift(f"{text}: {how} at {phrases.clock(runs_at + change.after)}", len(lost))


def _of_fold(timezone: str, wall: datetime, change: Change, run: str, only: str | None) -> Shift:
    begin, end = phrases.clock(change.at + change.before), phrases.clock(change.at + change.after)
    text = f"{wall:%Y-%m-%d} {phrases.clock(wall)} comes twice in {timezone} ({begin} becomes {end}): "
    return Shift(text + (f"due the {run} time only" if only else f"this is the {run} time"))


def _of_days_off(everything: Schedule, planned: datetime, after: datetime) -> list[str]:
    left_out = list(islice(occurrences(everything, after, until=planned - TICK), MAX_COUNTED))
    if not left_out:
        return []
    first, last = (phrases.zoned(everything.timezone, due).date() for due in (left_out[0], left_out[-1]))
    days = f"{first}" if first == last else f"{first} to {last}"
    return [f"exclude leaves out {phrases.number(len(left_out), 'occurrence', MAX_COUNTED)} before it ({days})"]
