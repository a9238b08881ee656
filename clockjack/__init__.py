"""Clockjack: a distributed task scheduler on MySQL and Redis.

The public names are loaded when they are first asked for: a process that only dispatches needs neither an
HTTP client nor a registry of handlers.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clockjack.client import AsyncClient, Client, ClientError
    from clockjack.endings import Discard, Fail, LeaseLost, Retry, Snooze
    from clockjack.handlers import Run, handler
    from clockjack.inside import enqueue
    from clockjack.registration import Refused

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "Discard",
    "Fail",
    "LeaseLost",
    "Refused",
    "Retry",
    "Run",
    "Snooze",
    "enqueue",
    "handler",
]
_HOMES = {
    "AsyncClient": "clockjack.client",
    "Client": "clockjack.client",
    "ClientError": "clockjack.client",
    "Discard": "clockjack.endings",
    "Fail": "clockjack.endings",
    "LeaseLost": "clockjack.endings",
    "Refused": "clockjack.registration",
    "Retry": "clockjack.endings",
    "Run": "clockjack.handlers",
    "Snooze": "clockjack.endings",
    "enqueue": "clockjack.inside",
    "handler": "clockjack.handlers",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'clockjack' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
