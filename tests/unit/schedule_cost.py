"""What `next_after` costs for 1,000 tasks that share 50 expressions, beside raw croniter in the same run.

`python -m tests.unit.cron_oracle --cost`. Processor time is measured: what else the machine does is not its cost.
"""

import time
from datetime import UTC, datetime, timedelta
from statistics import median

from croniter import croniter

from clockjack import zones
from clockjack.schedules import Schedule, next_after
from tests.unit import cron_oracle

TASKS, EXPRESSIONS, STEPS, ROUNDS = 1_000, 50, 20, 5
ZONE, BEGIN = "Europe/Berlin", datetime(2026, 3, 1)
PROMISE_US = 20.0


def shared(schedules: list[Schedule], begin: datetime) -> float:
    """Microseconds a call, with each task going from occurrence to occurrence, all in turn: answers are often known."""
    moments = [begin + timedelta(seconds=number) for number in range(len(schedules))]
    begun = time.process_time()
    for _ in range(STEPS):
        for number, schedule in enumerate(schedules):
            moments[number] = next_after(schedule, moments[number]) or begin
    return (time.process_time() - begun) / (STEPS * len(schedules)) * 1e6


def never_asked_before(schedules: list[Schedule], begin: datetime) -> float:
    """Microseconds a call, each from a moment of its own: no answer is known."""
    moments = [begin + timedelta(seconds=7 * number, microseconds=number) for number in range(STEPS * len(schedules))]
    questions = list(zip(schedules * STEPS, moments, strict=True))
    begun = time.process_time()
    for schedule, moment in questions:
        next_after(schedule, moment)
    return (time.process_time() - begun) / len(questions) * 1e6


def raw(expressions: list[str], begin: datetime) -> float:
    """The same by croniter alone, made anew for each call as a stateless scheduler has to."""
    zone = zones.load(ZONE)
    moments = [(begin + timedelta(seconds=7 * number)).replace(tzinfo=UTC).astimezone(zone) for number in range(TASKS)]
    begun = time.process_time()
    for expression, moment in zip(expressions, moments, strict=True):
        croniter(expression, moment).get_next(datetime)
    return (time.process_time() - begun) / len(expressions) * 1e6


def main() -> int:
    five_fields = [cron for cron in cron_oracle.EXPRESSIONS if len(cron.split()) != 6][:EXPRESSIONS]
    expressions = [five_fields[number % len(five_fields)] for number in range(TASKS)]
    schedules = [Schedule(cron=cron, timezone=ZONE, seed=str(number)) for number, cron in enumerate(expressions)]
    begins = [BEGIN + timedelta(days=7 * turn) for turn in range(1, ROUNDS + 1)]
    first = shared(schedules, BEGIN)  # also reads the expressions and looks for the zone's changes
    together = median(shared(schedules, begin) for begin in begins)
    alone = median(never_asked_before(schedules, begin) for begin in begins)
    theirs = median(raw(expressions, begin) for begin in begins)
    print(
        f"{TASKS} tasks, {len(set(expressions))} expressions, {ZONE}, {TASKS * STEPS} calls in each of {ROUNDS} rounds"
    )
    print(f"tasks going on together: first round {first:.1f} µs a call, others {together:.1f} µs")
    print(f"each from a moment of its own: {alone:.1f} µs of a processor (promised: at most {PROMISE_US:.0f} µs)")
    print(f"raw croniter: median {theirs:.1f} µs, {theirs / alone:.0f} times as much")
    return 1 if max(first, together, alone) > PROMISE_US else 0
