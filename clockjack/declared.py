"""A handler and what it is scheduled with, in one decorator of a client.

    client = Client()

    @client.task("mail.send", queue="mail", max_failures=3)
    def send(run: Run) -> None: ...

    @client.task("report.day", cron="0 18 * * *", timezone="Europe/Berlin")
    def report(run: Run) -> None: ...

    send.delay({"to": "a@b.c"}, in_s=60)
    client.register()                      # at each deployment: `report` is a task, of the task_key "report.day"

The function stays what it was, and is known to consumers that load its module. Nothing is sent by the decorator.
"""

from collections.abc import Callable
from datetime import datetime
from functools import update_wrapper
from typing import Any, Generic, Protocol, TypeVar

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
KINDS = ("run_at", "in_s", "run_at_local", "cron", "every_s", "rrule")


class Schedules(Protocol[R_co]):
    """A client, as far as a declared handler knows it."""

    @property
    def schedule(self) -> Callable[..., R_co]: ...


class Declared(Generic[R]):
    """A handler that can be called, and scheduled by its name; R is what the client's `schedule` returns."""

    def __init__(
        self, function: Callable[..., Any], handler: str, client: "Schedules[R]", defaults: dict[str, Any]
    ) -> None:
        self.handler, self._function, self._client, self._defaults = handler, function, client, defaults
        update_wrapper(self, function)

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self._function(*given, **named)

    def schedule(self, payload: Any = None, *, at: datetime | None = None, **fields: Any) -> R:
        """A task of this handler is registered, `at` a moment or by a schedule of its own among `fields`."""
        if at is not None:
            fields["run_at"] = at
        return self._register({"payload": payload}, fields)

    def delay(self, payload: Any = None, *, in_s: float = 0.0, **fields: Any) -> R:
        """A task of this handler is registered, due in so many seconds."""
        return self._register({"payload": payload}, {"in_s": in_s, **fields})

    @property
    def recurs(self) -> bool:
        """Whether the decorator names a schedule."""
        return any(self._defaults.get(kind) is not None for kind in KINDS)

    def register(self) -> R:
        """The task of the decorator's schedule is there; its task_key is the decorator's, or the handler's name."""
        return self._client.schedule(self.handler, **{"task_key": self.handler, **self._defaults})

    def _register(self, values: dict[str, Any], fields: dict[str, Any]) -> R:
        # one schedule takes the place of another; a key of the recurring task is not that of this one
        own = any(fields.get(kind) is not None for kind in KINDS)
        gone = (*KINDS, "task_key", "payload") if own else ("payload",)
        defaults = {name: value for name, value in self._defaults.items() if name not in gone}
        if values["payload"] is None and "payload" in self._defaults:
            values = {"payload": self._defaults["payload"]}
        return self._client.schedule(self.handler, **{**defaults, **values, **fields})


class Declaring(Generic[R]):
    """The half of a client that declares."""

    def __init__(self, client: Schedules[R]) -> None:
        self._client = client
        self.declared: list[Declared[R]] = []

    def __call__(self, handler: str, **fields: Any) -> Callable[[Callable[..., Any]], Declared[R]]:
        """The decorated function is a handler of this name; `fields` are what its tasks are scheduled with."""
        from clockjack.handlers import handler as named

        def declare(function: Callable[..., Any]) -> Declared[R]:
            made = Declared(named(handler)(function), handler, self._client, fields)
            self.declared.append(made)
            return made

        return declare
