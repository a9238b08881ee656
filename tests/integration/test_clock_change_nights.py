"""The nights on which clocks change, stepped claim by claim under a moved clock: exactly these runs, and no silent gap.

Berlin: on 2027-03-28 at 01:00 UTC 02:00 becomes 03:00; on 2027-10-31 at 01:00 UTC 03:00 becomes 02:00 again.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from clockjack.ledger import claim
from clockjack.ledger.finish import Outcome
from clockjack.queues import Queues
from dispatcher.loops import Dispatcher
from tests.integration.life import finish, held, start, task
from tests.integration.stepping import Later, moved, new, settle, story

pytestmark = pytest.mark.mysql
SPRING, AUTUMN = datetime(2027, 3, 27, 20, 0), datetime(2027, 10, 30, 20, 0)  # UTC, the evenings before
HALF_HOURS = [timedelta(minutes=30 * i) for i in range(13)]


@pytest.fixture
def later(database_url: str) -> Iterator[Later]:
    with moved(database_url, SPRING) as database:
        yield database


def night(later: Later, begin: datetime, hours: int, step_s: float = 300) -> None:
    """Every few minutes what is due is claimed, begun and ended."""
    number = 0
    while later.at < begin + timedelta(hours=hours):
        later.on(step_s)
        number += 1
        if ready := claim.claim(later, {}).ready:
            started = start(later, ready, number.to_bytes(16, "big"))
            finish(later, *(Outcome(h, "succeeded") for h in held(started)))


def times(later: Later, one: int) -> list[str]:
    """The due times (UTC) of the runs, each of which succeeded."""
    found = story(later, one)
    assert all((what, until) == ("succeeded", None) for what, _, until in found), found
    return [f"{due:%d %H:%M}" for _, due, _ in found]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["28 01:00", "29 00:30"]),  # 03:00 summer time, right after the gap
        ({"dst_gap": "skip"}, ["29 00:30"]),
        ({"dst_fold": "both"}, ["28 01:00", "29 00:30"]),
    ],
)
def test_the_night_that_has_no_half_past_two(later: Later, options: dict[str, str], expected: list[str]) -> None:
    one = new(later, cron="30 2 * * *", timezone="Europe/Berlin", **options)
    night(later, SPRING, 30)
    assert times(later, one) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["31 00:30", "01 01:30"]),  # the first of the two
        ({"dst_fold": "last"}, ["31 01:30", "01 01:30"]),
        ({"dst_fold": "both"}, ["31 00:30", "31 01:30", "01 01:30"]),
        ({"dst_gap": "skip"}, ["31 00:30", "01 01:30"]),
    ],
)
def test_the_night_that_has_it_twice(later: Later, options: dict[str, str], expected: list[str]) -> None:
    later.to(AUTUMN)
    one = new(later, cron="30 2 * * *", timezone="Europe/Berlin", **options)
    night(later, AUTUMN, 30)
    assert times(later, one) == expected


@pytest.mark.parametrize("begin", [SPRING, AUTUMN])
@pytest.mark.parametrize("options", [{}, {"dst_gap": "skip"}, {"dst_fold": "last"}])
def test_every_half_hour_is_every_half_hour(later: Later, begin: datetime, options: dict[str, str]) -> None:
    later.to(begin + timedelta(hours=2, minutes=1))
    one = new(later, cron="*/30 * * * *", timezone="Europe/Berlin", **options)
    night(later, later.at, 6, step_s=240)
    dues = [due for _, due, _ in story(later, one)]
    assert dues == [begin + timedelta(hours=2, minutes=30) + half for half in HALF_HOURS[: len(dues)]]
    assert len(dues) in (11, 12)


@pytest.mark.parametrize(
    ("begin", "first", "rest"),
    [
        (SPRING, datetime(2027, 3, 28, 1, 0), datetime(2027, 3, 29, 0, 30)),
        (AUTUMN, datetime(2027, 10, 31, 0, 30), datetime(2027, 11, 1, 1, 30)),
    ],
)
@pytest.mark.parametrize("misfire", ["skip", "once"])
def test_an_outage_over_the_change(
    later: Later, queues: Queues, begin: datetime, first: datetime, rest: datetime, misfire: str
) -> None:
    later.to(begin)
    one = new(later, cron="30 2 * * *", timezone="Europe/Berlin", misfire=misfire)
    later.to(begin + timedelta(hours=10))
    settle(Dispatcher(later, queues))
    what = ("misfire", first, rest) if misfire == "skip" else ("ready", first, None)
    assert story(later, one) == [what]
    assert task(later, one)["next_run_at"] == rest


def test_a_pause_over_the_change(later: Later, queues: Queues) -> None:
    from clockjack.ledger import control

    one = new(later, cron="*/30 * * * *", timezone="Europe/Berlin")
    dispatcher = Dispatcher(later, queues)
    later.transaction(lambda c: control.pause(c, "default", one, actor="test"))
    for _ in range(10):
        later.on(3600)
        settle(dispatcher)
    later.on(60)
    later.transaction(lambda c: control.resume(c, "default", one, actor="test"))
    assert story(later, one) == [("paused", SPRING + timedelta(minutes=30), later.at + timedelta(minutes=29))]
