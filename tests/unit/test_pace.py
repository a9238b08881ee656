"""The pace of overdue work: slow at first, faster while nobody waits, none where somebody does."""

from clockjack.ledger.pace import FIRST_PER_S, MOST_PER_S, Pace


def taken(pace: Pace, name: str, now_s: float) -> int:
    """How many the queue gets at this moment."""
    n = 0
    while pace.take(name, now_s):
        n += 1
        assert n <= MOST_PER_S
    return n


def test_it_doubles_each_second_while_nobody_waits() -> None:
    pace, given = Pace(), []
    for second in range(10):
        pace.exhausted({}, 100.0 + second)
        given.append(taken(pace, "q", 100.0 + second))
    assert given[:4] == [FIRST_PER_S, 2 * FIRST_PER_S, 4 * FIRST_PER_S, 8 * FIRST_PER_S]
    assert given[-1] == MOST_PER_S


def test_within_a_second_there_is_no_more() -> None:
    pace = Pace()
    taken(pace, "q", 100.0)
    assert pace.exhausted({}, 100.9) == ["q"]
    assert not pace.take("q", 100.9)
    assert pace.exhausted({}, 101.0) == []


def test_somebody_who_waits_halts_it_and_another_queue_goes_on() -> None:
    pace = Pace()
    for second in range(4):
        pace.exhausted({}, 100.0 + second)
        taken(pace, "slow", 100.0 + second)
        taken(pace, "other", 100.0 + second)
    for second in range(3):
        assert pace.exhausted({"slow": 0.3}, 104.0 + second) == ["slow"]
        assert taken(pace, "slow", 104.0 + second) == 0
        assert taken(pace, "other", 104.0 + second) == FIRST_PER_S * 2 ** (4 + second)
    pace.exhausted({"slow": 0.2}, 107.0)
    assert taken(pace, "slow", 107.0) == 2 * (8 * FIRST_PER_S // 4 // 4 // 4)


def test_it_never_stops_for_good() -> None:
    pace = Pace()
    taken(pace, "q", 100.0)
    for second in range(1, 60):
        pace.exhausted({"q": 9.0}, 100.0 + second)
    assert pace.exhausted({}, 160.0) == []
    assert taken(pace, "q", 160.0) == 2


def test_a_queue_that_did_not_need_it_is_forgotten() -> None:
    pace = Pace()
    for i in range(1000):
        pace.take(f"q{i}", 100.0)
    pace.exhausted({}, 101.0)
    assert not pace._queues
