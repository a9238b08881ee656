"""From times of the wall clock to instants: what happens when a zone's clocks are changed.

The default is the rule of Debian's cron(8) for changes of up to 3 hours: "if the time has moved forwards, those jobs
which would have run in the time that was skipped will be run soon after the change"; if it has moved backwards, "those
jobs that fall into the repeated time will not be re-run". "Only jobs that run at a particular time" are affected.
Instants are naive UTC, times of the wall clock are naive. Pure.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple

from clockjack import zones

TICK = timedelta(microseconds=1)
CLOCK_CHANGE = timedelta(hours=3)  # more is a correction of the clock (cron(8)); exactly 3 hours, as at Casey, is not
ANY_CHANGE = timedelta.max
NEAR = timedelta(days=2)
GAPS = ("run_after", "skip")
FOLDS = ("first", "last", "both")

FirstWall = Callable[[datetime], datetime | None]


class Manner(NamedTuple):
    """How a schedule meets clock changes."""

    fixed: bool  # meant for a particular time; else it follows the wall clock, whatever `gap` and `fold` say
    gap: str = "run_after"  # one of GAPS
    fold: str = "first"  # one of FOLDS
    largest: timedelta = CLOCK_CHANGE  # a larger shift is a correction: the new time is just followed
    first_second: int = 0  # of the minute, in which what a gap has swallowed is run


def next_instant(timezone: str, after: datetime, first_wall: FirstWall, manner: Manner) -> datetime | None:
    """The first instant after `after` at which the zone's wall clock makes the schedule fire; None if there is none.

    `first_wall` gives the schedule's first time of the wall clock at or after the one it is called with.
    """
    while True:
        change, end = zones.stretch(timezone, after + TICK)
        begin, before, offset = change
        wall = max(after + TICK, begin) + offset
        if manner.fixed and offset != before and abs(offset - before) <= manner.largest:
            # The wall clock went on from begin + before to begin + offset.
            if offset < before and manner.fold == "first":
                wall = max(wall, begin + before)  # what is repeated has had its runs
            elif offset > before and manner.gap == "run_after":
                made_up = begin + timedelta(seconds=manner.first_second)
                lost = first_wall(begin + before) if made_up > after else None
                if lost and lost < begin + offset:
                    return made_up
        found = first_wall(wall)
        if found is None:  # only a fold soon could bring back a time of the wall clock that has passed
            if end - after > NEAR:
                return None
        elif found - offset < end:
            again = _repetition(timezone, found, offset, manner) if manner.fold == "last" else None
            if again is None:
                return found - offset
            end = again
        elif found - offset > zones.LAST:
            return None
        after = end - TICK


def first_showing(timezone: str, wall: datetime, after: datetime) -> datetime:
    """The first instant after `after` at which the zone's wall clock shows `wall` or later."""
    while True:
        change, end = zones.stretch(timezone, after + TICK)
        found = max(wall - change.after, after + TICK)
        if found < end:
            return found
        after = end - TICK


def local(timezone: str, instant: datetime) -> datetime:
    """What the zone's wall clock shows at the instant."""
    return instant + zones.stretch(timezone, instant)[0].after


def _repetition(timezone: str, wall: datetime, offset: timedelta, manner: Manner) -> datetime | None:
    """When the second pass begins in which this time of the wall clock is shown again, if it will be."""
    change = zones.next_change(timezone, wall - offset)
    if not manner.fixed or change is None or not timedelta(0) < change.before - change.after <= manner.largest:
        return None
    return change.at if wall >= change.at + change.after else None
