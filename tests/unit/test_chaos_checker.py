"""The chaos checker: a good run is found good, each spoiled one is red with the right line, garbage is no verdict."""

import ast
import contextlib
import json
import random
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chaos.checker import oracle
from tests.chaos.checker.__main__ import main
from tests.chaos.checker.effects import unmatched
from tests.chaos.checker.files import Fault, Garbage, Op, load
from tests.chaos.checker.life import live
from tests.chaos.checker.limits import Window, all_away
from tests.chaos.checker.verdict import judge
from tests.unit.chaos_histories import ENDED, OUTAGE, Row, S, World, good, us, write

ROOT = Path(__file__).parents[2]
PRODUCT = ("clockjack", "producer", "dispatcher", "consumers", "deploy")
KEYS = (
    "verdict, seed, seconds, registered_ok, registered_unknown, lost, due, missing, twice, early, max_lateness_ms,"
    " max_recovery_ms, deadlocks, redeliveries, lost_attempts, fenced_writes, unknown_commits, faults, violations"
)


def verdict(world: World, folder: Path) -> Row:
    return judge(load(write(world, folder)))


def test_it_imports_no_scheduler_code() -> None:
    folder = ROOT / "tests" / "chaos" / "checker"
    for path in [*folder.glob("*.py"), folder.parent / "__init__.py", ROOT / "tests" / "__init__.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in {*sys.stdlib_module_names, "tests"}, f"{path} imports {name}"
                assert not name.startswith("tests.") or name.startswith("tests.chaos.checker"), f"{path} imports {name}"
    told = "import sys, tests.chaos.checker.__main__; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not set(loaded.split()) & {*PRODUCT, "croniter", "dateutil", "sqlalchemy", "pymysql", "redis", "rq"}


def test_a_good_run_is_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(write(good(), tmp_path)), "--json", str(tmp_path / "chaos.json")]) == 0
    found = json.loads((tmp_path / "verdict.json").read_text())
    assert list(found) == KEYS.split(", ")
    assert found == json.loads((tmp_path / "chaos.json").read_text())
    assert found["verdict"] is True
    assert found["violations"] == []
    assert (found["registered_ok"], found["registered_unknown"], found["lost"]) == (20, 1, 0)
    assert (found["due"], found["missing"], found["twice"], found["early"]) == (60, 0, 0, 0)
    assert found["lost_attempts"] == 1
    assert found["max_lateness_ms"] == 1_500.0  # counted from the end of the outage; 9 s after it was due
    assert found["faults"]["kill_mysqld"] == {"fired": 1, "max_lateness_ms": 9_000.0, "max_recovery_ms": 0.0}


Spoil = Callable[[World], Any]


def run_of(world: World, key: str, due_s: float) -> Row:
    task = next(task for task in world.tasks if task["task_key"] == key)
    return next(run for run in world.runs if (run["task_id"], run["due_at"]) == (task["id"], us(due_s)))


def task_of(world: World, key: str) -> Row:
    return next(task for task in world.tasks if task["task_key"] == key)


def op_of(world: World, key: str, f: str) -> Row:
    return next(op for op in world.history if (op["key"], op["f"]) == (key, f))


def effects_of(world: World, key: str, due_s: float) -> list[Row]:
    return [e for e in world.effects if e["task_key"] == key and e["run_key"].endswith(f"-{us(due_s)}")]


def forget(world: World, key: str, due_s: float) -> None:
    """Its run and its effects are gone."""
    world.runs.remove(run_of(world, key, due_s))
    forget_effects(world, key, due_s)


def forget_effects(world: World, key: str, due_s: float) -> None:
    gone = effects_of(world, key, due_s)
    world.effects = [effect for effect in world.effects if effect not in gone]


def end(run: Row, state: str, reason: str, **other: Any) -> None:
    run.update(state=state, reason=reason, attempt=1, first_started_at=None, started_at=None, **other)


def later(run: Row, seconds: float) -> None:
    for name in ("first_started_at", "started_at", "finished_at"):
        run[name] += round(seconds * 1_000_000)


def late(world: World) -> None:
    run, moved = run_of(world, "once-3", 13), effects_of(world, "once-3", 13)
    later(run, 10.5)
    for effect in moved:
        effect["at_us"] += 10_500_000


def again(world: World, key: str, due_s: float) -> None:
    """A copy of the run's row, as if nothing were unique."""
    world.runs.append(run_of(world, key, due_s) | {"id": 1000})


def overlapping(world: World) -> None:
    run = run_of(world, "cron", 30)
    run["started_at"] = us(50)  # its first attempt was lost at 51
    world.effects = [e for e in world.effects if not (e["task_key"] == "cron" and e["attempt"] == 2)]
    world.effect(task_of(world, "cron"), run, 2, us(50.01))


def zombie(world: World) -> None:
    """The first attempt's holder writes its success while the second is at work."""
    run_of(world, "cron", 30)["finished_at"] = us(52.01)


def revived(world: World) -> None:
    run_of(world, "once-1", 11)["result"] = '"another"'


def off(world: World, door: str) -> None:
    key = f"cancelled-{door}"
    task, run = task_of(world, key), run_of(world, key, 47)
    run.update(
        state="succeeded", reason=None, attempt=1, first_started_at=us(47.004), started_at=us(47.004),
        finished_at=us(47.06),
    )  # fmt: skip
    world.effect(task, run, 1, us(47.005))


def edited_still_runs(world: World, door: str) -> None:
    world.ran(task_of(world, f"edited-{door}"), us(40))


def paused_still_runs(world: World) -> None:
    run = world.ran(task_of(world, "paused"), us(25))
    assert run["state"] == "succeeded"


def lost_edit(world: World) -> None:
    task_of(world, "edited-http").update(every_s=10, start_at=us(10))


def lost_run_now(world: World) -> None:
    forget(world, "hand", 33.01)


def half_there(world: World) -> None:
    world.task("half", 50, run_at=us(75), payload={"task_key": "half"})["run_at"] = us(76)
    op_of(world, "half", "register").update(result="unknown", to_us=None)


def dead_dispatchers_would_excuse(world: World) -> None:
    """Only one of three is dead: no excuse."""
    world.fault("kill_dispatcher", "dispatcher.1", 12.5, 24)
    late(world)


SPOILED: dict[str, tuple[Spoil, str]] = {
    "a registration is gone": (lambda w: w.tasks.remove(task_of(w, "once-3")), "lost: once-3: its registration"),
    "a payload is another": (
        lambda w: task_of(w, "once-3").update(payload='{"task_key":"once-3" }'),
        "lost: once-3: its row is not what was acknowledged: payload",
    ),
    "an edit is gone": (lost_edit, "lost: edited-http: its row is not what was acknowledged: every_s is 10, not 7"),
    "a cancel is gone": (
        lambda w: task_of(w, "cancelled-sql").update(state="active"),
        "lost: cancelled-sql: its row is not what was acknowledged: state is active, not cancelled",
    ),
    "a run by hand is gone": (lost_run_now, "lost: hand: the run asked for between"),
    "a run by hand too many": (
        lambda w: w.ran(task_of(w, "hand"), us(35), origin="manual"),
        "invented: hand: a run by hand",
    ),
    "an unknown registration is half there": (half_there, "lost: half: its row is not what was acknowledged: run_at"),
    "a refused registration is there": (
        lambda w: op_of(w, "once-3", "register").update(result="fail"),
        "invented: once-3: its registration was refused",
    ),
    "a task that nobody registered": (
        lambda w: w.tasks.append(task_of(w, "once-3") | {"id": 500, "task_key": "mystery"}),
        "invented: task 500 with the key 'mystery'",
    ),
    "another id": (lambda w: op_of(w, "paused", "pause").update(task_id=99), "lost: paused: the answer to pause said"),
    "an occurrence is missing": (lambda w: forget(w, "every", 22), "missing: every, due 17:47:02.000000: it was in f"),
    "a one-time task never ran": (lambda w: forget(w, "past", 19.999), "missing: past, due"),
    "a minute of cron is missing": (lambda w: forget(w, "cron", 90), "missing: cron, due 17:48:10.000000: it was in"),
    "what a resume brings back is missing": (lambda w: forget(w, "paused", 35), "missing: paused, due"),
    "what an edit brings is missing": (lambda w: forget(w, "edited-sql", 32), "missing: edited-sql, due"),
    "skipped without an outage": (
        lambda w: (end(run_of(w, "every", 22), "skipped", "misfire"), forget_effects(w, "every", 22)),
        "missing: every, due 17:47:02.000000: skipped as misfire, and nothing",
    ),
    "cancelled without an edit": (
        lambda w: (end(run_of(w, "every", 22), "cancelled", "edited"), forget_effects(w, "every", 22)),
        "missing: every, due 17:47:02.000000: cancelled as edited, and nothing",
    ),
    "skipped as paused after the resume": (
        lambda w: (end(run_of(w, "paused", 50), "skipped", "paused"), forget_effects(w, "paused", 50)),
        "missing: paused, due 17:47:30.000000: skipped as paused",
    ),
    "skipped as overlap, which it allows": (
        lambda w: (end(run_of(w, "every", 22), "skipped", "overlap"), forget_effects(w, "every", 22)),
        "missing: every, due 17:47:02.000000: skipped as overlap",
    ),
    "paused without a word": (
        lambda w: w.runs.remove(run_of(w, "paused", 20)),
        "silent: paused, due 17:47:05.000000: it was paused, and no row says so",
    ),
    "a pause that ends too early": (
        lambda w: run_of(w, "paused", 20).update(skipped_until=us(30)),
        "silent: paused, due 17:47:10.000000: it was paused, and no row says so",
    ),
    "skipped without a word": (
        lambda w: run_of(w, "every", 66).update(reason=None),
        "missing: every, run 17 due 17:47:46.000000: skipped without a reason",
    ),
    "two rows": (lambda w: again(w, "once-3", 13), "twice: task 6 due 17:46:53.000000 has 2 rows"),
    "an occurrence is invented": (lambda w: w.ran(task_of(w, "every"), us(23)), "invented: every, run"),
    "a one-time task runs again": (lambda w: w.ran(task_of(w, "once-3"), us(44)), "invented: once-3, run"),
    "a period from now": (
        lambda w: run_of(w, "every", 22).update(due_at=us(22.004)),
        "invented: every, run 6 due 17:47:02.004000: no schedule",
    ),
    "a run of no task": (lambda w: run_of(w, "once-3", 13).update(task_id=700), "invented: run 32 due"),
    "a run before its time": (
        lambda w: later(run_of(w, "once-3", 13), -0.005),
        "early: once-3, run 32 due 17:46:53.000000 started 17:46:52.999000",
    ),
    "an effect before its time": (
        lambda w: effects_of(w, "once-3", 13)[0].update(at_us=us(12.99)),
        "early: once-3: an effect of the run due 17:46:53.000000 came 17:46:52.990000",
    ),
    "late": (late, "late: once-3, run 32 due 17:46:53.000000: first started 17:47:03.504000, 10.504 s late, allowed"),
    "late beside a dead dispatcher": (dead_dispatchers_would_excuse, "late: once-3, run 32 due 17:46:53"),
    "late after an outage": (lambda w: later(run_of(w, "cron", 60), 9.1), "late: cron, run 27 due 17:47:40.000000"),
    "never started": (
        lambda w: run_of(w, "once-3", 13).update(
            state="ready", wake_at=us(ENDED + 2), first_started_at=None, started_at=None, finished_at=None
        ),
        "late: once-3, run 32 due 17:46:53.000000: ready and never started",
    ),
    "two leases": (
        overlapping,
        "leases: cron, run 26 due 17:47:10.000000: attempt 2 started 17:47:30.000000, attempt 1",
    ),
    "lost in its lease": (
        lambda w: w.attempts[0].update(ended_at=us(35.9)),
        "leases: cron, run 26 due 17:47:10.000000: attempt 1 was declared lost after 5.896 s",
    ),
    "lost although nobody died": (
        lambda w: w.faults[0].update(target="dispatcher.2"),
        "twice: cron, run 26 due 17:47:10.000000: attempt 1 was lost 17:47:31.000000, and no consumer was touched",
    ),
    "the outcome of a zombie": (
        zombie,
        "fence: cron, run 26 due 17:47:10.000000: it succeeded 17:47:32.010000, and at",
    ),
    "the failure of a zombie": (
        lambda w: w.attempts[1].update(ended_at=us(25.001)),
        "fence: fails, run 40 due 17:47:05.000000: attempt 1 failed 17:47:05.001000, and was at work 17:47:05.005000",
    ),
    "another attempt's failure": (
        lambda w: w.attempts[0].update(outcome="failed", ended_at=us(33)),
        "fence: cron, run 26 due 17:47:10.000000: attempt 1 failed after 2.996 s, and nothing told it to",
    ),
    "another attempt's, which says how long it was at work": (
        lambda w: w.attempts[0].update(outcome="failed", ended_at=us(33), error="stopped after 8.2 s"),
        "fence: cron, run 26 due 17:47:10.000000: attempt 1 failed after 2.996 s, and nothing told it to",
    ),
    "stopped at the end of a lease that nothing had touched": (
        lambda w: (
            w.attempts[0].update(outcome="failed", ended_at=us(35), error="stopped after 4.9 s"),
            w.faults[0].update(target="dispatcher.2"),
        ),
        "fence: cron, run 26 due 17:47:10.000000: attempt 1 failed after 4.996 s, and nothing told it to",
    ),
    "succeeded by an attempt that had no effect": (
        lambda w: run_of(w, "cron", 30).update(attempt=3),
        "fence: cron, run 26 due 17:47:10.000000: attempt 3 succeeded, and had no effect of its own",
    ),
    "an attempt ended twice": (
        lambda w: w.attempt(run_of(w, "once-3", 13), 1, "failed", us(13.004), us(13.05)),
        "fence: once-3, run 32 due 17:46:53.000000: attempt 1 succeeded, and ended otherwise as well",
    ),
    "an attempt with a number too high": (
        lambda w: run_of(w, "fails", 25).update(attempt=1),
        "fence: fails, run 40 due 17:47:05.000000: it is at attempt 1, and there is attempt 2",
    ),
    "a failure is not counted": (
        lambda w: run_of(w, "fails", 25).update(failures=1),
        "fence: fails, run 40 due 17:47:05.000000: it counts 1 failures, and there are 2",
    ),
    "a terminal row changed": (revived, "terminal: once-1, run 30 due 17:46:51.000000: it was over, then result was"),
    "a terminal row is gone": (
        lambda w: w.runs.remove(run_of(w, "once-1", 11)),
        "terminal: once-1, run 30 due 17:46:51.000000: it was succeeded, and is gone",
    ),
    "succeeded without an effect": (
        lambda w: forget_effects(w, "once-3", 13),
        "effects: once-3, run 32 due 17:46:53.000000: it succeeded, and had no effect",
    ),
    "rows that are right, and no effects": (
        lambda w: forget_effects(w, "once-3", 13),
        "missing: once-3, due 17:46:53.000000: no effect of its own in its window",
    ),
    "an effect twice": (
        lambda w: w.effects.append(effects_of(w, "once-3", 13)[0] | {"at_us": us(13.2)}),
        "twice: once-3, run 32 due 17:46:53.000000: attempt 1 entered its handler 2 times",
    ),
    "an effect of an attempt that nobody counts": (
        lambda w: w.effects.append(effects_of(w, "once-3", 13)[0] | {"at_us": us(13.2), "attempt": 2}),
        "twice: once-3, run 32 due 17:46:53.000000: an effect of attempt 2, which no row tells of",
    ),
    "an effect of no run": (
        lambda w: w.effects.append(effects_of(w, "once-3", 13)[0] | {"run_key": f"6-{us(14)}", "at_us": us(14)}),
        "invented: once-3: an effect of a run due 17:46:54.000000, which has no row",
    ),
    "the payload of another": (
        lambda w: effects_of(w, "once-3", 13)[0].update(task_key="once-4"),
        "invented: once-3: its run due 17:46:53.000000 had the payload of another task",
    ),
    "cancelled by HTTP and runs": (lambda w: off(w, "http"), "off: cancelled-http, run"),
    "cancelled by SQL and runs": (lambda w: off(w, "sql"), "cancel by sql-1 was acknowledged 17:47:24.020000"),
    "edited by HTTP, and the old runs": (lambda w: edited_still_runs(w, "http"), "off: edited-http, run"),
    "edited by SQL, and the old runs": (lambda w: edited_still_runs(w, "sql"), "off: edited-sql, run"),
    "paused and runs": (paused_still_runs, "off: paused, run"),
    "over and to be looked at": (
        lambda w: run_of(w, "once-3", 13).update(wake_at=us(140)),
        "rows: once-3, run 32 due 17:46:53.000000: succeeded, and wake_at is 17:49:00.000000",
    ),
    "over and in the way": (
        lambda w: run_of(w, "once-3", 13).update(live_task_id=6),
        "rows: once-3, run 32 due 17:46:53.000000: succeeded, and still in its task's way",
    ),
    "a one-time task is due again": (
        lambda w: task_of(w, "once-3").update(next_run_at=us(ENDED + 100)),
        "rows: once-3: it ran once, and is due again",
    ),
    "a task that nobody looks at": (
        lambda w: task_of(w, "hand").update(next_run_at=us(50)),
        "rows: hand: it is to be looked at 17:47:30.000000, and nobody did",
    ),
    "attempts of no run": (lambda w: w.attempts[0].update(run_id=900), "rows: there are attempts of run 900"),
    "still running": (
        lambda w: run_of(w, "once-3", 13).update(state="running", wake_at=us(ENDED + 5), finished_at=None),
        "unfinished: once-3, run 32 due 17:46:53.000000: running since 17:46:53.004000 with a timeout of 20 s",
    ),
    "nobody looks again": (
        lambda w: run_of(w, "once-3", 13).update(state="ready", wake_at=us(100), finished_at=None),
        "unfinished: once-3, run 32 due 17:46:53.000000: ready, to be looked at 17:48:20.000000",
    ),
    "a deadlock": (lambda w: w.counters.update(deadlocks=2), "locking: 2 deadlocks"),
    "a fault did not happen": (
        lambda w: w.faults[1].update(fired=False),
        "vacuous: the fault kill_mysqld (mysqld) did not happen",
    ),
    "nothing was fenced": (
        lambda w: w.counters.update(fenced_writes=0),
        "vacuous: fenced_writes is 0, expected at least 1",
    ),
    "nothing was delivered again": (
        lambda w: w.counters.update(redeliveries=0),
        "vacuous: redeliveries is 0, expected at least 1",
    ),
    "no COMMIT was unknown": (
        lambda w: w.counters.update(unknown_commits=0),
        "vacuous: unknown_commits is 0, expected at least 1",
    ),
    "no attempt was lost": (
        lambda w: w.attempts[0].update(outcome="failed"),
        "vacuous: lost_attempts is 0, expected at least 1",
    ),
    "no effects at all": (lambda w: w.effects.clear(), "vacuous: effects is 0: nothing was tried"),
    "no registrations at all": (
        lambda w: [op.update(result="unknown", to_us=None) for op in w.history if op["f"] == "register"],
        "vacuous: registered_ok is 0: nothing was tried",
    ),
}


def away(world: World, misfire: str = "once", ran: int = 1) -> None:
    """Everything stands still while the database's clock moves on by an hour; a task misses 11 of its occurrences."""
    hour, back = 3_600, 3_600 + 110
    world.run["moved"] = {"at_us": us(104), "by_us": hour * S}
    world.fault("outage", "all", 102, 110)
    world.faults[-1]["exempt"] = True
    value = {"every_s": 300, "start_at": us(200), "end_at": us(3300), "misfire": misfire, "max_misfires": 3}
    task = world.task("hourly", 50, **value)
    for n in range(ran):
        run = world.ran(task, us(200 + 300 * n), back + n / 10, claimed_at=us(back - 0.5))
        for effect in effects_of(world, "hourly", 200 + 300 * n):
            effect["at_us"] = run["started_at"] + 1_000 - hour * S  # the receiver's clock stayed
    world.not_run(task, us(200 + 300 * ran), "skipped", "misfire", us(3300))["claimed_at"] = us(back - 0.5)


@pytest.mark.parametrize(("misfire", "ran"), [("once", 1), ("skip", 0), ("all", 3)])
def test_an_hour_that_was_missed_is_covered_as_misfire_says(misfire: str, ran: int, tmp_path: Path) -> None:
    world = good()
    away(world, misfire, ran)
    found = verdict(world, tmp_path)
    assert found["violations"] == []
    assert (found["due"], found["seconds"]) == (60 + 11, ENDED + 3_600)


SPOILED |= {
    "too little ran": (
        lambda w: away(w, "all", 2),
        "missing: hourly: misfire is all, and 2 of what the outage missed ran, not 3",
    ),
    "too much ran": (
        lambda w: away(w, "skip", 1),
        "missing: hourly: misfire is skip, and 1 of what the outage missed ran, not 0",
    ),
    "a part of it has no row": (
        lambda w: (away(w), run_of(w, "hourly", 500).update(skipped_until=us(2900))),
        "missing: hourly, due 18:35:00.000000: it was in force, and no row covers it",
    ),
    "too late after it": (
        lambda w: (away(w), later(run_of(w, "hourly", 200), 20)),
        "late: hourly, run",
    ),
    "nobody was judged": (lambda w: (away(w), w.task("hourly", 51)), "vacuous: caught_up is 0: nothing was tried"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_run_is_red_and_says_why(name: str, tmp_path: Path) -> None:
    world = good()
    spoil, line = SPOILED[name]
    spoil(world)
    found = verdict(world, tmp_path)
    assert found["verdict"] is False
    assert [text for text in found["violations"] if line in text], found["violations"]


@pytest.mark.parametrize("error", ["stopped after 4.9 s", "the handler was stopped"])
def test_a_handler_may_be_stopped_at_the_end_of_a_lease_that_was_counted_from_the_sending(
    error: str, tmp_path: Path
) -> None:
    world = good()
    world.run["expect"]["lost_attempts"] = 0
    world.attempts[0].update(outcome="failed", ended_at=us(34.5), error=error)
    assert verdict(world, tmp_path)["violations"] == []


def test_of_many_violations_the_first_ones_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    world = good()
    for n in range(70, 99, 4):
        forget(world, "every", n)
    for n in range(6):
        forget(world, "once-" + str(n), 10 + n)
    found = verdict(world, tmp_path)
    assert found["missing"] == 8 + 6 + 4 + 6  # rows; effects, but for those whose window an outage reaches into
    assert sum(text.startswith("missing: ") for text in found["violations"]) == 11
    assert "missing: and 14 more" in found["violations"]


def _torn(folder: Path) -> None:
    path = folder / "effects.jsonl"
    path.write_text(path.read_text()[:-30])


GARBAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (lambda f: (f / "run.json").unlink(), "run.json: No such file"),
    "no table": (lambda f: (f / "tables/runs.jsonl").unlink(), "tables/runs.jsonl: No such file"),
    "a torn line": (_torn, "effects.jsonl, line "),
    "no JSON": (lambda f: (f / "run.json").write_text("{"), "run.json: Expecting"),
    "no object": (lambda f: (f / "counters.json").write_text("[]"), "counters.json: expected one object"),
    "deep": (lambda f: (f / "history.jsonl").write_text("[" * 100_000), "history.jsonl, line 1: "),
    "bytes": (lambda f: (f / "faults.jsonl").write_bytes(b"\xff\xfe"), "faults.jsonl: "),
    "a list": (lambda f: (f / "faults.jsonl").write_text("[1]\n"), "faults.jsonl, line 1: expected an object"),
    "no field": (lambda f: (f / "effects.jsonl").write_text("{}\n"), "effects.jsonl, line 1: at_us is missing"),
    "a wrong kind": (
        lambda f: _set(f / "history.jsonl", from_us="now"),
        "history.jsonl, line 1: from_us is 'now', expected a whole number",
    ),
    "a truth for a number": (lambda f: _set(f / "tables/runs.jsonl", attempt=True), "attempt is True, expected"),
    "a verb": (lambda f: _set(f / "history.jsonl", f="explode"), "f is 'explode', expected one of register"),
    "ok without an answer": (lambda f: _set(f / "history.jsonl", to_us=None), "to_us is null although"),
    "backwards": (lambda f: _set(f / "faults.jsonl", until_us=1), "until_us is before from_us"),
    "a run key": (lambda f: _set(f / "effects.jsonl", run_key="x-y"), "run_key is 'x-y'"),
    "a time": (lambda f: _set(f / "tables/runs.jsonl", due_at=10**30), "due_at is 1000000000000000000000"),
    "another century": (lambda f: _set(f / "history.jsonl", from_us=0), "operation 1 was not sent within an hour"),
    "an endless run": (lambda f: _set(f / "run.json", ended_us=us(10**6)), "run.json: it took more than a day"),
    "an expectation": (lambda f: _set(f / "run.json", expect={"luck": 1}), "expect has 'luck', which nobody counts"),
    "no deadlocks": (lambda f: _set(f / "counters.json", deadlocks=None), "deadlocks is None"),
    "a schedule that the oracle does not know": (
        lambda f: _set(f / "history.jsonl", value={"rrule": "FREQ=DAILY"}),
        "the oracle does not know rrule",
    ),
}


def _set(path: Path, **values: Any) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(lines[0]) | values), *lines[1:]]))


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_no_verdict(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, line = GARBAGE[name]
    spoil(write(good(), tmp_path))
    assert main([str(tmp_path)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("checker: ")
    assert line in told.err
    assert told.err.count("\n") == 1
    assert not (tmp_path / "verdict.json").exists()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_garbage_in_any_field_is_judged_or_refused(data: st.DataObject, tmp_path_factory: Any) -> None:
    """Whatever stands in a field: a verdict, or a clear refusal; never another exception."""
    folder = tmp_path_factory.mktemp("garbage")
    write(good(), folder)
    path = data.draw(st.sampled_from(sorted(folder.rglob("*.json*"))))
    lines = path.read_text().splitlines()
    if not lines:
        return
    number = data.draw(st.integers(0, len(lines) - 1))
    row = json.loads(lines[number])
    odd = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([]), st.just({}))
    within = row["value"] if row.get("value") and data.draw(st.booleans()) else row
    within[data.draw(st.sampled_from(sorted(within)))] = data.draw(odd)
    lines[number] = json.dumps(row)
    path.write_text("\n".join(lines))
    with contextlib.suppress(Garbage, oracle.Unknown):
        assert isinstance(judge(load(folder))["verdict"], bool)


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False))
def test_whatever_run_is_forgotten_is_missed(rng: random.Random) -> None:
    """No single run that succeeded can go, with its effects, without a line; and no single effect can.

    But for the one that plain SQL passes over within 10 s, which is excepted from the guarantee.
    """
    import tempfile

    world = good()
    excepted = run_of(world, "edited-sql", 20)
    victim = rng.choice([run for run in world.runs if run["state"] == "succeeded" and run is not excepted])
    key = next(task["task_key"] for task in world.tasks if task["id"] == victim["task_id"])
    if rng.random() < 0.5:
        world.runs.remove(victim)
        world.calm = [run for run in world.calm if run["id"] != victim["id"]]
        world.attempts = [attempt for attempt in world.attempts if attempt["run_id"] != victim["id"]]
    name = f"{victim['task_id']}-{victim['due_at']}"
    world.effects = [effect for effect in world.effects if effect["run_key"] != name]
    with tempfile.TemporaryDirectory() as folder:
        found = verdict(world, Path(folder))
    assert any(key in line for line in found["violations"]), (victim, found["violations"])


def micros(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


BERLIN, YORK, HOWE, CAIRO = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo"


@pytest.mark.parametrize(
    ("cron", "zone", "low", "high", "expected"),
    [
        ("30 2 * * *", BERLIN, "2026-03-29T00:00", "2026-03-30T12:00", ["2026-03-29T01:00", "2026-03-30T00:30"]),
        ("5,35 2 * * *", BERLIN, "2026-03-29T00:00", "2026-03-30T00:10", ["2026-03-29T01:00", "2026-03-30T00:05"]),
        ("0 */2 * * *", BERLIN, "2026-03-29T00:30", "2026-03-29T04:30", ["2026-03-29T02:00", "2026-03-29T04:00"]),
        ("30 2 * * *", BERLIN, "2026-10-24T22:00", "2026-10-26T12:00", ["2026-10-25T00:30", "2026-10-26T01:30"]),
        ("30 * * * *", BERLIN, "2026-10-25T00:00", "2026-10-25T02:00", ["2026-10-25T00:30", "2026-10-25T01:30"]),
        ("30 1 * * *", YORK, "2026-11-01T04:00", "2026-11-02T12:00", ["2026-11-01T05:30", "2026-11-02T06:30"]),
        ("15 2 * * *", HOWE, "2026-10-03T12:00", "2026-10-05T00:00", ["2026-10-03T15:30", "2026-10-04T15:15"]),
        ("0 0 * * 5", CAIRO, "2026-04-23T10:00", "2026-05-01T00:00", ["2026-04-23T22:00", "2026-04-30T21:00"]),
        ("0 0 13 * FRI", "UTC", "2026-06-11T00:00", "2026-06-14T00:00", ["2026-06-12T00:00", "2026-06-13T00:00"]),
        ("0 0 */2 * MON", "UTC", "2026-06-01T12:00", "2026-06-30T00:00", ["2026-06-15T00:00", "2026-06-29T00:00"]),
        ("0 22-1 * * *", "UTC", "2026-06-05T00:30", "2026-06-05T22:30", ["2026-06-05T01:00", "2026-06-05T22:00"]),
        ("9 0 9 * * *", "UTC", "2026-06-05T00:00", "2026-06-07T00:00", ["2026-06-05T09:00:09", "2026-06-06T09:00:09"]),
    ],
)  # fmt: skip
def test_the_oracle_knows_cron(cron: str, zone: str, low: str, high: str, expected: list[str]) -> None:
    found = oracle.due({"cron": cron, "timezone": zone}, micros(low), micros(high))
    assert found == [micros(text) for text in expected]


def test_the_oracle_agrees_with_the_other_brute_force() -> None:
    """Both were written alone; near clock changes of many zones, under all options."""
    from tests.unit import cron_oracle

    compared = 0
    for window in cron_oracle.windows(5, 120, cron_oracle.ZONES):
        cron, zone, after, until, (gap, fold) = window
        definition = {"cron": cron, "timezone": zone, "dst_gap": gap, "dst_fold": fold}
        low, high = (int(when.replace(tzinfo=UTC).timestamp()) * 1_000_000 for when in (after, until))
        try:
            found = oracle.due(definition, low + 1, high)
        except oracle.Unknown:
            continue
        expected = [int(w.replace(tzinfo=UTC).timestamp()) * 1_000_000 for w in cron_oracle.occurrences(*window)]
        assert found == expected, window
        compared += 1
    assert compared > 60


@pytest.mark.parametrize(
    ("definition", "expected"),
    [
        ({"every_s": 10, "start_at": us(5)}, [us(5), us(15), us(25)]),
        ({"every_s": 10}, [us(13), us(23)]),
        ({"every_s": 10, "start_at": us(5), "end_at": us(15)}, [us(5), us(15)]),
        ({"run_at": us(7)}, [us(7)]),
        ({"run_at": us(70)}, []),
        ({"run_at": "2030-03-17T17:46:45.250000Z"}, [us(5.25)]),
        ({"cron": "*/10 * * * * *", "start_at": us(10), "end_at": us(20)}, [us(10), us(20)]),
    ],
)
def test_the_oracle_knows_the_other_kinds(definition: Row, expected: list[int]) -> None:
    assert oracle.due(definition, us(0), us(25), created_us=us(3)) == expected


@pytest.mark.parametrize("cron", ["61 * * * *", "* * * *", "5-1/2 * * * *", "x * * * *", "*/0 * * * *", "1,,2 * * * *"])
def test_what_nobody_can_read_is_never_due(cron: str) -> None:
    with pytest.raises(oracle.Unreadable):
        oracle.due({"cron": cron}, us(0), us(10))


@pytest.mark.parametrize("cron", ["H * * * *", "@daily", "0 0 L * *", "0 0 * * FRI#2"])
def test_the_oracle_never_guesses(cron: str) -> None:
    with pytest.raises(oracle.Unknown):
        oracle.due({"cron": cron}, us(0), us(10))


def op(f: str, from_s: float, to_s: float | None, value: Row | None = None, result: str = "ok") -> Op:
    return Op(round(from_s * 100), "http-1", f, "k", value or {}, us(from_s), to_s and us(to_s), result, None)


def modes(ops: list[Op], at_s: float, final: str | None = None) -> set[str]:
    fits = None if final is None else lambda state, _: state.mode == final
    states = live("k", ops, us(500), fits).at(us(at_s), us(at_s))
    assert states is not None
    return {state.mode for state in states}


def test_while_nobody_has_an_answer_a_task_may_be_either() -> None:
    ops = [op("register", 1, 2, {"run_at": 5}), op("pause", 10, 11), op("resume", 12, None, result="unknown")]
    assert modes(ops, 0.5) == {"absent"}
    assert modes(ops, 1.5) == {"absent", "active"}
    assert modes(ops, 5) == {"active"}
    assert modes(ops, 10.5) == {"active", "paused"}
    assert modes(ops, 11.5) == {"paused"}
    assert modes(ops, 20) == {"active", "paused"}
    assert modes(ops, 400) == {"active", "paused"}
    assert modes(ops, 400, final="paused") == {"paused"}
    assert modes(ops, 400, final="active") == {"active"}


def test_operations_that_overlap_come_in_either_order() -> None:
    ops = [op("register", 1, 2, {"run_at": 5}), op("pause", 10, 12), op("resume", 11, 13)]
    assert modes(ops, 20) == {"active", "paused"}
    life = live("k", [*ops, *(op("pause", 11, 14) for _ in range(6))], us(500), None)
    assert life.at(us(20), us(20)) is None
    assert life.at(us(5), us(5)) is not None


def test_an_edit_is_the_whole_definition_or_names_what_it_changes() -> None:
    whole = op("edit", 10, 11, {"every_s": 5, "payload": 2})
    begun = [op("register", 1, 2, {"cron": "* * * * *", "timezone": "Asia/Kolkata", "payload": 1}), whole]
    assert live("k", begun, us(500), None).definitions[-1] == {"every_s": 5, "payload": 2}
    part = op("edit", 12, 13, {"payload": 3, "max_runs": None})
    assert live("k", [*begun, part], us(500), None).definitions[-1] == {"every_s": 5, "payload": 3}


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)), max_size=7),
    st.lists(st.integers(0, 25), max_size=7),
)
def test_the_blind_match_is_the_best_one(raw: list[tuple[int, int]], moments: list[int]) -> None:
    """As many windows get a moment of their own as by trying everything."""
    spans = sorted((begin, begin + length) for begin, length in raw)

    def most(index: int, left: tuple[int, ...]) -> int:
        if index == len(spans):
            return 0
        begin, end_ = spans[index]
        tried = [most(index + 1, left)]
        tried += [1 + most(index + 1, left[:i] + left[i + 1 :]) for i, m in enumerate(left) if begin <= m <= end_]
        return max(tried)

    assert (
        len(spans) - len(unmatched(spans, sorted(moments))) == most(0, tuple(sorted(moments)[:6])) or len(moments) > 6
    )


def test_only_the_absence_of_all_excuses() -> None:
    def away(target: str, low: float, high: float) -> Fault:
        return Fault("kill", target, us(low), us(high), fired=True, exempt=None)

    some = [away("consumer.1", 0, 10), away("edge consumer.2>mysql", 5, 20), away("edge consumer.3>redis", 0, 20)]
    assert all_away(some, "consumer", 3) == []
    assert all_away([*some, away("consumer.3", 7, 9)], "consumer", 3) == [Window(us(7), us(9))]
    assert all_away([away("consumers", 1, 2)], "consumer", 3) == [Window(us(1), us(2))]
    assert all_away([away("dispatcher.1", 1, 2)], "consumer", 3) == []


def test_a_fault_may_say_that_it_excuses(tmp_path: Path) -> None:
    world = good()
    late(world)
    world.calm.clear()
    assert not verdict(world, tmp_path)["verdict"]
    world.fault("kill_redis", "redis", 12, 15)
    assert not verdict(world, tmp_path)["verdict"]
    world.faults[-1]["exempt"] = True
    assert verdict(world, tmp_path)["violations"] == []
    assert OUTAGE[0] > 15
