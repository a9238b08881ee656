"""The acts of handlers that harm the process they run in: crash it, hang in it, answer too much, leak."""

from collections.abc import Generator
from typing import TYPE_CHECKING

from tests.chaos.clients import now_us
from tests.chaos.plan import Fault, Step
from tests.chaos.world import AT_WORK_S
from tests.prove.stage import until

if TYPE_CHECKING:
    from tests.chaos.nemesis import Nemesis

Act = Generator[None, None, tuple[bool, str]]


def handler(nemesis: "Nemesis", fault: Fault) -> Act:
    """A task whose handler crashes its process, hangs, or returns too much; it tells which attempts did not succeed."""
    world, what = nemesis.world, fault.options["payload"]
    key = f"{fault.name}-{now_us()}"
    value = {"handler": "chaos", "payload": {"task_key": key, **what}, "run_in_s": 0.3, "backoff_s": 1}
    value |= {"timeout_s": fault.options.get("timeout_s", 20), "max_failures": fault.options.get("max_failures", 5)}
    deaths = len(world.deaths)
    task_id = nemesis.client.do(Step(0, nemesis.client.name, key, "register", value))
    yield
    found = world.sql(
        "SELECT a.outcome, a.error FROM attempts a JOIN runs r ON r.id = a.run_id WHERE r.task_id = %s", task_id
    )
    died = [f"{death.name} with {death.code}" for death in world.deaths[deaths:]]
    for name in {death.name for death in world.deaths[deaths:]}:
        world.wait_at_work(name, AT_WORK_S)
    fired = bool(found) if "bytes" in what else bool(died)  # of a crash the attempt is lost only when its lease is over
    return fired, f"ended: {died}; attempts: {[outcome for outcome, _ in found]}"


def leak(nemesis: "Nemesis", fault: Fault) -> Act:
    """A task whose handler leaves its process too little memory, or too few files; that one ends when it is empty."""
    world = nemesis.world
    key, deaths = f"{fault.name}-{now_us()}", len(world.deaths)
    value = {"handler": "chaos", "payload": {"task_key": key, **fault.options["payload"]}, "run_in_s": 0.3}
    task_id = nemesis.client.do(Step(0, nemesis.client.name, key, "register", value))
    yield
    until(lambda: world.deaths[deaths:], 12, 0.1)
    died = {death.name: death.code for death in world.deaths[deaths:]}
    said = [name for name in died if '"action": "leaking"' in (world.out / "log" / f"{name}.log").read_text()]
    ends = world.sql("SELECT state, attempt FROM runs WHERE task_id = %s", task_id)
    back = all(world.wait_at_work(name, AT_WORK_S) for name in died)
    return bool(said) and back, f"ended: {died}, for a leak: {said}; the run: {ends}; others at work: {back}"
