"""Handlers that are coroutines wait on one asyncio loop of their consumer, without a thread each."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import Any

Done = Callable[["asyncio.Task[Any]"], None]


class Loop:
    """A loop, turned by a thread of its own."""

    def __init__(self) -> None:
        self._loop, self._open = asyncio.new_event_loop(), True
        threading.Thread(target=self._turn, name="loop", daemon=True).start()

    def begin(self, awaitable: Awaitable[Any], done: Done) -> "Waiting":
        """It is awaited soon; `done(task)` is called in the loop's thread at its end, also when it never began."""
        return Waiting(self._loop, awaitable, done)

    def close(self) -> None:
        """The thread ends; what still waits does so for ever."""
        self._open = False
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _turn(self) -> None:
        while self._open:
            # a handler's own: its task has it too, and the loop is not the handler's to end
            with contextlib.suppress(SystemExit, KeyboardInterrupt):
                self._loop.run_forever()


class Waiting:
    """A coroutine on the loop. `kill` cancels it: CancelledError is raised where it waits."""

    def __init__(self, loop: asyncio.AbstractEventLoop, awaitable: Awaitable[Any], done: Done) -> None:
        self._loop, self._awaitable, self._done = loop, awaitable, done
        self._task: asyncio.Task[Any] | None = None
        loop.call_soon_threadsafe(self._start)

    def kill(self) -> None:
        """It is cancelled soon."""
        self._loop.call_soon_threadsafe(self._cancel)

    def _start(self) -> None:
        self._task = self._loop.create_task(wait_for(self._awaitable))
        self._task.add_done_callback(self._done)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


async def wait_for(awaitable: Awaitable[Any]) -> Any:
    """What it gives."""
    return await awaitable
