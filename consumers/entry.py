"""The name that every queued job carries. Only Clockjack's own worker can execute it."""

from typing import Any


def execute(*ids: Any) -> None:
    """Always raises: a job holds ids only, and MySQL must be asked first whether they still count."""
    raise RuntimeError("this queue belongs to Clockjack: start `python -m consumers`, not `rq worker`")
