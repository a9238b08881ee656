"""Handlers that every consumer has: `mock` for demos and tests, `http` for webhooks."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from clockjack import webhooks
from clockjack.handlers import Run, registry
from clockjack.ledger.database import to_us
from clockjack.settings import Settings
from consumers import command
from consumers.delivery import Delivery
from consumers.handling import HandlerError
from consumers.receivers import Receivers


def install(settings: Settings, now_us: Callable[[], int]) -> None:
    """The built-in handlers that the settings name are in the registry; `now_us` is the database's time."""
    if "mock" in settings.builtin:
        registry.setdefault("mock", lambda run: mock(run, settings.effects, now_us))
    if "http" in settings.builtin:
        webhooks.configure(settings)
        registry.setdefault("http", Delivery(webhooks.policy(), now_us, Receivers(settings)))
    if settings.commands:
        registry.setdefault("command", lambda run: command.execute(run, settings.commands))


def mock(run: Run, effects: str | None, now_us: Callable[[], int]) -> Any:
    """Sleeps, fails or crashes as the payload says: {"sleep_ms": 0, "fail": n, "crash": n, "echo": any}.

    Each entry appends one line `run_key attempt due_us now_us pid` to the file `effects` (a setting), if there is one.
    """
    work = run.payload if isinstance(run.payload, dict) else {}
    if effects:
        due_us = to_us(run.due_at.replace(tzinfo=None))
        line = f"{run.key} {run.attempt} {due_us} {now_us()} {os.getpid()}\n"
        file = os.open(effects, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)
    wake_s = time.monotonic() + float(work.get("sleep_ms", 0)) / 1000
    while (left_s := wake_s - time.monotonic()) > 0:
        time.sleep(min(left_s, 0.1))  # in pieces, so that a timeout can end it
    if run.failures < int(work.get("crash", 0)):
        os.kill(os.getpid(), signal.SIGKILL)
    if run.failures < int(work.get("fail", 0)):
        raise HandlerError(f"mock: told to fail {work['fail']} times")
    return work.get("echo")
