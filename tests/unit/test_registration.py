"""What a registration may say: everything that is refused names its field, and what passes fits the columns."""

import json
import re
from datetime import datetime, timedelta
from typing import Any

import pytest

from clockjack import documents, registration
from clockjack.registration import Refused
from tests.unit import bad_input

NOW = datetime(2026, 11, 23, 12, 0, 0)
SOON = "2026-11-23T12:00:10Z"


def accept(**document: Any) -> dict[str, Any]:
    return registration.fields(registration.new_task(document), NOW)


def refused(**document: Any) -> list[str]:
    with pytest.raises(Refused) as caught:
        accept(**document)
    assert all(message for _, message in caught.value.errors)
    assert "\n" not in str(caught.value)
    return [field for field, _ in caught.value.errors]


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


BAD = [
    # handler, queue, names
    ("handler", {"handler": ""}),
    ("handler", {"handler": None}),
    ("handler", {"handler": "a b"}),
    ("handler", {"handler": "a\n"}),
    ("handler", {"handler": "x" * 201}),
    ("handler", {"handler": "mock\ud800"}),
    ("handler", {"handler": 7}),
    ("queue", {"queue": "a/b"}),
    ("queue", {"queue": "x" * 65}),
    ("queue", {"queue": None}),
    ("task_key", {"task_key": ""}),
    ("task_key", {"task_key": "a "}),  # PAD SPACE: equal to "a" for the server
    ("task_key", {"task_key": "x" * 201}),
    ("task_key", {"task_key": "a\x00b"}),
    ("name", {"name": "\u202eevil"}),
    ("name", {"name": "a\u200bb"}),
    ("name", {"name": "\ud800"}),
    ("foo", {"foo": 1}),
    # numbers
    *[("timeout_s", {"timeout_s": value}) for value in (-1, 0, 10**9, 2.5, 1e9, "10", True, 2**63, 10**30, None)],
    *[("max_failures", {"max_failures": value}) for value in (0, -1, 1001)],
    *[("backoff_s", {"backoff_s": value}) for value in (-1, 86_401)],
    ("backoff_max_s", {"backoff_max_s": 604_801}),
    # payload
    ("payload", {"payload": "x" * 65_535}),  # with its quotes one byte too many
    ("payload", {"payload": "é" * 40_000}),
    ("payload", {"payload": nested(21)}),
    ("payload", {"payload": {"a": ["\ud800"]}}),
    ("payload", {"payload": {"\udfff": 1}}),
    ("payload", {"payload": [float("nan")]}),
    ("payload", {"payload": float("inf")}),
    ("payload", {"payload": {1, 2}}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("field", "change"), BAD, ids=lambda value: repr(value)[:60].encode("ascii", "replace").decode()
)
def test_bad_input_names_its_field(field: str, change: dict[str, Any]) -> None:
    assert field in refused(**({"handler": "mock", "run_at": SOON} | change))


@pytest.mark.parametrize("case", bad_input.BAD, ids=lambda case: case.name)
def test_bad_schedules_and_policies_name_their_field(case: bad_input.Bad) -> None:
    with pytest.raises(Refused) as caught:
        accept(handler="mock", **case.document)
    ((field, words),) = caught.value.errors
    assert field == case.field
    assert re.search(case.words, words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("document", [None, [], "x", 1, True])
def test_a_registration_is_an_object(document: Any) -> None:
    with pytest.raises(Refused):
        registration.new_task(document)


def test_handler_is_required() -> None:
    assert refused(run_at=SOON) == ["handler"]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2030-01-31T08:30:00Z", datetime(2030, 1, 31, 8, 30)),
        ("2030-01-31t08:30:00z", datetime(2030, 1, 31, 8, 30)),
        ("2030-01-31 08:30:00+00:00", datetime(2030, 1, 31, 8, 30)),
        ("2030-01-31T08:30:00-00:00", datetime(2030, 1, 31, 8, 30)),
        ("2030-01-31T08:30:00+14:00", datetime(2030, 1, 30, 18, 30)),
        ("2030-01-31T08:30:00.5-05:30", datetime(2030, 1, 31, 14, 0, 0, 500_000)),
        ("2030-01-31T08:30:00.123456Z", datetime(2030, 1, 31, 8, 30, 0, 123_456)),
        ("2030-01-31T08:30:00.123456001Z", datetime(2030, 1, 31, 8, 30, 0, 123_457)),  # rounded up: never early
        ("2030-01-31T23:59:59.999999999Z", datetime(2030, 2, 1)),
    ],
)
def test_moments_are_naive_utc(text: str, moment: datetime) -> None:
    assert accept(handler="mock", run_at=text)["run_at"] == moment


def test_what_is_a_little_late_runs_now() -> None:
    assert accept(handler="mock", run_at="2026-11-23T11:59:57Z")["run_at"] < NOW
    assert accept(handler="mock", run_at="2025-11-24T12:00:00Z")


def test_values_are_the_columns() -> None:
    values = accept(handler="mock", cron="0 5 * * *", timezone="Europe/Berlin", payload={"é": [1, 1.5, None, "😀\x00"]})
    assert values["payload"] == '{"é":[1,1.5,null,"😀\\u0000"]}'
    assert (values["timeout_s"], values["queue"], values["run_at"]) == (60, "default", None)
    assert set(values) | {"in_s"} == set(registration.NewTask.model_fields)
    assert "in_s" not in values


def test_payload_limits_are_inclusive() -> None:
    assert len(accept(handler="m", run_at=SOON, payload="x" * 65_534)["payload"]) == 65_536
    assert accept(handler="m", run_at=SOON, payload=nested(20))
    assert accept(handler="m", run_at=SOON)["payload"] == "null"


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "nul", "NaN", "[Infinity]", "-Infinity", "1e999", "[-1e999]", '{"a":1,"a":2}', '"\\ud800"',
        '{"\\udc00":1}', "[" * 101 + "]" * 101, "[" * 100_000, "{\"a\":" * 100_000, "9" * 5000, "\ufeff{}",
        "'a'", "1 2", b"\xff", b'"\xed\xa0\x80"', b"\xef\xbb\xbf{}",
    ],
    ids=lambda text: repr(text[:20]).encode("ascii", "replace").decode(),
)  # fmt: skip
def test_what_is_not_strict_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        documents.strict_json(text)


def test_strict_json_reads_what_json_reads() -> None:
    text = '{"a": [1, -2.5e3, "\\u00e9\\ud83d\\ude00", true, null], "b": {}}'
    assert documents.strict_json(text) == json.loads(text)
    assert documents.strict_json(text.encode()) == json.loads(text)


def test_rows_written_with_plain_sql_are_shown_whatever_they_hold() -> None:
    for payload in ("not json", "NaN", '"\\ud800"', "[" * 50_000, "1e999"):
        document = documents.task({"id": 1, "payload": payload})
        assert document["payload"] == payload
        documents.compact(document).encode()


def test_a_run_is_shown_with_its_key_and_lateness() -> None:
    row = {"id": 3, "task_id": 7, "due_at": datetime(1970, 1, 1, 0, 0, 1, 5), "run_token": b"x", "result": "[1]"}
    document = documents.run(row | {"first_started_at": datetime(1970, 1, 1, 0, 0, 1, 1505)})
    assert document["run_key"] == "7-1000005"
    assert document["lateness_ms"] == 1.5
    assert document["result"] == [1]
    assert document["due_at"] == "1970-01-01T00:00:01.000005Z"
    assert "run_token" not in document
    assert documents.run(row)["lateness_ms"] is None


def test_every_option_of_a_schedule_becomes_a_column() -> None:
    values = accept(
        handler="mock",
        run_at_local="2027-03-28T02:30",
        timezone="Europe/Berlin",
        exclude=["2027-01-01"],
        dst_fold="last",
    )
    assert (values["run_at_local"], values["run_at"]) == (datetime(2027, 3, 28, 2, 30), None)
    assert (values["exclude"], values["dst_fold"], values["dst_gap"]) == ('["2027-01-01"]', "last", "run_after")
    assert accept(handler="mock", cron="H * * * *", exclude=[])["exclude"] is None
    most = [f"2{i:03}-01-01/2{i:03}-12-31" for i in range(200)] * 2
    assert len(accept(handler="mock", run_at="2199-12-31T00:00:00Z", exclude=most[:199])["exclude"]) < 10_000
    assert refused(handler="mock", every_s=5, exclude=[*most, "2030-01-01"]) == ["exclude"]


@pytest.mark.parametrize("in_s", [0, 0.5, 10, 5_000_000_000])
def test_in_s_becomes_run_at(in_s: float) -> None:
    assert accept(handler="mock", in_s=in_s)["run_at"] == NOW + timedelta(seconds=in_s)


@pytest.mark.parametrize("in_s", [True, float("nan"), float("inf")])
def test_in_s_is_a_number_of_seconds_ahead(in_s: Any) -> None:
    assert refused(handler="mock", in_s=in_s) == ["in_s"]


def test_a_local_time_leaves_as_it_came() -> None:
    row = {"id": 1, "run_at_local": datetime(2027, 3, 28, 2, 30), "exclude": '["2027-01-01"]'}
    assert documents.task(row) == {"id": 1, "run_at_local": "2027-03-28T02:30:00", "exclude": ["2027-01-01"]}
