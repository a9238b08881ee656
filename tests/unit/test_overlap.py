"""What a run does while another of its task has begun and not ended: the whole table."""

import pytest

from clockjack.ledger.overlap import judge
from clockjack.ledger.runs import PUT_OFF, SKIPPED

POLICIES = ("allow", "skip", "queue_one", "replace")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("origin", ["schedule", "manual", "backfill"])
@pytest.mark.parametrize("waits", [False, True])
def test_nobody_has_begun(policy: str, origin: str, waits: bool) -> None:
    assert judge(policy, origin, begun=False, waits=waits) == "run"


@pytest.mark.parametrize(
    ("policy", "origin", "verdict", "while_one_waits"),
    [
        ("allow", "schedule", "run", "run"),
        ("skip", "schedule", "overlap", "overlap"),
        ("queue_one", "schedule", "overlaps", "overlap"),
        ("replace", "schedule", "replace", "replace"),
        ("skip", "backfill", "overlaps", "overlaps"),
        ("queue_one", "backfill", "overlaps", "overlaps"),
        ("replace", "backfill", "overlaps", "overlaps"),
        ("allow", "backfill", "run", "run"),
        *((policy, "manual", "run", "run") for policy in POLICIES),
    ],
)
def test_another_has_begun(policy: str, origin: str, verdict: str, while_one_waits: str) -> None:
    assert judge(policy, origin, begun=True, waits=False) == verdict
    assert judge(policy, origin, begun=True, waits=True) == while_one_waits


def test_every_verdict_is_an_end_or_a_time_to_wait() -> None:
    assert "overlap" in SKIPPED
    assert "overlaps" in PUT_OFF
