"""What the commands share: the ledger opened for one command, a word to Redis, the usual options."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from clockjack import webhooks
from clockjack.cli import show
from clockjack.ledger.database import Database
from clockjack.queues import Queues, RedisError
from clockjack.registration import REDIS_AWAY, unserved
from clockjack.settings import from_environment

ACTOR = "cli"
TASKS = ("id", "state", "handler", "queue", "task_key", "name", "next_run_at", "error")
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Namespace = Annotated[str, typer.Option(help="the tenant")]
TaskId = Annotated[int, typer.Argument(min=1, metavar="ID")]
TaskIds = Annotated[list[int] | None, typer.Argument(min=1, metavar="[ID]...", show_default=False)]
Key = Annotated[str | None, typer.Option(help="task_key begins with this")]
Tag = Annotated[str | None, typer.Option(help="has this tag")]
Group = Annotated[str | None, typer.Option(help="of this group_key")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would be done, and do nothing")]
Limit = Annotated[int, typer.Option(min=1, max=100_000, help="at most so many")]


class Failed(Exception):
    """The command cannot be carried out: the text says why; `exit_code` is 2 when the input is wrong, else 1."""

    def __init__(self, text: str, exit_code: int = 1) -> None:
        super().__init__(text)
        self.exit_code = exit_code


@contextmanager
def ledger() -> Iterator[Database]:
    """The database of this command, closed at its end."""
    settings = from_environment()
    webhooks.configure(settings)
    database = Database(settings.database_url, size=2)
    try:
        yield database
    finally:
        database.close()


def nudge(what: str) -> None:
    """A dispatcher was woken, or finds out by itself within its poll."""
    try:
        Queues(from_environment().redis_url).nudge(what)
    except RedisError:
        return


def warnings(queue: str, handler: str) -> list[str]:
    """What somebody who registers a task for this queue and handler should know."""
    try:
        return unserved(Queues(from_environment().redis_url).served(), queue, handler)
    except RedisError:
        return [REDIS_AWAY]


def write(items: list[dict[str, Any]], columns: tuple[str, ...], json: bool) -> None:
    """The rows are on stdout, as JSON or as a table with these columns."""
    if json:
        show.as_json(items)
    else:
        show.table(items, columns)


def known(row: dict[str, Any] | None, task_id: int) -> dict[str, Any]:
    """The row, or the command ends: there is no such task."""
    if row is None:
        raise Failed(f"there is no task {task_id}")
    return row
