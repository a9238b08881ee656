"""What registrations have in common is judged once: what comes of each is what `registration.fields` makes of it."""

from datetime import datetime
from typing import Any

import pytest

from clockjack import registration
from clockjack.alike import Alike
from clockjack.registration import Refused

NOW = datetime(2026, 1, 1)
AT = "2030-01-01T00:00:00Z"
PLAIN: dict[str, Any] = {"handler": "mock", "run_at": AT, "payload": {"a": 1}}
CHANGES: list[dict[str, Any]] = [
    {},
    {"payload": {"é": ["100%", None, 1.5]}, "task_key": "k", "name": "ü name"},
    {"payload": None},
    {"run_at": "2031-02-03T04:05:06.1234567+05:30"},
    {"run_at": "2031-02-03t04:05:06z"},
    {"run_at": "2025-06-01T00:00:00Z"},
    {"run_at": "2024-06-01T00:00:00Z"},
    {"run_at": "2031-02-30T00:00:00Z"},
    {"run_at": "2031-02-03T04:05:06"},
    {"run_at": 5},
    {"run_at": None},
    {"run_at": None, "every_s": 60},
    {"every_s": 60},
    {"task_key": ""},
    {"task_key": " k"},
    {"task_key": "a\nb"},
    {"task_key": 7},
    {"name": "x" * 201},
    {"payload": "x" * 65_535},
    {"payload": [[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]},
    {"tags": ["a", "b", "a"], "queue": "q"},
    {"timeout_s": True},
    {"timeout_s": 1},
    {"timeout_s": 1.0},
    {"jitter_s": 60},
    {"start_at": "2031-01-01T00:00:00Z"},
    {"end_at": "2031-01-01T00:00:00Z"},
    {"exclude": ["2030-01-01"]},
    {"max_concurrent": 1},
    {"limit_key": "k", "per_second": 0.5},
    {"colour": "red"},
    {"handler": "http", "payload": {"url": "https://example.org/x"}},
    {"handler": "http", "payload": {"url": "https://127.0.0.1/x"}},
    {"handler": "http", "payload": {"url": "ftp://example.org"}},
    {"handler": "http", "payload": None},
]


def outcome(judge: Any, sent: Any) -> Any:
    try:
        return judge(sent)
    except Refused as error:
        return error.errors


def whole(sent: Any) -> Any:
    return registration.fields(registration.new_task(sent), NOW)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: str(change)[:40])
def test_it_is_judged_as_if_it_were_alone(change: dict[str, Any]) -> None:
    judge, sent = Alike(NOW), PLAIN | change
    good_url = {"payload": {"url": "https://example.org/"}} if sent["handler"] == "http" else {"payload": {"b": 2}}
    before = sent | good_url | ({} if sent["run_at"] is None else {"run_at": "2029-01-01T00:00:00Z"})
    for one in (before, before, sent, sent):
        assert outcome(judge.fields, one) == outcome(whole, one)


def test_a_field_that_is_not_there_is_not_one_of_the_task_before() -> None:
    judge = Alike(NOW)
    for sent in (PLAIN | {"task_key": "k", "name": "n"}, PLAIN, {"handler": "http", "run_at": AT}):
        assert outcome(judge.fields, sent) == outcome(whole, sent)
    judge.fields({"handler": "http", "run_at": AT, "payload": {"url": "https://example.org/"}})
    assert outcome(judge.fields, {"handler": "http", "run_at": AT}) == outcome(whole, {"handler": "http", "run_at": AT})


def test_what_is_no_object_is_refused() -> None:
    assert outcome(Alike(NOW).fields, 7) == outcome(whole, 7)


def test_most_are_judged_by_their_own_fields_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Alike(NOW)
    judge.fields(PLAIN)
    monkeypatch.setattr("clockjack.alike.new_task", lambda sent: pytest.fail("judged whole"))
    assert judge.fields(PLAIN | {"payload": 7, "run_at": "2031-01-01T00:00:00Z"})["payload"] == "7"
