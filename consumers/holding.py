"""What a begun run's handler may ask of the consumer that holds it: the far end of `run.transaction()`."""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from clockjack.ledger.effects import Connection, Engine

if TYPE_CHECKING:
    from consumers.execution import Job, Pool

ONE = "this run has succeeded already: a run has one transaction()"


class Hold:
    """A job in the hands of this pool."""

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
        """The last statement is on its way: the heartbeat leaves the row alone, and nobody stops this thread."""
        self.pool.commits(self.job)

    def committed(self, ok: bool) -> None:
        """It was committed, or not."""
        self.pool.committed(self.job, ok)

    def heard(self, word: str, value: object) -> None:
        """The handler's child has said this; ValueError when it is nothing that is said."""
        if word != "commits":
            raise ValueError(word)
        self.job.commits = value is True
