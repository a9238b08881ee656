"""`clockjack queue list | pause | resume`: queues are shared by all namespaces."""

from typing import Annotated

import typer

from clockjack import documents, queueing, registration
from clockjack.cli import session, show
from clockjack.cli.session import Json
from clockjack.queues import Queues
from clockjack.settings import from_environment

COLUMNS = ("queue", "state", "due", "waiting", "staged", "running", "oldest_due_at", "consumers", "paused_by")
Name = Annotated[str, typer.Argument(metavar="QUEUE", show_default=False)]


def list_(json: Json = False) -> None:
    """Queues that are paused, hold something or are served.

    due: tasks that no dispatcher has claimed. waiting: runs that are due. staged: runs claimed ahead.

    Example: clockjack queue list --json
    """
    with session.ledger() as database:
        found = queueing.listed(database, _queues())
    if json:
        show.as_json(found)
        return
    show.table(found["items"], COLUMNS)
    if found["truncated"]:
        show.complain("there is more than was counted: the numbers are of the oldest")


def pause(queue: Name, json: Json = False) -> None:
    """Nothing of this queue starts until it is resumed, also after restarts; what has begun goes on.

    Consumers hear of it within about 2 s. What comes due waits.

    Example: clockjack queue pause mail
    """
    _switch("pause", queue, json)


def resume(queue: Name, json: Json = False) -> None:
    """This queue starts what is due; tasks that are late by then do as their misfire says.

    Example: clockjack queue resume mail
    """
    _switch("resume", queue, json)


def _switch(action: str, queue: str, json: bool) -> None:
    name = registration.read(queueing.Named, {"queue": queue}).queue
    with session.ledger() as database:
        done = queueing.switch(database, _queues(), action, name, actor=session.ACTOR)
    session.nudge("claim")
    found = documents.strict_json(done.answer)
    if json:
        show.as_json(found)
    else:
        show.table([found], COLUMNS)


def _queues() -> Queues:
    return Queues(from_environment().redis_url)
