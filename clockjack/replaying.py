"""Runs of all tasks: which are meant; and the replay of many that failed, a bounded number a request."""

import time
from datetime import datetime
from functools import partial
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from clockjack.answers import RunState
from clockjack.changes import Cursor, Text
from clockjack.documents import compact, run
from clockjack.ledger import acceptance, replay, tasks
from clockjack.ledger.acceptance import Change
from clockjack.ledger.database import Database
from clockjack.ledger.tasks import StateConflict
from clockjack.registration import Moment

MOST, BUSY_S, MOST_REFUSED = 1_000, 4.0, 100


class Which(BaseModel):
    """Which runs are meant: due from (inclusive) and until (exclusive) these moments, begun so late at least."""

    state: RunState | None = None
    handler: Annotated[str, Field(max_length=200)] | None = None
    queue: Annotated[str, Field(max_length=64)] | None = None
    due_from: Moment | None = None
    due_until: Moment | None = None
    late_ms: Annotated[int, Field(ge=0, le=2_592_000_000)] | None = None


class Replay(BaseModel):
    """Which failed runs are meant: all that are given must match."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, json_schema_extra={"examples": [{"handler": "mail", "dry_run": True}]}
    )
    handler: Text | None = None
    queue: Text | None = None
    due_from: Moment | None = None
    due_until: Moment | None = None
    dry_run: bool = False
    cursor: Cursor | None = None

    @property
    def where(self) -> dict[str, str | datetime | None]:
        """As the ledger lists runs."""
        return {"state": "failed", **self.model_dump(exclude={"dry_run", "cursor"})}


def carry_out(
    database: Database, namespace: str, wanted: Replay, *, before: int | None, actor: str
) -> tuple[dict[str, Any], int | None]:
    """Up to 1,000 of the failed runs are ready again, each in a transaction of its own, or in a dry run would be.

    Returns how many matched and were retried, what was refused and why, and the id before which to go on.
    """
    done: dict[str, Any] = {"matched": 0, "retried": 0, "refused": []}
    begun_s, more = time.monotonic(), True
    while more and done["matched"] < MOST and time.monotonic() - begun_s < BUSY_S:
        found, before = acceptance.read(
            database, partial(_page, namespace=namespace, where=wanted.where, before=before)
        )
        more = before is not None
        for row in found:
            done["matched"] += 1
            try:
                done["retried"] += 0 if wanted.dry_run else _one(database, namespace, row["id"], actor)
            except StateConflict as error:
                done["refused"] += [{"id": row["id"], "why": str(error)}][: MOST_REFUSED - len(done["refused"])]
    return done, before


def _page(
    connection: Any, *, namespace: str, where: Any, before: int | None
) -> tuple[list[dict[str, Any]], int | None]:
    return replay.list_runs(connection, namespace, where, before=before, limit=100)


def _one(database: Database, namespace: str, run_id: int, actor: str) -> bool:
    def work(connection: Any) -> Change:
        row = replay.retry(connection, namespace, run_id, actor=actor)
        if row is None:
            raise StateConflict("the run is gone")
        mark = tasks.last_event(connection, row["task_id"])
        return Change(202, compact(run(row)), lambda c: tasks.has_event(c, mark))

    acceptance.once(database, work)
    return True
