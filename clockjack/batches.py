"""Registration of up to 1,000 tasks by one request: what it may say, and the answer to it.

All or nothing (`atomic`), or each for itself: then what cannot be registered has its problem in the answer.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from clockjack.alike import Alike
from clockjack.documents import compact, moment
from clockjack.ledger import acceptance, batch, tasks
from clockjack.ledger.acceptance import Answer, Change, Ticket
from clockjack.ledger.arrival import Arrival
from clockjack.ledger.database import Database
from clockjack.registration import NewTask, Refused, read

MOST = 1_000
Wrong = list[tuple[str, str]]  # fields, each with what is wrong with it


def _each() -> dict[str, Any]:
    return {
        "anyOf": [
            {
                "properties": {
                    "atomic": {"const": True},
                    "tasks": {"type": "array", "items": NewTask.model_json_schema()},
                }
            },
            {"required": ["atomic"], "properties": {"atomic": {"const": False}}},
        ],
        "examples": [{"tasks": [{"handler": "mail", "in_s": 60}, {"handler": "mail", "cron": "0 9 * * *"}]}],
    }


class NewTasks(BaseModel):
    """Registrations as they are sent. With `atomic` false each is judged for itself: the request is good anyway."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, json_schema_extra=_each())
    tasks: Annotated[list[Any], Field(min_length=1, max_length=MOST)]
    atomic: bool = True


class RefusedTasks(ValueError):
    """Some of the tasks cannot be registered, so none is: by their place what is wrong with them."""

    def __init__(self, wrong: dict[int, Wrong]) -> None:
        super().__init__(f"{len(wrong)} of the tasks cannot be registered, so none was")
        self.wrong = wrong


class Sent:
    """The tasks of a request that can be registered, by their place, and what is wrong with the others."""

    def __init__(self, document: Any, now: datetime) -> None:
        asked = read(NewTasks, document)
        self.atomic, self.count = asked.atomic, len(asked.tasks)
        self.good: list[tuple[int, dict[str, Any]]] = []
        self.wrong: dict[int, Wrong] = {}
        keys: dict[str, int] = {}
        judge = Alike(now)
        for place, one in enumerate(asked.tasks):
            try:
                values = judge.fields(one)
                key = values["task_key"]
                if key is not None and (before := keys.setdefault(key, place)) != place:
                    raise Refused([("task_key", f"tasks/{before} of this request has it, too")])
            except Refused as error:
                self.wrong[place] = error.errors
            else:
                self.good.append((place, values))
        if self.atomic and self.wrong:
            raise RefusedTasks(self.wrong)

    @property
    def wants(self) -> set[tuple[str, str]]:
        """The queues and handlers that the tasks need."""
        return {(values["queue"], values["handler"]) for _, values in self.good}


def register(
    database: Database,
    namespace: str,
    sent: Sent,
    *,
    actor: str,
    warnings: Sequence[str] = (),
    problem: Callable[[Wrong], dict[str, Any]],
    ticket: Ticket | None = None,
) -> tuple[Answer, list[datetime]]:
    """The tasks are registered; the answer, and when those of them are due that are due at all.

    201 when it is all or nothing: then RefusedTasks says why it is nothing. Else 200, and what was refused has what
    `problem` makes of it.
    """
    due: list[datetime] = []

    def work(connection: Any, there: Arrival) -> Change:
        made = batch.register(connection, namespace, sent.good, actor=actor, now=there.now)
        wrong = sent.wrong | {place: [(error.field, str(error))] for place, error in made.refused.items()}
        if sent.atomic and wrong:
            raise RefusedTasks(wrong)
        due[:] = [row["next_run_at"] for row in made.rows.values() if row["next_run_at"] is not None]
        items = [
            _item(place, made) if place in made.rows else {"index": place, "problem": problem(wrong[place])}
            for place in range(sent.count)
        ]
        document = {"created": len(made.created), "updated": len(made.rows) - len(made.created)}
        text = compact(document | {"refused": len(wrong), "items": items, "warnings": list(warnings)})
        mark = made.event
        return Change(201 if sent.atomic else 200, text, None if mark is None else lambda c: tasks.has_event(c, mark))

    return acceptance.arriving(database, work, ticket), due


def _item(place: int, made: batch.Batch) -> dict[str, Any]:
    row = made.rows[place]
    return {
        "index": place,
        "status": 201 if place in made.created else 200,
        "id": row["id"],
        "task_key": row["task_key"],
        "version": row["version"],
        "next_run_at": moment(row["next_run_at"]),
    }
