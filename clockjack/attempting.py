"""One attempt at a run without a consumer: the handler is called here and now, its end what production makes of it.

Of time it takes what it is said to take, and none of the reader's.
"""

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from clockjack.endings import Discard, Ending, Fail, Retry, Snooze
from clockjack.handlers import Run
from clockjack.ledger.database import to_us
from clockjack.ledger.wake import backoff_s
from clockjack.simulation import End, Fate

RESULT_BYTES = 16_384


class UnknownHandler(Exception):
    """There is no handler of that name."""


class _Hold:
    """What a consumer is to a begun run, here: nobody takes it away."""

    cancelled = False

    def __init__(self, engine: Any) -> None:
        self.progress: str | None = None
        self.committed = False
        self._engine = engine

    @contextmanager
    def transaction(self, engine: Any) -> Iterator[Any]:
        """Committed at the end of the block, and with it the run's success."""
        engine = engine or self._engine
        if engine is None:
            raise RuntimeError("run.transaction: give Clockwork an engine of your test's database")
        with engine.begin() as connection:
            yield connection
        self.committed = True

    def tell(self, progress: str | None) -> None:
        """The latest progress is kept."""
        self.progress = self.progress if progress is None else progress


@dataclass(frozen=True, slots=True)
class Attempted:
    """What one attempt did, and when it comes again. `outcome`: succeeded, failed, timeout, snoozed or discarded."""

    handler: str
    payload: Any
    task_id: int
    run_key: str
    due_at: datetime
    started_at: datetime
    attempt: int
    outcome: str
    result: Any = None
    error: str | None = None
    retry_at: datetime | None = None
    progress: Any = None
    raised: BaseException | None = field(default=None, repr=False, compare=False)

    @property
    def lateness_s(self) -> float:
        """How long after its due time it began."""
        return (self.started_at - self.due_at).total_seconds()


def attempt(
    task: dict[str, Any],
    fate: Fate,
    now: datetime,
    *,
    run_id: int,
    function: Callable[[Run], Any] | None,
    takes: timedelta,
    draw: Callable[[float, float], float],
    engine: Any = None,
) -> tuple[Attempted, End]:
    """The run's handler was called, as what the attempt did and how it ends; `fate` has counted it.

    One that takes longer than timeout_s is not called: what it would have done by then nobody knows.
    """
    fate.attempt += 1
    run, most, hold = _run(task, fate, run_id), timedelta(seconds=task["timeout_s"]), _Hold(engine)
    run.hold = hold
    value: Any = None
    raised: BaseException | None = None
    kind, result = "succeeded", None
    try:
        if takes > most:
            kind = "timeout"
            raise TimeoutError(f"stopped after {task['timeout_s']:.1f} s")
        if function is None:
            raise UnknownHandler(f"nobody knows a handler named {task['handler']!r}")
        value = _value(function, run)
        if not isinstance(value, Ending):
            result = _stored(value)
    except Exception as failure:
        value = raised = failure
        kind = "timeout" if kind == "timeout" else "failed"
    if hold.committed:  # with the run's success in it: what came afterwards changes nothing
        kind, result, raised = "succeeded", None, None
    elif isinstance(value, Ending):
        kind = {Snooze: "snoozed", Discard: "discarded"}.get(type(value), "failed")
    error = None if kind == "succeeded" else _described(value)
    end = _end(task, fate, kind, value, min(takes, most), draw)
    fate.progress = hold.progress or fate.progress
    if kind != "snoozed":
        fate.result, fate.error = result, error
    again = (now + end.lasts + end.again).replace(tzinfo=UTC) if end.state == "ready" else None
    done = Attempted(
        task["handler"],
        run.payload,
        task["id"],
        run.key,
        run.due_at,
        now.replace(tzinfo=UTC),
        fate.attempt,
        kind,
        result=None if result is None else json.loads(result),
        error=error,
        retry_at=again,
        progress=None if hold.progress is None else json.loads(hold.progress),
        raised=raised,
    )
    return done, end


def _end(
    task: dict[str, Any], fate: Fate, kind: str, value: Any, lasts: timedelta, draw: Callable[[float, float], float]
) -> End:
    """What becomes of the run, as consumers decide it (consumers/ending.py) and the ledger writes it."""
    if kind == "succeeded":
        return End(lasts)
    if kind == "discarded":
        return End(lasts, "cancelled", kind)
    if isinstance(value, Snooze):
        return End(lasts, "ready", None, timedelta(seconds=value.after_s))
    fate.failures += 1
    if isinstance(value, Fail) or fate.failures >= task["max_failures"]:
        return End(lasts, "failed", kind)
    pause_s = backoff_s(fate.failures, task["backoff_s"], task["backoff_max_s"], draw)
    return End(lasts, "ready", None, timedelta(seconds=value.after_s if isinstance(value, Retry) else pause_s))


def run_key(task: dict[str, Any], fate: Fate) -> str:
    """The key that handlers and receivers get."""
    return f"{task['id']}-{to_us(fate.due_at)}"


def _run(task: dict[str, Any], fate: Fate, run_id: int) -> Run:
    return Run(
        id=run_id,
        key=run_key(task, fate),
        task_id=task["id"],
        namespace=task["namespace"],
        name=task["name"],
        handler=task["handler"],
        payload=json.loads(task["payload"]),
        due_at=fate.due_at.replace(tzinfo=UTC),
        attempt=fate.attempt,
        failures=fate.failures,
        timeout_s=task["timeout_s"],
    )


def _value(function: Callable[[Run], Any], run: Run) -> Any:
    value = function(run)
    if not inspect.isawaitable(value):
        return value
    with ThreadPoolExecutor(1) as pool:  # this thread may have a loop at work
        return pool.submit(asyncio.run, _awaited(value)).result()


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value


def _described(error: BaseException) -> str:
    return type(error).__name__ if isinstance(error, Ending) and not error.why else f"{type(error).__name__}: {error}"


def _stored(value: Any) -> str | None:
    result = None if value is None else json.dumps(value, allow_nan=False, separators=(",", ":"))
    if result is not None and len(result) > RESULT_BYTES:
        raise ValueError(f"the handler's result has more than {RESULT_BYTES} bytes")
    return result
