"""When a task is due. Pure: no wall clock, no network, no database; only the zones packaged with tzdata are read.

Invariant: `next_after` gives the occurrences of a schedule one by one, strictly increasing in UTC, and the answer
depends only on its arguments, so that starting again from any instant continues the same sequence.

A schedule is one of five kinds; `clockjack.cron` and `clockjack.recurrence` say what their texts mean. What a change of
a zone's clocks does to them, after Debian's cron(8); `dst_gap` and `dst_fold` change it for those at a particular time:

- cron at a particular time (neither minute nor hour begins with `*`) and rrule with DAILY or longer: what falls into a
  skipped hour runs once right after it, however many occurrences it was (cron with a seconds field: at its first second
  in the first minute after); `skip` leaves it out. RFC 5545 §3.3.5 would move each by the length of the gap instead.
  What falls into a repeated hour runs in its first pass only; `last`: in its second only; `both`: in both.
- cron with `*` there and rrule with HOURLY or MINUTELY follow the wall clock: nothing is made up for, and both passes
  count. The options change nothing.
- run_at_local is at a particular time, but runs once: `both` is refused, and so is `skip` if its time does not exist.
- run_at and every_s count real time and know no clock changes.
- A change of more than 3 hours is a correction of the clock: all just follow the new time. Only run_at_local, which has
  no later chance, still runs after the gap or once.

Then `exclude` takes away what falls on its dates by the zone's calendar, and `jitter_s` moves what is left: each by an
amount hashed from the seed and the occurrence, less than jitter_s and never up to the next occurrence, past end_at or
onto an excluded date.
"""

# ruff: noqa: DTZ001
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from itertools import islice

from clockjack import cron, exclusions, recurrence, spread, wallclock
from clockjack.timing import FIRST, KINDS, Schedule, ScheduleError, check_interval, check_zone, cron_rule, planned
from clockjack.wallclock import FOLDS, GAPS, TICK
from clockjack.zones import LAST

__all__ = [
    "Schedule",
    "ScheduleError",
    "first",
    "is_occurrence",
    "next_after",
    "occurrences",
    "unmoved",
    "validate",
    "wants_seed",
]

MAX_JITTER_S = 86_400
MAX_SEED_LENGTH = 200
DAY = timedelta(days=1)


def validate(schedule: Schedule) -> None:
    """The schedule is sound and, as far as that can be known without a clock, fires; else ScheduleError says why not.

    Whether an occurrence is left after the present moment is for the caller to ask: `next_after` is None if not.
    """
    kinds = [name for name in KINDS if getattr(schedule, name) is not None]
    if len(kinds) != 1:
        given = " and ".join(kinds) or "none"
        message = f"give exactly one of {', '.join(KINDS[:-1])} and {KINDS[-1]}; given: {given}"
        raise ScheduleError((kinds or ["run_at"])[-1], message)
    check_zone(schedule.timezone)
    for name in ("run_at", "run_at_local", "start_at", "end_at"):
        _check_moment(name, getattr(schedule, name))
    _check_policies(schedule)
    counts = schedule.every_s is not None or schedule.rrule is not None
    if schedule.every_s is not None:
        check_interval(schedule.every_s)
    elif schedule.cron is not None:
        cron_rule(schedule)
    elif schedule.rrule is not None:
        _check_rrule(schedule.rrule)
    if schedule.run_at_local is not None and schedule.dst_fold == "both":
        raise ScheduleError("dst_fold", "dst_fold cannot be 'both' with run_at_local, which runs once")
    if schedule.start_at and schedule.end_at and schedule.end_at <= schedule.start_at:
        raise ScheduleError("end_at", "end_at must be later than start_at")
    if (not counts or schedule.start_at or schedule.anchor) and first(schedule) is None:
        raise _never(schedule)


def next_after(schedule: Schedule, after: datetime) -> datetime | None:
    """The first occurrence strictly after `after` (both naive UTC), or None when there is none left.

    start_at and end_at are inclusive. ScheduleError if a part of the schedule that it needs cannot be used.
    """
    return _moved(schedule, after) if schedule.jitter_s else _kept(schedule, after)


def first(schedule: Schedule) -> datetime | None:
    """The first occurrence of all, however long ago; None when there is none."""
    return next_after(schedule, FIRST - TICK)


def unmoved(schedule: Schedule, due: datetime) -> datetime:
    """Where the occurrence that is due at `due` lies without jitter."""
    last = _kept(schedule, due - timedelta(seconds=schedule.jitter_s)) if schedule.jitter_s else None
    return _last_kept(schedule, last, due)[0] if last and last <= due else due


def wants_seed(schedule: Schedule) -> bool:
    """Whether its occurrences depend on the seed."""
    return schedule.jitter_s > 0 or (schedule.cron is not None and cron.wants_seed(schedule.cron))


def is_occurrence(schedule: Schedule, instant: datetime) -> bool:
    """Whether the schedule fires at exactly this instant (naive UTC)."""
    return instant >= FIRST and next_after(schedule, instant - TICK) == instant


def occurrences(
    schedule: Schedule, after: datetime, *, until: datetime | None = None, count: int | None = None
) -> Iterator[datetime]:
    """The occurrences strictly after `after`, up to and including `until`, at most `count`; found one by one."""
    return islice(_occurrences(schedule, after, until or LAST), count)


def _occurrences(schedule: Schedule, after: datetime, until: datetime) -> Iterator[datetime]:
    while (found := next_after(schedule, after)) and found <= until:
        yield found
        after = found


def _moved(schedule: Schedule, after: datetime) -> datetime | None:
    """The first occurrence after `after`, jitter included."""
    _check_jitter(schedule.jitter_s)
    after = max(after, FIRST - TICK)
    last = _kept(schedule, after - timedelta(seconds=schedule.jitter_s))
    if last is None:
        return None
    if last <= after:  # of those up to `after` only the last one can have been moved past it
        last, following = _last_kept(schedule, last, after)
        moved = _with_jitter(schedule, last, following)
        if moved > after or following is None:
            return moved if moved > after else None
        last = following
    return _with_jitter(schedule, last, _kept(schedule, last))


def _last_kept(schedule: Schedule, last: datetime, until: datetime) -> tuple[datetime, datetime | None]:
    """The last occurrence up to `until`, which `last` is one of, and the one after it; both without jitter."""
    beyond = until
    while (following := _kept(schedule, last)) and following <= until:
        middle = following + (beyond - following) / 2
        found = _kept(schedule, middle)
        if found and found <= until:
            last = found
        else:
            last, beyond = following, middle
    return last, following


def _with_jitter(schedule: Schedule, occurrence: datetime, following: datetime | None) -> datetime:
    limit = occurrence + timedelta(seconds=schedule.jitter_s)
    limit = min(limit, following or limit, (schedule.end_at or LAST) + TICK)
    if schedule.exclude:
        tomorrow = wallclock.local(schedule.timezone, occurrence).date() + DAY
        if exclusions.covering(_excluded(schedule), tomorrow):
            limit = min(limit, wallclock.first_showing(schedule.timezone, _midnight(tomorrow), occurrence))
    return occurrence + spread.delay(schedule.seed, occurrence, limit - occurrence)


def _kept(schedule: Schedule, after: datetime) -> datetime | None:
    """The first occurrence after `after` that is not excluded, as it is without jitter."""
    found = planned(schedule, after)
    if not schedule.exclude:
        return found
    excluded = _excluded(schedule)
    while found:
        last = exclusions.covering(excluded, wallclock.local(schedule.timezone, found).date())
        if last is None:
            break
        found = planned(schedule, wallclock.first_showing(schedule.timezone, _midnight(last + DAY), found) - TICK)
    return found


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day)


def _excluded(schedule: Schedule) -> exclusions.Ranges:
    try:
        return exclusions.ranges(schedule.exclude)
    except ValueError as error:
        raise ScheduleError("exclude", str(error)) from None


def _check_moment(name: str, moment: object) -> None:
    if moment is not None and not (isinstance(moment, datetime) and moment.tzinfo is None):
        kind = "by the clocks of its zone" if name == "run_at_local" else "in UTC"
        raise ScheduleError(name, f"{name} must be a date and time {kind}")
    if moment is not None and not FIRST <= moment <= LAST:
        raise ScheduleError(name, f"{name} must lie in the years {FIRST.year} to {LAST.year}")


def _check_policies(schedule: Schedule) -> None:
    _check_jitter(schedule.jitter_s)
    _excluded(schedule)
    if not isinstance(schedule.seed, str) or len(schedule.seed) > MAX_SEED_LENGTH:
        raise ScheduleError("seed", f"seed must be text of at most {MAX_SEED_LENGTH} characters")
    for name, value, known in (("dst_gap", schedule.dst_gap, GAPS), ("dst_fold", schedule.dst_fold, FOLDS)):
        if value not in known:
            raise ScheduleError(name, f"{name} must be one of {', '.join(known)}")


def _check_jitter(jitter_s: object) -> None:
    if isinstance(jitter_s, bool) or not isinstance(jitter_s, int) or not 0 <= jitter_s <= MAX_JITTER_S:
        raise ScheduleError(
            "jitter_s", f"jitter_s must be a whole number of seconds from 0 to {MAX_JITTER_S} (one day)"
        )


def _check_rrule(text: object) -> None:
    if not isinstance(text, str):
        raise ScheduleError("rrule", "rrule must be text")
    try:
        recurrence.check(text)
    except ValueError as error:
        raise ScheduleError("rrule", str(error)) from None


def _never(schedule: Schedule) -> ScheduleError:
    """Why a schedule that is sound in each part never fires."""
    if schedule.exclude and first(replace(schedule, exclude=None)):
        return ScheduleError("exclude", "exclude takes away every occurrence: leave one")
    bound = "end_at" if schedule.end_at else "start_at"
    if not schedule.start_at and not schedule.end_at:
        if schedule.run_at_local:
            text = f"run_at_local is skipped by a clock change in {schedule.timezone}, and dst_gap is skip: change one"
            return ScheduleError("run_at_local", text)
        bound = "rrule" if schedule.rrule else bound
        return ScheduleError(bound, f"{bound} never fires after the registration: correct it")
    return ScheduleError(bound, f"the schedule has no occurrence between start_at and end_at: correct {bound}")
