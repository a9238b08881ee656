"""The hold of a run whose handler is in a child: what it does there its consumer hears through the pipe.

Nothing that a child says is believed: that its transaction was committed is seen in the run's row when it is finished.
"""

import json
import threading
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection as Pipe
from typing import Any

from clockjack.ledger.effects import Connection, Effects, Engine
from clockjack.ledger.runs import Held
from consumers.holding import ONE


class Inside:
    """The run `held` in this process; its database connections are closed with it."""

    def __init__(self, pipe: Pipe, held: Held | None, database_url: str) -> None:
        self._pipe, self._held, self._url = pipe, held, database_url
        self._effects: Effects | None = None
        self._said, self._done, self._cancelled = False, False, False
        self._lock = threading.Lock()

    def transaction(self, engine: Engine | None) -> AbstractContextManager[Connection]:
        """One whose COMMIT is the run's success."""
        if self._done or self._held is None:
            raise RuntimeError(ONE)
        self._effects = self._effects or Effects(self._url, 1)
        return self._effects.transaction(self._held, self, engine)

    def commits(self) -> None:
        """The consumer's heartbeat leaves the run's row alone."""
        self._said = True
        self._say("commits", True)

    def committed(self, ok: bool) -> None:
        """It does again, if nothing was committed."""
        self._done = ok
        if self._said and not ok:
            self._say("commits", False)

    @property
    def cancelled(self) -> bool:
        """The consumer has said so."""
        with self._lock:
            while not self._cancelled and self._pipe.poll(0):
                _, run_id, attempt = self._pipe.recv()
                held = self._held
                self._cancelled = held is not None and (run_id, attempt) == (held.run_id, held.attempt)
        return self._cancelled

    def tell(self, progress: str | None) -> None:
        """The consumer's next heartbeat takes it along. When the lease is lost, this process is."""
        if progress is not None:
            self._say("progress", progress)

    def close(self) -> None:
        """No connection is left for the next run."""
        if self._effects is not None:
            self._effects.close()

    def _say(self, word: str, value: Any) -> None:
        with self._lock:
            self._pipe.send_bytes(json.dumps([word, value]).encode())
