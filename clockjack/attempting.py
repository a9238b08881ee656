"""One attempt at a run without a consumer: the handler is called here and now, its end what production makes of it.

Of time it takes what it is said to take, and none of the reader's.
"""

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from clockjack.handlers import Run
from clockjack.ledger.database import to_us
from clockjack.ledger.wake import backoff_s
from clockjack.simulation import End, Fate

RESULT_BYTES = 16_384


class UnknownHandler(Exception):
    """There is no handler of that name."""


@dataclass(frozen=True, slots=True)
class Attempted:
    """What one attempt did. `outcome`: succeeded, failed or timeout; `retry_at`: when it is tried again, if it is."""

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
) -> tuple[Attempted, End]:
    """The run's handler was called, as what the attempt did and how it ends; `fate` has counted it.

    One that takes longer than timeout_s is not called: what it would have done by then nobody knows.
    """
    fate.attempt += 1
    run = _run(task, fate, run_id)
    outcome, result, raised, most = "succeeded", None, None, timedelta(seconds=task["timeout_s"])
    try:
        if takes > most:
            outcome = "timeout"
            raise TimeoutError(f"stopped after {task['timeout_s']:.1f} s")
        if function is None:
            raise UnknownHandler(f"nobody knows a handler named {task['handler']!r}")
        result = _stored(_value(function, run))
    except Exception as error:
        outcome, raised = "timeout" if outcome == "timeout" else "failed", error
    lasts, again = min(takes, most), None
    if raised is None:
        fate.result, fate.error, end = result, None, End(lasts)
    else:
        fate.failures += 1
        fate.error = f"{type(raised).__name__}: {raised}"
        end = End(lasts, "failed", outcome)
        if fate.failures < task["max_failures"]:
            pause_s = backoff_s(fate.failures, task["backoff_s"], task["backoff_max_s"], draw)
            end = End(lasts, "ready", None, timedelta(seconds=pause_s))
            again = (now + lasts + end.again).replace(tzinfo=UTC)
    done = Attempted(
        task["handler"],
        run.payload,
        task["id"],
        run.key,
        run.due_at,
        now.replace(tzinfo=UTC),
        fate.attempt,
        outcome,
        result=None if result is None else json.loads(result),
        error=fate.error,
        retry_at=again,
        raised=raised,
    )
    return done, end


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


def _stored(value: Any) -> str | None:
    result = None if value is None else json.dumps(value, allow_nan=False, separators=(",", ":"))
    if result is not None and len(result) > RESULT_BYTES:
        raise ValueError(f"the handler's result has more than {RESULT_BYTES} bytes")
    return result
