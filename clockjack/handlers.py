"""What a user writes: handlers, allow-listed by name.

    from clockjack import Run, handler

    @handler("mail.send")
    def send(run: Run) -> None:
        deliver(run.payload["to"], idempotency_key=run.key)

A handler may run more than once for the same occurrence (its consumer may die); `run.key` is the same each time, so
that receivers can drop the copy. What it returns (JSON) is the run's result; what it raises is a failure and is
retried.
"""

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from clockjack.payloads import adapted

if TYPE_CHECKING:
    from clockjack.ledger.effects import Connection, Engine

F = TypeVar("F", bound=Callable[..., Any])
PROGRESS_BYTES = 1_024


@dataclass(slots=True)
class Run:
    """One attempt at one occurrence, as its handler sees it. Times are aware, UTC."""

    id: int
    key: str
    task_id: int
    namespace: str
    name: str | None
    handler: str
    payload: Any
    due_at: datetime
    attempt: int
    failures: int
    timeout_s: int
    hold: "Holder | None" = field(default=None, repr=False, compare=False)

    def transaction(self, engine: "Engine | None" = None) -> AbstractContextManager["Connection"]:
        """A connection whose COMMIT, at the end of the block, is also the run's success: both are written, or neither.

            with run.transaction() as connection:
                connection.execute(text("UPDATE app.counters SET n = n + 1 WHERE id = :id"), run.payload)

        READ COMMITTED, on a connection of its own, which connects as the consumer does, or through `engine`, a
        SQLAlchemy Engine of yours for the same server. At most one a run, and the last thing that it does: what the
        handler returns or raises afterwards changes nothing. Raises LeaseLost when another attempt may be at work.
        """
        return self._held().transaction(engine)

    def heartbeat(self, progress: Any = None) -> None:
        """The run is seen to live: LeaseLost if another attempt may be at work, so that this one ends.

        `progress`: JSON of at most 1 KiB for whoever looks at the run; it is written within 2 s, by the heartbeat that
        the consumer makes anyway. May be called as often as wanted: nothing is sent.
        """
        text = None
        if progress is not None:
            text = json.dumps(progress, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            size = len(text.encode())
            if size > PROGRESS_BYTES:
                raise ValueError(f"progress is JSON of at most {PROGRESS_BYTES:,} bytes, not {size:,}")
        self._held().tell(text)

    @property
    def cancelled(self) -> bool:
        """Whether somebody has cancelled the run or its task since it began: 2 s ago at the latest.

        A handler that looks may stop where it wants, by `raise Discard("cancelled")`; one that does not goes on.
        """
        return self.hold is not None and self.hold.cancelled

    def _held(self) -> "Holder":
        if self.hold is None:
            raise RuntimeError("no consumer holds this run")
        return self.hold


class Holder(Protocol):
    """Who holds a begun run."""

    @property
    def cancelled(self) -> bool: ...

    def transaction(self, engine: "Engine | None") -> AbstractContextManager["Connection"]: ...

    def tell(self, progress: str | None) -> None: ...


registry: dict[str, Callable[[Run], Any]] = {}


def handler(name: str) -> Callable[[F], F]:
    """The decorated callable is known by `name`; ValueError when another callable has it already.

    It takes the run; or what its parameters name of the payload, which is checked before (`clockjack/payloads.py`).
    """
    if not name or len(name) > 200:
        raise ValueError("a handler's name has 1 to 200 characters")

    def register(function: F) -> F:
        other = registry.get(name)
        if other is not None and (other.__module__, other.__qualname__) != (function.__module__, function.__qualname__):
            raise ValueError(f"two handlers are named {name!r}: {other.__module__} and {function.__module__}")
        registry[name] = adapted(name, function, Run)
        return function

    return register


def load(modules: Sequence[str]) -> dict[str, Callable[[Run], Any]]:
    """The modules are imported (the working directory is searched too) and their handlers known; returns them all."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    for module in modules:
        importlib.import_module(module)
    return registry
