"""cronsim's opinion on the oracle's windows, with the reason of every difference.

`python -m tests.unit.cron_oracle --cronsim`
"""

import re
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from cronsim import CronSim, CronSimError

from clockjack import schedules, zones
from clockjack.schedules import Schedule
from tests.unit import cron_oracle
from tests.unit.cron_oracle import Window

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


def opinion(window: Window, limit: int) -> list[datetime]:
    """What cronsim gives in the window; CronSimError if it does not take the expression."""
    cron = cron_oracle.NICKNAMES.get(window.cron.lower(), window.cron.upper())
    cron = re.sub(r"\bL([0-7])", r"\1L", cron)  # cronsim writes L5 as 5L
    cron = cron.replace("0-7/2", "0-6/2") if cron.endswith("0-7/2") else cron
    begin = window.after.replace(tzinfo=UTC).astimezone(zones.load(window.zone))
    found: list[datetime] = []
    for local in CronSim(cron, begin):
        instant = local.astimezone(UTC).replace(tzinfo=None)
        if instant > window.until or len(found) == limit:
            break
        found.append(instant)
    return found


def reason(window: Window, found: list[datetime]) -> str:
    """Why cronsim differs in the window; "" if that is not known."""
    changes = [change for change in _changes(window) if abs(change.after - change.before) <= cron_oracle.CORRECTION]
    fields = cron_oracle.NICKNAMES.get(window.cron.lower(), window.cron).split()
    if found and found[0] <= window.after:
        return "asked in the second pass of a repeated hour, it answers with the past"
    if len(fields) == 6 and found == cron_oracle.occurrences(*window._replace(options=("skip", "both"))):
        return "a seconds field: it follows the wall clock, for it applies cron(8)'s rule to five fields only"
    if any((change.after - change.before) % HOUR or (change.at + change.before).minute for change in changes):
        return "clocks move by half an hour, or not on the hour, and it steps by whole hours past what is due"
    if any(_skips_midnight(change) for change in changes):
        return "a day that has no midnight, which it begins too late or loses"
    return ""


def main(count: int, seed: int) -> int:
    """1 if a difference has no known reason, or the oracle is on cronsim's side."""
    begun, tally, examples = time.monotonic(), Counter[str](), dict[str, str]()
    ours_wrong = 0
    for window in cron_oracle.windows(seed, count, cron_oracle.everywhere()):
        asked = window._replace(options=cron_oracle.DEFAULT)
        schedule = Schedule(cron=asked.cron, timezone=asked.zone)
        ours = list(schedules.occurrences(schedule, asked.after, until=asked.until))
        try:
            theirs = opinion(asked, 2 * len(ours) + 1_000)
        except CronSimError:
            tally["not asked: an expression that cronsim does not take"] += 1
            continue
        if theirs == ours:
            tally["the same"] += 1
            continue
        why = reason(asked, theirs) or "UNEXPLAINED"
        tally[why] += 1
        ours_wrong += ours != cron_oracle.occurrences(*asked)
        which = min(set(ours) ^ set(theirs))
        side = "cronsim only" if which in theirs else "Clockjack and the oracle only"
        examples.setdefault(why, f"{asked.cron!r} in {asked.zone} after {asked.after}: {which}, {side}")
    print(f"{count} windows, seed {seed}, {time.monotonic() - begun:.0f} s")
    for why, number in tally.most_common():
        print(f"{number:6}  {why}" + (f"\n        {examples[why]}" if why in examples else ""))
    print(f"{ours_wrong} of the differences in which the oracle is not on our side, {tally['UNEXPLAINED']} unexplained")
    return 1 if ours_wrong or tally["UNEXPLAINED"] else 0


def _changes(window: Window) -> Iterator[zones.Change]:
    moment = window.after - DAY
    while (change := zones.next_change(window.zone, moment)) and change.at <= window.until:
        yield change
        moment = change.at


def _skips_midnight(change: zones.Change) -> bool:
    before, after = change.at + change.before, change.at + change.after
    return before < after and (before.date() < after.date() or before.time() == datetime.min.time())
