"""What Redis holds, read as what anybody may have written: what cannot be ours is nothing, and never an error."""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from clockjack.ledger.database import from_us
from clockjack.ledger.runs import Popped

LAST_US = 7_258_118_400_000_000  # 2200-01-01, where the ledger's times end
LARGEST_ID = 2**63 - 1
ODD = (ValueError, TypeError, IndexError, KeyError, OverflowError, RecursionError)


def popped(data: Sequence[bytes]) -> list[Popped]:
    """What these messages say, without those that cannot be read."""
    try:  # all at once; one by one only if one of them spoils it
        return [_message(*one[2]) for one in json.loads(b"[" + b",".join(data) + b"]")]
    except ODD:
        return [p for one in data for p in popped([one])] if len(data) > 1 else []


def _message(run_id: int, due_us: int, attempt: int, pushed_us: int = 0, task_id: int | None = None) -> Popped:
    task = 1 if task_id is None else task_id
    if not type(run_id) is type(due_us) is type(attempt) is type(pushed_us) is type(task) is int:
        raise ValueError("no message of ours")
    if not (0 < run_id <= LARGEST_ID and 0 < task <= LARGEST_ID and 0 < attempt < 2**32 and 0 < due_us < LAST_US):
        raise ValueError("no message of ours")
    return Popped(run_id, _due(due_us), attempt, min(max(pushed_us, 0), LAST_US), task_id)


_due = lru_cache(4096)(from_us)  # runs of one batch are often due at the same instant


def consumer(value: bytes | None) -> dict[str, Any] | None:
    """What a consumer announced: {queue, handlers, concurrency}; None when it is no announcement."""
    try:
        found = json.loads(value or b"")
        if isinstance(found["queue"], str) and {type(name) for name in found["handlers"]} <= {str}:
            return {"queue": found["queue"], "handlers": list(found["handlers"]), "concurrency": found["concurrency"]}
    except ODD:
        pass
    return None
