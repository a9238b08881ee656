"""A consumer that was away longer than its lease, and came back with an outcome."""

import signal
import time

from tests.prove.counting import Effects
from tests.prove.stage import Stage, until

AWAY_S = 22.0
OUTCOME = "SELECT state, attempt, worker, finished_at, result, failures FROM runs WHERE task_id = :t"


def stopped_past_its_lease(stage: Stage) -> tuple[str, bool]:
    """Two consumers came back after their leases, one from the middle of a handler, one with a success in hand.

    What the survivor wrote stays; the refusals are counted on the processes that were refused.
    """
    effects = Effects(stage.effects)
    stage.cast(dispatcher=1)
    inside = stage.start("consumer")
    (first,) = stage.register([stage.now_us()], '{"sleep_ms": 9000, "echo": "first"}')
    entered = until(lambda: effects.read().by_key.get(first), 10, 0.02)
    time.sleep(3.0)  # a heartbeat gave it 20 s
    inside.send(signal.SIGSTOP)
    stopped_s = time.monotonic()
    after = stage.start("consumer", ("stop-before-finish",))
    (second,) = stage.register([stage.now_us()], '{"echo": "second"}')
    froze = until(lambda: after.frozen, 10, 0.02)
    survivor = stage.start("consumer")

    def done_again() -> bool:
        return stage.live() == 0 and all(len(effects.read().by_key.get(k, [])) >= 2 for k in (first, second))

    again = until(done_again, 45, 0.2)
    time.sleep(max(0.0, AWAY_S - (time.monotonic() - stopped_s)))
    tasks = [int(key.split("-")[0]) for key in (first, second)]
    before = [stage.sql(OUTCOME, t=task) for task in tasks]
    was_frozen = inside.frozen and after.frozen
    for process in (inside, after):
        process.send(signal.SIGCONT)
    label = 'step="finish"'
    until(lambda: all(p.metric("clockjack_fenced_total", label) > 0 for p in (inside, after)), 15, 0.25)
    time.sleep(1.5)
    refused = [int(p.metric("clockjack_fenced_total", label)) for p in (inside, after)]
    kept = [stage.sql(OUTCOME, t=task) for task in tasks] == before
    one_each = all(
        len(rows) == 1 and rows[0][0] == "succeeded" and f"-{survivor.pid}-" in rows[0][2] for rows in before
    )
    entries = [[e.attempt for e in effects.read().by_key.get(k, [])] for k in (first, second)]
    lost = stage.one("SELECT COUNT(*) FROM attempts WHERE outcome = 'lost'")
    figure = (
        f"away {time.monotonic() - stopped_s:.0f} s; attempts {entries}, {lost} counted lost,"
        f" outcomes refused {refused}, the survivor's outcome {'stays' if kept and one_each else 'DOES NOT STAY'}"
    )
    sound = entered and froze and again and was_frozen
    return figure, bool(sound and kept and one_each and min(refused) > 0 and entries == [[1, 2], [1, 2]] and lost == 2)
