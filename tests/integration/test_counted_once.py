"""The proof `counter` with small numbers: a consumer dies at every statement of start, work and finish, once each."""

from collections.abc import Iterator

import pytest

from tests.prove import effects
from tests.prove.deaths import PLACES
from tests.prove.stage import Stage


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_was_counted_is_what_succeeded(stage: Stage) -> None:
    stage.begin()
    figure, holds = effects.counter(stage, runs=120, lives=len(PLACES))
    assert holds, figure
