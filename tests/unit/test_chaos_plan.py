"""The plans of the chaos runs: the seed alone decides, and every fault is in them."""

import pytest

from tests.chaos import scenarios
from tests.chaos.nemesis import ACTS
from tests.chaos.plan import Plan
from tests.chaos.severe import ACTS as ALL_ACTS


def documents(plans: list[Plan]) -> list[object]:
    return [plan.document() for plan in plans]


@pytest.mark.parametrize("make", [scenarios.short, scenarios.chaos, scenarios.long])
def test_the_seed_alone_decides(make) -> None:
    assert documents(make(7)) == documents(make(7))
    for one, other in zip(make(7), make(8), strict=True):
        assert one.faults != other.faults
        assert one.steps != other.steps


def test_every_fault_of_processes_edges_redis_and_commits_comes_once_within_eight_minutes() -> None:
    (plan,) = scenarios.chaos(1)
    assert sorted(fault.name for fault in plan.faults) == sorted(scenarios.CHAOS)
    assert plan.load_s < 450  # the calm begins with the last heal, and the servers need some seconds


def test_the_long_run_has_every_severe_fault_and_fails_over_last() -> None:
    parts = scenarios.long(1)
    played = [fault.name for part in parts for fault in part.faults]
    assert set(scenarios.SEVERE) - {name for name in scenarios.SEVERE if name.startswith("clock_")} <= set(played)
    assert parts[1].faults[-1].name == "mysql_failover"  # what comes after it would have no replica
    assert all(part.needs for part in parts[:3])


def test_every_fault_has_an_act() -> None:
    for plan in (*scenarios.short(1), *scenarios.chaos(1), *scenarios.long(1)):
        for fault in plan.faults:
            assert fault.options.get("act", fault.name) in ALL_ACTS
    assert ACTS is ALL_ACTS


def test_no_task_is_due_after_the_load_and_steps_of_a_task_are_of_one_client() -> None:
    (plan,) = scenarios.chaos(3)
    clients: dict[str, set[str]] = {}
    for step in plan.steps:
        clients.setdefault(step.key, set()).add(step.client)
        assert step.at_s + step.value.get("run_in_s", 0) <= plan.load_s
        assert step.value.get("start_at_s", 0) < plan.load_s
    assert all(len(names) == 1 for names in clients.values())
    kinds = {step.f for step in plan.steps}
    assert kinds == {"register", "edit", "pause", "resume", "cancel", "run_now"}
