"""What a handler may end with, and what is refused at once with a clear error."""

import math
from typing import Any

import pytest

from clockjack import Discard, Fail, Retry, Snooze
from clockjack.endings import LONGEST_S, InvalidPayload
from consumers.ending import heard, told


@pytest.mark.parametrize("kind", [Retry, Snooze])
@pytest.mark.parametrize("after_s", [1, 1.5, 604_800])
def test_seconds_that_are_taken(kind: Any, after_s: float) -> None:
    assert kind(after_s).after_s == after_s
    assert kind(after_s, why="busy").why == "busy"


@pytest.mark.parametrize("kind", [Retry, Snooze])
@pytest.mark.parametrize("after_s", [-1, -0.001, LONGEST_S + 1, math.inf, math.nan])
def test_seconds_out_of_range_are_refused(kind: Any, after_s: float) -> None:
    with pytest.raises(ValueError, match=rf"^{kind.__name__}: after_s must be from [01] to 604,800 seconds, not "):
        kind(after_s)


@pytest.mark.parametrize("kind", [Retry, Snooze])
@pytest.mark.parametrize("after_s", [None, "30", True, [1], 1j])
def test_what_is_no_number_is_refused(kind: Any, after_s: Any) -> None:
    with pytest.raises(TypeError, match=r"after_s must be a number of seconds"):
        kind(after_s)


def test_a_retry_may_be_at_once_a_snooze_may_not() -> None:
    assert Retry(0).after_s == 0
    with pytest.raises(ValueError, match="from 1 to"):
        Snooze(0.5)


@pytest.mark.parametrize("why", [None, "", "  ", 5])
def test_who_discards_says_why(why: Any) -> None:
    with pytest.raises(TypeError, match="why must be a text"):
        Discard(why)


def test_a_reason_is_a_text_and_bounded() -> None:
    with pytest.raises(TypeError, match="why must be a text, not int"):
        Snooze(5, 5)  # type: ignore[arg-type]
    assert len(Fail("x" * 5_000).why or "") == 1_000


class Busy(Retry):
    """A user's own."""


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        (Retry(3, "busy"), Retry),
        (Busy(3), Retry),
        (Snooze(5), Snooze),
        (Discard("gone"), Discard),
        (Fail("no"), Fail),
        (InvalidPayload("to: Field required"), InvalidPayload),
    ],
)
def test_a_child_tells_what_its_consumer_hears(ending: Any, kind: Any) -> None:
    same = heard(*told(ending))
    assert type(same) is kind
    assert (same.why, getattr(same, "after_s", None)) == (ending.why, getattr(ending, "after_s", None))


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("explode", {}),
        ("retry", {}),
        ("retry", {"after_s": "1"}),
        ("snooze", {"after_s": 1e9}),
        ("discard", {"why": None}),
        ("fail", {"why": "x", "state": "succeeded"}),
        ("retry", 5),
        ("retry", [1]),
    ],
)
def test_what_is_no_ending_is_not_heard(word: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        heard(word, value)
