"""How a handler may end its attempt otherwise than by success or failure: raised or returned, the effect is the same.

raise Retry(30)                    # a failure: tried again in 30 s, if the task's budget allows
return Snooze(600)                 # no failure: the same occurrence comes again in 10 minutes
raise Discard("the user is gone")  # over: nothing is left to do, nobody need look at it
raise Fail("no such template")     # over: a dead letter, whatever is left of the budget
"""

LONGEST_S = 604_800.0  # what is to come later than in a week is another task
SHORTEST_SNOOZE_S = 1.0  # an occurrence that waits for something must not go round without a pause
WHY_CHARS = 1_000


class Ending(Exception):
    """One of the endings below; `why` is for people and is kept with the attempt."""

    def __init__(self, why: str | None = None) -> None:
        if why is not None and not isinstance(why, str):
            raise TypeError(f"{type(self).__name__}: why must be a text, not {type(why).__name__}")
        self.why = why[:WHY_CHARS] if why else None
        super().__init__(self.why or "")


class Retry(Ending):
    """The attempt has failed and is tried again `after_s` from now, instead of after the task's back-off.

    It counts against max_failures, as every failure does: a receiver that says "in 30 s" for ever would otherwise be
    asked for ever. When that was the last attempt, the run is FAILED. 0 ≤ after_s ≤ 604,800.
    """

    def __init__(self, after_s: float, why: str | None = None) -> None:
        self.after_s = _seconds(self, after_s, 0.0)
        super().__init__(why)


class Snooze(Ending):
    """The attempt ends without a failure, and the same occurrence comes again `after_s` from now.

    `attempt` grows, since a start is a start; `failures` does not. What is not ready yet is no fault of the handler, so
    it may snooze as often as it wants: `run.attempt` and `run.due_at` tell it when to give up. 1 ≤ after_s ≤ 604,800.
    """

    def __init__(self, after_s: float, why: str | None = None) -> None:
        self.after_s = _seconds(self, after_s, SHORTEST_SNOOZE_S)
        super().__init__(why)


class Discard(Ending):
    """The run is over without retries: CANCELLED with the reason `discarded`; `why` is its error.

    It is not `failed`: that is the list of dead letters, which somebody looks through and replays, and which pauses a
    task that keeps failing; here the handler has said that nothing is left to do. And it is not `skipped`, which says
    that no handler was ever entered.
    """

    def __init__(self, why: str) -> None:
        if not isinstance(why, str) or not why.strip():
            raise TypeError("Discard: why must be a text: who looks later has nothing else to go by")
        super().__init__(why)


class Fail(Ending):
    """The run is FAILED for good, whatever is left of max_failures: a dead letter that says `why`."""

    def __init__(self, why: str) -> None:
        super().__init__(why)


class InvalidPayload(Fail):
    """The payload does not fit what the handler takes: no retry would mend that. The text holds none of its values."""


class LeaseLost(Exception):
    """The run is not this attempt's any more: another one may be at work. What this one still writes is refused."""


def _seconds(ending: Ending, after_s: object, least_s: float) -> float:
    name = type(ending).__name__
    if isinstance(after_s, bool) or not isinstance(after_s, (int, float)):
        raise TypeError(f"{name}: after_s must be a number of seconds, not {type(after_s).__name__}")
    if not least_s <= after_s <= LONGEST_S:
        raise ValueError(f"{name}: after_s must be from {least_s:g} to {LONGEST_S:,.0f} seconds, not {after_s!r}")
    return float(after_s)
