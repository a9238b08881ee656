"""The Redis contract: idempotent staging, atomic release, pop and acknowledge in one call, and RQ's own tools."""

import json
import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest
from rq.job import Job
from rq.serializers import JSONSerializer

from clockjack.ledger.advance import Ready
from clockjack.ledger.database import from_us
from clockjack.queues import LONGEST_LIST, Queues, job_id

NOW_US = 1_800_000_000_000_000
NOW = from_us(NOW_US)


def ready(number: int, in_s: float = 0.0, attempt: int = 1) -> Ready:
    return Ready(number, NOW + timedelta(seconds=in_s), attempt, "default")


def waiting(queues: Queues) -> list[str]:
    return [i.decode() for i in queues.redis.lrange("rq:queue:default", 0, -1)]


def staged(queues: Queues) -> list[str]:
    return [i.decode() for i in queues.redis.zrange("clockjack:staged:default", 0, -1)]


def test_staged_until_due_then_released_in_order(queues: Queues) -> None:
    assert queues.push([ready(1, 2.0), ready(2, 1.0), ready(3, 9.0)], NOW_US) == 3
    assert queues.release(["default"], NOW_US) == ([], NOW_US + 1_000_000)
    moved, soonest = queues.release(["default"], NOW_US + 2_000_000)
    assert (moved, soonest) == ([NOW_US + 1_000_000, NOW_US + 2_000_000], NOW_US + 9_000_000)
    assert (waiting(queues), staged(queues)) == (["r2-a1", "r1-a1"], ["r3-a1"])


def test_the_release_is_exact_to_the_microsecond(queues: Queues) -> None:
    queues.push([Ready(1, NOW + timedelta(microseconds=1), 1, "default")], NOW_US)
    assert queues.release(["default"], NOW_US)[0] == []
    assert queues.release(["default"], NOW_US + 1)[0] == [NOW_US + 1]


def test_pushing_again_changes_nothing(queues: Queues) -> None:
    for _ in range(3):
        queues.push([ready(1), ready(2, 1.0)], NOW_US)
    assert (waiting(queues), staged(queues)) == (["r1-a1"], ["r2-a1"])


def test_a_job_just_popped_is_left_alone_and_pushed_anew_a_second_later(queues: Queues) -> None:
    queues.push([ready(1)], NOW_US)
    assert [p.run_id for p in queues.step("default", "w", NOW_US, (10, 10, 1), [])[0]] == [1]
    assert queues.push([ready(1)], NOW_US + 900_000) == 0
    assert queues.push([ready(1)], NOW_US + 1_100_000) == 1
    assert waiting(queues) == ["r1-a1"]


def test_a_hash_without_its_list_is_not_believed(queues: Queues) -> None:
    queues.push([ready(1)], NOW_US)
    queues.redis.delete("rq:queue:default")
    assert queues.push([ready(1)], NOW_US) == 1
    assert waiting(queues) == ["r1-a1"]


def test_acknowledged_jobs_leave_nothing_behind(queues: Queues) -> None:
    queues.push([ready(1), ready(2)], NOW_US)
    popped, _ = queues.step("default", "w", NOW_US, (1, 1, 1), [])
    assert [(p.run_id, p.due_at, p.attempt, p.pushed_us) for p in popped] == [(1, NOW, 1, NOW_US)]
    popped, _ = queues.step("default", "w", NOW_US, (1, 1, 1), ["r1-a1"])
    assert [p.run_id for p in popped] == [2]
    assert not queues.redis.exists("rq:job:r1-a1")
    assert queues.redis.zrange("rq:wip:default", 0, -1) == [b"r2-a1:w"]


def test_an_acknowledgement_of_somebody_elses_job_touches_nothing(queues: Queues) -> None:
    queues.push([ready(1)], NOW_US)
    queues.step("default", "one", NOW_US, (1, 1, 1), [])
    queues.step("default", "two", NOW_US, (0, 0, 1), ["r1-a1"])
    assert queues.redis.exists("rq:job:r1-a1")


def test_given_back_to_the_head_or_to_the_sorted_set(queues: Queues) -> None:
    queues.push([ready(1), ready(2), ready(3)], NOW_US)
    popped, _ = queues.step("default", "w", NOW_US, (2, 2, 1), [])
    queues.give_back("default", "w", popped, NOW_US)
    assert waiting(queues) == ["r1-a1", "r2-a1", "r3-a1"]
    popped, _ = queues.step("default", "w", NOW_US, (1, 1, 1), [])
    queues.give_back("default", "w", popped, NOW_US - 5)
    assert (waiting(queues), staged(queues)) == (["r2-a1", "r3-a1"], ["r1-a1"])
    assert queues.redis.zcard("rq:wip:default") == 0


@pytest.mark.parametrize("junk", [b"", b"nonsense", b"\x80\x04pickle", b"[]", b'["f",null,["x",1,2],{}]', b"[" * 5000])
def test_junk_is_dropped(queues: Queues, junk: bytes) -> None:
    queues.push([ready(1), ready(2)], NOW_US)
    queues.redis.hset("rq:job:r1-a1", "data", junk)
    queues.redis.rpush("rq:queue:default", "no such job")
    assert [p.run_id for p in queues.step("default", "w", NOW_US, (10, 10, 1), [])[0]] == [2]


def test_a_list_never_grows_past_its_bound(queues: Queues) -> None:
    queues.redis.rpush("rq:queue:default", *["x"] * LONGEST_LIST)
    assert queues.push([ready(1)], NOW_US) == 0
    queues.redis.zadd("clockjack:staged:default", {"r2-a1": NOW_US})
    assert queues.release(["default"], NOW_US)[0] == []


def test_ages_and_status(queues: Queues) -> None:
    queues.push([ready(1, -60.0), ready(2, 5.0)], NOW_US - 3_000_000)
    queues.announce("c1", "default", ["mock", "http"], 50)
    assert queues.ages(NOW_US) == {"default": 3.0}, "what was late before it came here does not wait for longer"
    assert queues.status(NOW_US) == [
        {"queue": "default", "waiting": 1, "staged": 1, "started": 0, "oldest_age_s": 3.0, "consumers": 1}
    ]
    assert queues.served() == {"default": {"mock", "http"}}
    queues.withdraw("c1")
    assert queues.served() == {}


def test_the_epoch_tells_that_data_was_lost(queues: Queues) -> None:
    epoch = queues.epoch()
    assert queues.epoch() == epoch
    queues.redis.flushall()
    assert queues.epoch() != epoch


def test_an_evicting_redis_is_reported(queues: Queues) -> None:
    assert queues.check() == []
    queues.redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        assert "noeviction" in queues.check()[0]
    finally:
        queues.redis.config_set("maxmemory-policy", "noeviction")


def test_rq_reads_our_jobs_and_rq_info_shows_the_queue(queues: Queues) -> None:
    queues.push([ready(7)], NOW_US)
    job: Any = Job.fetch(job_id(7, 1), connection=queues.redis, serializer=JSONSerializer)
    assert (job.func_name, list(job.args)) == ("consumers.entry.execute", [7, NOW_US, 1, NOW_US])
    assert job.description == "run 7 attempt 1"
    assert json.loads(queues.redis.hget("rq:job:r7-a1", "data"))[2] == [7, NOW_US, 1, NOW_US]
    shown = subprocess.run(
        [sys.executable, "-m", "rq.cli", "info", "-u", queues.url, "--raw"], capture_output=True, text=True, timeout=30
    )
    assert "default 1" in shown.stdout, shown


def test_nobody_hoards_what_another_could_begin(queues: Queues) -> None:
    queues.push([ready(i) for i in range(1, 101)], NOW_US)
    assert len(queues.step("default", "w", NOW_US, (90, 10, 2), [])[0]) == 50  # half of a long list
    assert len(queues.step("default", "w", NOW_US, (90, 40, 2), [])[0]) == 40  # what begins at once
    assert len(queues.step("default", "w", NOW_US, (90, 0, 2), [])[0]) == 5


def test_many_queues_are_released_in_one_call(queues: Queues) -> None:
    for queue in "abcde":
        queues.redis.zadd(f"clockjack:staged:{queue}", {f"r{i}-a1": NOW_US - i for i in range(2000)})
    moved, soonest = queues.release("abcde", NOW_US)
    assert (len(moved), soonest) == (10_000, None)


def test_a_full_redis_still_pops_and_releases(queues: Queues) -> None:
    queues.push([ready(1), ready(2, 1.0)], NOW_US)
    queues.redis.config_set("maxmemory", "1")
    try:
        assert len(queues.step("default", "w", NOW_US, (9, 9, 1), [])[0]) == 1
        assert len(queues.release(["default"], NOW_US + 1_000_000)[0]) == 1
    finally:
        queues.redis.config_set("maxmemory", "0")
