"""Off is off: tasks paused or cancelled around their due time, through two doors."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from tests.prove.counting import Effects, settled
from tests.prove.http import Api
from tests.prove.stage import Stage

TASKS, GRACE_US = 200, 2_000_000
DOORS = ("http pause", "http cancel", "sql pause", "sql cancel")


def off_is_off(stage: Stage) -> tuple[str, bool]:
    """200 tasks were paused or cancelled from 1.5 s before to 0.5 s after their due time, by HTTP and by SQL.

    The moment of an answer is the database's time carried on by the monotonic clock: at most behind, so that a start is
    rather called too late than not.
    """
    producer, *_ = stage.cast(producer=1, dispatcher=2, consumer=2)
    api = Api(lambda: producer.port, stage.api_key)
    base_us = stage.now_us() + 5_000_000
    expected = stage.register([base_us + n * 25_000 for n in range(TASKS)])
    answered: dict[str, int] = {}
    lock = threading.Lock()

    def switch(n: int, key: str, due_us: int) -> None:
        task_id, door = key.split("-")[0], DOORS[n % 4]
        at_us = due_us + int(random.uniform(-1.5, 0.5) * 1e6)
        time.sleep(max(0, at_us - stage.clock.now_us()) / 1e6)
        if door == "http pause":
            api.insist("POST", f"/v1/tasks/{task_id}/pause")
        elif door == "http cancel":
            api.insist("DELETE", f"/v1/tasks/{task_id}")
        else:
            state = "paused" if door == "sql pause" else "cancelled"
            stage.sql("UPDATE tasks SET state = :s WHERE id = :i", s=state, i=task_id)
        now_us = stage.clock.now_us()
        with lock:
            answered[key] = now_us

    with ThreadPoolExecutor(TASKS) as pool:
        list(pool.map(switch, range(TASKS), expected, expected.values()))
    quiet = settled(stage.live, 20)
    time.sleep(GRACE_US / 1e6)
    effects = Effects(stage.effects).read()
    after_us = [e.now_us - answered[e.key] for e in effects.all]
    late = sum(us > GRACE_US for us in after_us)
    stopped = dict(
        stage.sql("SELECT reason, COUNT(*) FROM runs WHERE state IN ('skipped', 'cancelled') GROUP BY reason")
    )
    figure = (
        f"{len(answered)} switched off, {len(effects.by_key)} had started before or while, latest"
        f" {max(after_us, default=0) / 1e3:+.0f} ms from the answer, {late} later than + 2 s;"
        f" claimed and then stopped: {stopped.get('paused', 0)} paused, {stopped.get('cancelled', 0)} cancelled"
    )
    sound = quiet and len(answered) == TASKS and min(stopped.get("paused", 0), stopped.get("cancelled", 0)) > 0
    twice = sum(len(found) > 1 for found in effects.by_key.values())
    return figure, sound and not late and not twice and 0 < len(effects.by_key) < TASKS
