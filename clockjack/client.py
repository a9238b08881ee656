"""The Python clients: they register tasks by HTTP, and survive a producer or a database that is away for a moment.

Every registration carries an Idempotency-Key, so sending it again can never register it twice. What can be asked is in
`calls`, once; the clients only send it, one with threads, one on an event loop.
"""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from functools import cached_property, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import httpx2

from clockjack import calls
from clockjack.answers import Page, Task
from clockjack.calls import Call, Talk, following
from clockjack.declared import Declaring
from clockjack.settings import client_environment
from clockjack.trying import Attempts, ClientError

__all__ = ["AsyncClient", "Client", "ClientError"]
P = ParamSpec("P")
T = TypeVar("T")
PATIENCE_S = 30.0


def _method(build: Callable[..., Any], way: str) -> Callable[..., Any]:
    """A method that sends what `build` makes, with its name, words and signature."""

    @wraps(build)
    def method(self: Any, *given: Any, **named: Any) -> Any:
        return getattr(self, way)(build(*given, **named))

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    known = inspect.signature(build)
    method.__signature__ = known.replace(parameters=[own, *known.parameters.values()])  # type: ignore[attr-defined]
    return method


def _asks(build: Callable[P, Call[T]]) -> Callable[Concatenate["Client", P], T]:
    return _method(build, "_ask")


def _lists(build: Callable[P, Call[Page[T]]]) -> Callable[Concatenate["Client", P], Iterator[T]]:
    return _method(build, "_pages")


def _talks(build: Callable[P, Talk[T]]) -> Callable[Concatenate["Client", P], T]:
    return _method(build, "_through")


def _awaits(build: Callable[P, Call[T]]) -> Callable[Concatenate["AsyncClient", P], Coroutine[Any, Any, T]]:
    return _method(build, "_ask")


def _iterates(build: Callable[P, Call[Page[T]]]) -> Callable[Concatenate["AsyncClient", P], AsyncIterator[T]]:
    return _method(build, "_pages")


def _converses(build: Callable[P, Talk[T]]) -> Callable[Concatenate["AsyncClient", P], Coroutine[Any, Any, T]]:
    return _method(build, "_through")


class _Settings:
    """Where a client asks, and how long."""

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = 10.0,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._url, self._api_key, self._timeout_s, self._patience_s = url, api_key, timeout_s, patience_s

    def _options(self) -> dict[str, Any]:
        url, api_key = self._url, self._api_key
        if url is None or api_key is None:
            known = client_environment()
            url, api_key = url or known[0], api_key or known[1]
        if not url or not api_key:
            raise ValueError("no url or api_key: give both, or set CLOCKJACK_URL and CLOCKJACK_API_KEY")
        return {
            "base_url": url.rstrip("/"),
            "headers": {"Authorization": f"Bearer {api_key}", "Accept": "application/json"},
            "timeout": self._timeout_s,
            "trust_env": False,  # no proxy or password file of the surroundings sees the key
        }


class Client(_Settings):
    """A connection to Clockjack; safe to share between threads, closed by `close()` or at the end of `with`.

    Without arguments it uses CLOCKJACK_URL and CLOCKJACK_API_KEY, or a `make up` that runs in this directory; it looks
    for them when it first asks, so a module of handlers may have a client where nobody asks anything.
    """

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """The connections are closed."""
        if "_http" in self.__dict__:
            self._http.close()

    schedule = _asks(calls.schedule)
    schedule_many = _asks(calls.schedule_many)
    get = _asks(calls.get)
    put_task = _asks(calls.put_task)
    task_by_key = _asks(calls.task_by_key)
    cancel_by_key = _asks(calls.cancel_by_key)
    explain = _asks(calls.explain)
    tasks = _lists(calls.tasks)
    pause = _asks(calls.pause)
    resume = _asks(calls.resume)
    edit = _asks(calls.edit)
    control = _talks(calls.control)
    backfill = _asks(calls.backfill)
    cancel = _asks(calls.cancel)
    run_now = _asks(calls.run_now)
    runs = _lists(calls.runs)
    run = _asks(calls.run)
    retry_run = _asks(calls.retry_run)
    cancel_run = _asks(calls.cancel_run)
    queues = _asks(calls.queues)
    pause_queue = _asks(calls.pause_queue)
    resume_queue = _asks(calls.resume_queue)
    forecast = _asks(calls.forecast)
    put_group = _asks(calls.put_group)
    move_group = _asks(calls.move_group)
    group = _asks(calls.group)
    cancel_group = _asks(calls.cancel_group)

    @cached_property
    def task(self) -> Declaring[Task]:
        """A decorator: the function is a handler, and can be scheduled by `.schedule()` and `.delay()`."""
        return Declaring(self)

    def register(self) -> list[Task]:
        """What was declared with a schedule is registered; returns those tasks."""
        return [one.register() for one in self.task.declared if one.recurs]

    @cached_property
    def _http(self) -> httpx2.Client:
        return httpx2.Client(**self._options())

    def _ask(self, call: Call[T]) -> T:
        """The JSON of a good answer."""
        attempts, parts = Attempts(self._patience_s), call.parts()
        while True:
            try:
                response = self._http.request(**parts)
            except httpx2.TransportError as error:
                pause_s = attempts.no_answer(error)
            else:
                if response.is_success:
                    found: T = response.json()
                    return found
                pause_s = attempts.refused(response)
            time.sleep(pause_s)

    def _pages(self, call: Call[Page[T]] | None) -> Iterator[T]:
        while call:
            page = self._ask(call)
            yield from page["items"]
            call = following(call, page)

    def _through(self, talk: Talk[T]) -> T:
        try:
            call = next(talk)
            while True:
                call = talk.send(self._ask(call))
        except StopIteration as end:
            found: T = end.value
            return found


class AsyncClient(_Settings):
    """The same on an event loop: `await client.schedule(…)`, `async for task in client.tasks()`, `async with`."""

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """The connections are closed."""
        if "_http" in self.__dict__:
            await self._http.aclose()

    schedule = _awaits(calls.schedule)
    schedule_many = _awaits(calls.schedule_many)
    get = _awaits(calls.get)
    put_task = _awaits(calls.put_task)
    task_by_key = _awaits(calls.task_by_key)
    cancel_by_key = _awaits(calls.cancel_by_key)
    explain = _awaits(calls.explain)
    tasks = _iterates(calls.tasks)
    pause = _awaits(calls.pause)
    resume = _awaits(calls.resume)
    edit = _awaits(calls.edit)
    control = _converses(calls.control)
    backfill = _awaits(calls.backfill)
    cancel = _awaits(calls.cancel)
    run_now = _awaits(calls.run_now)
    runs = _iterates(calls.runs)
    run = _awaits(calls.run)
    retry_run = _awaits(calls.retry_run)
    cancel_run = _awaits(calls.cancel_run)
    queues = _awaits(calls.queues)
    pause_queue = _awaits(calls.pause_queue)
    resume_queue = _awaits(calls.resume_queue)
    forecast = _awaits(calls.forecast)
    put_group = _awaits(calls.put_group)
    move_group = _awaits(calls.move_group)
    group = _awaits(calls.group)
    cancel_group = _awaits(calls.cancel_group)

    @cached_property
    def task(self) -> Declaring[Awaitable[Task]]:
        """A decorator: the function is a handler, and can be scheduled by `.schedule()` and `.delay()`."""
        return Declaring(self)

    async def register(self) -> list[Task]:
        """What was declared with a schedule is registered; returns those tasks."""
        return [await one.register() for one in self.task.declared if one.recurs]

    @cached_property
    def _http(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(**self._options())

    async def _ask(self, call: Call[T]) -> T:
        attempts, parts = Attempts(self._patience_s), call.parts()
        while True:
            try:
                response = await self._http.request(**parts)
            except httpx2.TransportError as error:
                pause_s = attempts.no_answer(error)
            else:
                if response.is_success:
                    found: T = response.json()
                    return found
                pause_s = attempts.refused(response)
            await asyncio.sleep(pause_s)

    async def _pages(self, call: Call[Page[T]] | None) -> AsyncIterator[T]:
        while call:
            page = await self._ask(call)
            for item in page["items"]:
                yield item
            call = following(call, page)

    async def _through(self, talk: Talk[T]) -> T:
        try:
            call = next(talk)
            while True:
                call = talk.send(await self._ask(call))
        except StopIteration as end:
            found: T = end.value
            return found
