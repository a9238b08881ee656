"""A payload that does not fit its handler: FAILED for good, said clearly, and not logged."""

import logging
from collections.abc import Iterator

import pytest

from clockjack import handlers
from clockjack.handlers import handler
from clockjack.ledger.database import Database
from clockjack.queues import Queues
from tests.integration.life import run_of, select
from tests.integration.test_consumer import Bench

SECRET = "hunter2-secret"


@pytest.fixture
def bench(database: Database, queues: Queues) -> Iterator[Bench]:
    bench = Bench(database, queues)
    bench.handle = lambda run: handlers.registry[run.handler](run)
    yield bench
    bench.engine.pool.close()


def test_it_fails_for_good_and_names_what_is_wrong(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def send(to: str, copies: int = 1) -> str:
        return to * copies

    caplog.set_level(logging.DEBUG)
    handler("payloads.send")(send)
    good = bench.due(handler="payloads.send", payload='{"to": "a", "copies": 2}')
    bad = bench.due(handler="payloads.send", payload=f'{{"to": "{SECRET}", "copies": "{SECRET}"}}', max_failures=9)
    bench.until(lambda: bench.engine.empty and bench.state(bad) == "failed")
    run = run_of(bench.database, bad)
    assert (run["attempt"], run["failures"], run["reason"], run["wake_at"]) == (1, 1, "failed", None)
    wrong = "InvalidPayload: copies: Input should be a valid integer, unable to parse string as an integer"
    assert run["error"] == wrong
    assert select(bench.database, "SELECT outcome, error FROM attempts") == [{"outcome": "failed", "error": wrong}]
    assert run_of(bench.database, good)["result"] == '"aa"'
    assert SECRET not in caplog.text
    assert any(getattr(record, "error", "") == "InvalidPayload" for record in caplog.records)
