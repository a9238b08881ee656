"""How fast a key may ask: by the script alone with a time that the test moves; by HTTP with Redis there and away."""

import random
import time
from typing import Any

import pytest
from starlette.testclient import TestClient

from clockjack.ledger import keys
from clockjack.ledger.database import Database
from clockjack.queues import Queues
from clockjack.rates import WAIT_S, Rate, Rates
from deploy import servers
from tests.integration.life import owner

NOW_US = 1_900_000_000_000_000
SECOND = 1_000_000


def limited(database: Database, per_second: float, burst: int, scope: str = "write") -> dict[str, str]:
    """The header of a new key with this limit."""
    limit = {"per_second": per_second, "burst": burst}
    return {"X-API-Key": owner(database).transaction(lambda c: keys.create(c, "default", "limited", scope, **limit))}


def scripts(queues: Queues) -> int:
    """How many scripts Redis has executed."""
    found: Any = queues.redis.info("commandstats")
    return int(found.get("cmdstat_evalsha", {}).get("calls", 0))


@pytest.mark.parametrize(("per_second", "burst"), [(10, 10), (2.5, 20), (0.5, 1), (10_000, 10_000), (3, 7)])
def test_a_bucket_leaks_as_it_is_said_to(redis_url: str, per_second: float, burst: int) -> None:
    rates, rate, chance = Rates(redis_url), Rate(per_second, burst), random.Random(7)
    now, level = NOW_US, 0  # us until the bucket is empty
    allowed = 0
    for _ in range(300):
        passed = chance.choice((0, 0, 1, rate.each_us // 2, rate.each_us, rate.each_us * 3))
        now, level = now + passed, max(0, level - passed)
        room = level + rate.each_us <= burst * rate.each_us
        level += rate.each_us if room else 0
        allowed += room
        judged = rates.judge("a", rate, now)
        assert judged is not None
        assert judged.allowed == room
        assert judged.left == (burst * rate.each_us - level) // rate.each_us
        assert judged.whole_us == level
        assert judged.next_us == max(0, level + rate.each_us - burst * rate.each_us)
    assert min(burst, 300) <= allowed <= burst + (now - NOW_US) / SECOND * per_second


def test_what_is_refused_may_ask_when_it_is_told_to_and_not_before(redis_url: str) -> None:
    rates, rate = Rates(redis_url), Rate(2, 3)
    assert [rates.judge("a", rate, NOW_US).left for _ in range(3)] == [2, 1, 0]
    refused = rates.judge("a", rate, NOW_US)
    assert (refused.allowed, refused.next_us) == (False, SECOND // 2)
    policy = {"RateLimit-Policy": '"key";q=3;w=2'}
    assert refused.headers(rate) == {**policy, "RateLimit": '"key";r=0;t=2', "Retry-After": "1"}
    assert not rates.judge("a", rate, NOW_US + SECOND // 2 - 1).allowed
    after = rates.judge("a", rate, NOW_US + SECOND // 2)
    assert after.headers(rate) == {**policy, "RateLimit": '"key";r=0;t=2'}
    assert rates.judge("b", rate, NOW_US).left == 2, "another key has another limit"


def test_nothing_in_redis_can_shut_a_key_out(redis_url: str, queues: Queues) -> None:
    rates, rate = Rates(redis_url), Rate(1, 2)
    name = "clockjack:rate:a"
    for wrong in ("", "x", "nan", "-inf", "-5", "1e400", "inf", str(NOW_US * 3), "9" * 400):
        queues.redis.set(name, wrong)
        rates.judge("a", rate, NOW_US)
        later = rates.judge("a", rate, NOW_US + 2 * SECOND)
        assert later is not None, wrong
        assert later.allowed, wrong
        assert 0 < queues.redis.pttl(name) <= 5_000, wrong
        queues.redis.delete(name)
    queues.redis.hset(name, "x", "y")
    assert rates.judge("a", rate, NOW_US).left == 1
    for _ in range(2):  # the database's clock was set back: what was free then is not free again, and soon is
        rates.judge("c", rate, NOW_US + 3600 * SECOND)
    assert not rates.judge("c", rate, NOW_US).allowed
    assert rates.judge("c", rate, NOW_US + SECOND).allowed


def test_a_key_is_told_what_is_left_and_refused_beyond_it(http: TestClient, database: Database, queues: Queues) -> None:
    mine, other = limited(database, 0.001, 3), limited(database, 0.001, 1, "read")
    free = dict(http.headers)
    del http.headers["Authorization"]
    before = scripts(queues)
    for left in (2, 1, 0):
        answer = http.get("/v1/tasks", headers=mine)
        assert answer.status_code == 200
        assert answer.headers["ratelimit-policy"] == '"key";q=3;w=3000'
        assert answer.headers["ratelimit"].startswith(f'"key";r={left};t=')
    refused = http.post("/v1/tasks", json={"handler": "mock", "every_s": 60}, headers=mine)
    assert (refused.status_code, refused.json()["code"]) == (429, "too-many-requests")
    assert refused.headers["content-type"] == "application/problem+json"
    assert 990 <= int(refused.headers["retry-after"]) <= 1000
    assert refused.headers["ratelimit"].startswith('"key";r=0;t=')
    assert scripts(queues) == before + 4, "one round trip a request"
    forbidden = http.post("/v1/tasks", json={"handler": "mock", "every_s": 60}, headers=other)
    assert (forbidden.status_code, forbidden.headers["ratelimit"][:9]) == (403, '"key";r=0'), (
        "what is refused counts, too"
    )
    assert http.get("/v1/tasks", headers=other).status_code == 429
    before = scripts(queues)
    answer = http.get("/v1/tasks", headers={"Authorization": free["authorization"]})
    assert answer.is_success
    assert "ratelimit" not in answer.headers
    assert "ratelimit-policy" not in answer.headers
    assert scripts(queues) == before, "a key without a limit asks Redis"


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_without_redis_everybody_is_let_in_and_nobody_waits(
    http: TestClient, database: Database, redis_server: servers.Server, how: str
) -> None:
    del http.headers["Authorization"]
    mine = limited(database, 0.001, 1)
    assert http.get("/v1/tasks", headers=mine).is_success
    assert http.get("/v1/tasks", headers=mine).status_code == 429
    (redis_server.kill if how == "killed" else redis_server.suspend)()
    try:
        began = time.monotonic()
        for _ in range(20):
            answer = http.get("/v1/tasks", headers=mine)
            assert answer.status_code == 200, answer.text
            assert "ratelimit" not in answer.headers
        took_s = time.monotonic() - began
        assert took_s < 20 * WAIT_S, f"each request waited for Redis: {took_s:.2f} s"
    finally:
        (redis_server.start if how == "killed" else redis_server.resume)()
    until = time.monotonic() + 10
    while "ratelimit" not in (answer := http.get("/v1/tasks", headers=mine)).headers:
        assert answer.status_code == 200
        assert time.monotonic() < until, "Redis is back and nobody counts"
        time.sleep(0.05)
