"""What a begun run's handler may ask of the consumer that holds it: the far end of `run.transaction()` and the like."""

import json
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from clockjack.endings import LeaseLost
from clockjack.handlers import PROGRESS_BYTES
from clockjack.ledger.effects import Connection, Engine
from consumers.ending import Stopped

if TYPE_CHECKING:
    from consumers.execution import Job, Pool

ONE = "this run has succeeded already: a run has one transaction()"


class Hold:
    """A job in the hands of this pool; what it changes of the job it changes under the pool's lock."""

    __slots__ = ("job", "pool")

    def __init__(self, pool: "Pool", job: "Job") -> None:
        self.pool, self.job = pool, job

    def transaction(self, engine: Engine | None) -> AbstractContextManager[Connection]:
        """One whose COMMIT is the run's success."""
        if self.job.done:
            raise RuntimeError(ONE)
        assert self.pool.effects is not None
        return self.pool.effects.transaction(self.job.held, self, engine)

    def commits(self) -> None:
        """Its last statement is on its way: the heartbeat leaves the row alone, and no stop is raised in its thread.

        Raises if it was told to stop before.
        """
        with self.pool._lock:
            self._obey()
            self.job.commits = True

    def committed(self, ok: bool) -> None:
        """Whether the run has succeeded; then its lease does not matter any more. Raises if it was told to stop."""
        job = self.job
        with self.pool._lock:
            waited, job.commits = job.commits, False
            if ok:
                job.done, job.lease_s = True, float("inf")
            if waited:
                self._obey()

    def _obey(self) -> None:
        if self.job.stopped_s is not None and self.job.child is None:
            raise Stopped

    @property
    def cancelled(self) -> bool:
        """Somebody has asked it to stop."""
        return self.job.cancelled

    def ask(self) -> None:
        """Its handler hears, when it looks, that it is to stop."""
        with self.pool._lock:
            told, self.job.cancelled = self.job.cancelled, True
            child = self.job.child if self.pool.isolated else None
        if child is not None and not told:
            child.ask(self.job.held)

    def tell(self, progress: str | None) -> None:
        """The next heartbeat takes it along; raises LeaseLost when there is none any more."""
        if self.pool.lost(self.job):
            raise LeaseLost("the run is not this attempt's any more")
        if progress is not None:
            self.job.progress = progress

    def heard(self, word: str, value: object) -> None:
        """The handler's child has said this; ValueError when it is nothing that is said."""
        if word == "commits":
            self.job.commits = value is True
        elif word == "progress" and isinstance(value, str) and len(value.encode()) <= PROGRESS_BYTES:
            json.loads(value)
            self.job.progress = value
        else:
            raise ValueError(word)
