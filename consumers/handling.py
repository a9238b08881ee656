"""What a handler gets, and what is kept of its answer."""

import ctypes
import json
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from clockjack.handlers import Run
from clockjack.ledger.database import to_us

RESULT_BYTES = 16_384


class HandlerError(Exception):
    """A built-in handler could not do its work; the message is for people."""


class Failed(Exception):
    """A handler failed elsewhere; the text says its error's type, too."""


def run_of(row: dict[str, Any]) -> Run:
    """What the handler gets."""
    due_us, due_at = due_of(row["due_at"])
    payload = row["payload"]
    return Run(
        row["id"],
        f"{row['task_id']}-{due_us}",
        row["task_id"],
        row["namespace"],
        row["name"],
        row["handler"],
        None if payload == "null" else json.loads(payload),
        due_at,
        row["attempt"],
        row["failures"],
        row["timeout_s"],
    )


@lru_cache(4096)
def due_of(due_at: datetime) -> tuple[int, datetime]:
    """In µs, and aware: the runs of a batch are often due at the same instant."""
    return to_us(due_at), due_at.replace(tzinfo=UTC)


def as_json(value: Any) -> str | None:
    """What is stored of a handler's result; ValueError or TypeError when it cannot be."""
    result = None if value is None else json.dumps(value, allow_nan=False, separators=(",", ":"))
    if result is not None and len(result) > RESULT_BYTES:  # it is ASCII
        raise ValueError(f"the handler's result has more than {RESULT_BYTES} bytes")
    return result


def described(error: BaseException) -> str:
    """The type and the text of an error, as it is stored."""
    try:
        return str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"
    except Exception:
        return f"{type(error).__name__}: it has no text"


def raise_in(thread: int, exception: type[BaseException] | None) -> None:
    """That thread meets the exception at its next step; None: one that it has not met yet is taken back."""
    value = ctypes.py_object(exception) if exception is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), value)
