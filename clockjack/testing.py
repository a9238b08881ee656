"""For tests of what uses Clockjack: a Clockjack in memory whose time stands still until it is told to go on.

    clock = Clockwork(datetime(2030, 1, 1, tzinfo=UTC))
    clock.schedule("mail.send", {"to": "a@b.c"}, in_s=3600)
    clock.advance(3600)
    clock.assert_ran("mail.send", payload={"to": "a@b.c"}, times=1)

No servers, threads or sleeping. What is due when, what is skipped, how often it is tried again and after how long are
decided by the functions that production calls; handlers are called in the order of their starts.
"""

import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from clockjack import changes, documents, registration
from clockjack.answers import Task, TaskRun
from clockjack.attempting import Attempted
from clockjack.client import AsyncClient, Client, ClientError
from clockjack.handlers import Run, registry
from clockjack.ledger import control
from clockjack.ledger.tasks import EDITABLE, StateConflict
from clockjack.memory import Memory, as_task, utc
from clockjack.payloads import adapted
from clockjack.schedules import ScheduleError
from clockjack.sending import sendable
from clockjack.simulation import by_hand

__all__ = ["ANY", "Attempted", "Clockwork"]
ANY = object()
OFFERED = ("schedule", "get", "tasks", "edit", "pause", "resume", "cancel", "run_now", "runs", "run")
DAY_ONE = datetime(2030, 1, 1, tzinfo=UTC)


class Clockwork(Memory):
    """Tasks, their runs, and a clock; it answers as a Client does, and runs handlers when its clock is moved.

    `handlers` come before those of `@handler`; `seed` is that of the back-off's jitter; `engine`, of SQLAlchemy, is
    what `run.transaction()` connects through. `attempts` has each call.
    """

    def __init__(
        self,
        at: datetime = DAY_ONE,
        *,
        handlers: Mapping[str, Callable[..., Any]] | None = None,
        namespace: str = "default",
        seed: int = 0,
        engine: Any = None,
    ) -> None:
        super().__init__(utc(at), namespace, random.Random(seed).uniform)
        self._engine = engine
        self._handlers = {name: _handler(name, function) for name, function in (handlers or {}).items()}
        self._takes: dict[str, timedelta] = {}
        self._known: dict[str, Task] = {}

    # the clock

    @property
    def now(self) -> datetime:
        """Where the clock stands."""
        return self._now.replace(tzinfo=UTC)

    def advance(self, seconds: float) -> list[Attempted]:
        """The clock is so much further, and what had to happen by then has; returns the attempts of it."""
        return self.run_until(self.now + timedelta(seconds=seconds))

    def run_until(self, moment: datetime) -> list[Attempted]:
        """The clock is there, and what had to happen by then has, at its time; returns the attempts of it."""
        end, before = utc(moment), len(self.attempts)
        if end < self._now:
            raise ValueError("the clock does not go back")
        while (found := self._next()) and found[0] <= end:
            self._step(*found)
        self._now = end
        return self.attempts[before:]

    def run_next(self) -> Attempted | None:
        """The clock is where the next attempt began; returns that, or None if none is to come."""
        before = len(self.attempts)
        while len(self.attempts) == before:
            if not (found := self._next()):
                return None
            self._step(*found)
        return self.attempts[-1]

    def outage(self, seconds: float) -> None:
        """So long nothing was claimed and nothing began; what had begun went on."""
        end = self._now + timedelta(seconds=seconds)
        self._outages.append((self._now, end))
        self.advance(seconds)

    def takes(self, handler: str, seconds: float) -> None:
        """From now on attempts of this handler take so long; more than timeout_s, and they end as a timeout."""
        self._takes[handler] = timedelta(seconds=seconds)

    # what a Client answers

    def schedule(
        self,
        handler: str,
        payload: Any = None,
        *,
        run_at: datetime | None = None,
        in_s: float | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Task:
        """As Client.schedule."""
        if idempotency_key is not None and idempotency_key in self._known:
            return self._known[idempotency_key]
        document = {"handler": handler, "payload": payload, "run_at": run_at, "in_s": in_s, **fields}
        with _problems():
            values = registration.fields(registration.new_task(sendable(document)), self._now)
            key = values["task_key"]
            found = next((s for s in self._stages.values() if key is not None and s.task["task_key"] == key), None)
            if found is None:
                found = self._add(values)
            else:
                self._change(found, {name: values[name] for name in EDITABLE})
            text = registration.answer(found.task, [])
        answer = cast(Task, documents.strict_json(text))
        if idempotency_key is not None:
            self._known[idempotency_key] = answer
        return answer

    def get(self, task_id: int) -> Task:
        """As Client.get."""
        return as_task(self._stage(task_id))

    def tasks(self, **where: str) -> Iterator[Task]:
        """As Client.tasks."""
        for stage in sorted(self._stages.values(), key=lambda stage: -int(stage.task["id"])):
            if all(_matches(stage.task, name, value) for name, value in where.items() if value is not None):
                yield as_task(stage)

    def edit(self, task_id: int, *, if_version: int | None = None, **fields: Any) -> Task:
        """As Client.edit."""
        fields.pop("idempotency_key", None)
        stage = self._stage(task_id)
        if if_version not in (None, stage.task["version"]):
            raise ClientError(
                412, {"code": "precondition-failed", "detail": f"it is of version {stage.task['version']}"}
            )
        with _problems():
            if stage.task["state"] == "cancelled":
                raise StateConflict("the task is cancelled: register it again instead")
            self._change(stage, changes.values(stage.task, changes.patch(sendable(fields, nulls=True)), self._now))
        return as_task(stage)

    def pause(self, task_id: int) -> Task:
        """As Client.pause."""
        return self._control(task_id, control.to_pause)

    def resume(self, task_id: int, *, catch_up: bool = False) -> Task:
        """As Client.resume."""
        return self._control(task_id, lambda row: control.to_resume(row, self._now, catch_up=catch_up))

    def cancel(self, task_id: int) -> Task:
        """As Client.cancel."""
        return self._control(task_id, control.to_cancel)

    def run_now(self, task_id: int, *, idempotency_key: str | None = None) -> TaskRun:
        """As Client.run_now; it begins when the clock goes on."""
        stage = self._stage(task_id)
        with _problems():
            if stage.task["state"] in ("cancelled", "invalid"):
                raise StateConflict(f"the task is {stage.task['state']}")
        return self._run(stage, by_hand(stage, self._now))

    def runs(self, task_id: int) -> Iterator[TaskRun]:
        """As Client.runs."""
        stage = self._stage(task_id)
        for fate in sorted(stage.fates, key=lambda fate: fate.due_at, reverse=True):
            yield self._run(stage, fate)

    def run(self, run_id: int) -> TaskRun:
        """As Client.run, without attempts."""
        if run_id not in self._fates:
            raise ClientError(404, {"code": "not-found", "detail": "there is no such run"})
        return self._run(*self._fates[run_id])

    @contextmanager
    def replaces(self, client: Client | AsyncClient) -> Iterator["Clockwork"]:
        """For this while `client`, and what was declared by its `task`, asks this and no server."""
        before = dict(client.__dict__)
        for name in OFFERED:
            mine = getattr(self, name)
            client.__dict__[name] = mine if isinstance(client, Client) else _asynchronous(mine, name)
        try:
            yield self
        finally:
            client.__dict__.clear()
            client.__dict__.update(before)

    # what a test asks

    def ran(self, handler: str, *, payload: Any = ANY) -> list[Attempted]:
        """The attempts of this handler, those of this payload if one is given."""
        return [a for a in self.attempts if a.handler == handler and (payload is ANY or a.payload == payload)]

    def assert_ran(self, handler: str, *, payload: Any = ANY, times: int | None = None) -> list[Attempted]:
        """It ran, so many times if that is given; returns those attempts."""
        found = self.ran(handler, payload=payload)
        good = bool(found) if times is None else len(found) == times
        wanted = "at least once" if times is None else f"{times} times"
        assert good, f"{handler} ran {len(found)} times, not {wanted}; attempts: {self._told()}"
        return found

    def assert_not_ran(self, handler: str, *, payload: Any = ANY) -> None:
        """It did not run."""
        self.assert_ran(handler, payload=payload, times=0)

    def assert_scheduled(self, handler: str, *, at: datetime | None = None, payload: Any = ANY) -> Task:
        """An active task of it is due next, at that moment if one is given; returns the first that is."""
        due = [t for t in self.tasks(handler=handler, state="active") if t["next_run_at"] is not None]
        due.sort(key=lambda task: (task["next_run_at"] or "", task["id"]))
        when = None if at is None else documents.moment(utc(at))
        found = [t for t in due if when in (None, t["next_run_at"]) and (payload is ANY or t["payload"] == payload)]
        told = "; ".join(f"{t['next_run_at']} {t['payload']}" for t in due) or "none"
        assert found, f"no task of {handler} is due {'next' if when is None else f'at {when}'}; due: {told}"
        return found[0]

    def _control(self, task_id: int, make: Callable[[dict[str, Any]], dict[str, Any]]) -> Task:
        stage = self._stage(task_id)
        with _problems():
            self._write(stage, make(stage.task))
        return as_task(stage)

    def _handler(self, name: str) -> tuple[Callable[..., Any] | None, timedelta]:
        return self._handlers.get(name) or registry.get(name), self._takes.get(name, timedelta(0))

    def _told(self) -> str:
        return "; ".join(f"{a.started_at:%FT%TZ} {a.handler} {a.payload} {a.outcome}" for a in self.attempts) or "none"


def _handler(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """As `@handler` knows it: what its parameters name of the payload is checked."""
    return adapted(name, function, Run) if inspect.isfunction(function) else function


@contextmanager
def _problems() -> Iterator[None]:
    """What the API would refuse is the ClientError that a Client would raise."""
    try:
        yield
    except ScheduleError as error:
        _refuse(registration.Refused([(error.field, str(error))]))
    except registration.Refused as error:
        _refuse(error)
    except StateConflict as error:
        raise ClientError(409, {"code": "state-conflict", "detail": str(error)}) from None


def _refuse(error: registration.Refused) -> None:
    errors = [{"pointer": f"#/{name}", "detail": text} for name, text in error.errors]
    raise ClientError(422, {"code": "invalid-fields", "detail": str(error), "errors": errors}) from None


def _asynchronous(method: Callable[..., Any], name: str) -> Callable[..., Any]:
    async def later(*given: Any, **named: Any) -> Any:
        return method(*given, **named)

    async def one_by_one(*given: Any, **named: Any) -> Any:
        for item in method(*given, **named):
            yield item

    return one_by_one if name in ("tasks", "runs") else later


def _matches(task: dict[str, Any], name: str, value: str) -> bool:
    if name == "task_key":
        return (task["task_key"] or "").startswith(value)
    if name == "tag":
        return value in task["tags"].split(",")
    return bool(task[name] == value)
