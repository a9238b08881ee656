"""What a group may be named, how its members' times are made, and what the answer says."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from clockjack import grouping
from clockjack.documents import strict_json
from clockjack.grouping import Move, Named, NewGroup
from clockjack.ledger.groups import Anchor, Group
from clockjack.ledger.tasks import COLUMNS
from clockjack.registration import NewTask, Refused, read
from clockjack.schedules import ScheduleError

AT = datetime(2030, 3, 1, 12)
SOUND: dict[str, Any] = {"handler": "mock", "anchor_at": "2030-03-01T12:00:00Z", "offsets_s": [-60]}


@pytest.mark.parametrize("key", ["a", "a/b", "a#b", "é", "..a", "a.", "x" * 180, "a/move"])
def test_names(key: str) -> None:
    assert read(Named, {"group_key": key}).group_key == key


@pytest.mark.parametrize(
    "key", ["", " a", "a ", "a\n", "x" * 181, ".", "..", "a/./b", "a/../b", "/a", "a/", "a//b", "\ud800"]
)
def test_names_that_are_refused(key: str) -> None:
    with pytest.raises(Refused) as caught:
        read(Named, {"group_key": key})
    assert [field for field, _ in caught.value.errors] == ["group_key"]


def test_a_group_takes_what_a_task_takes_but_its_schedule() -> None:
    schedule = {
        "run_at",
        "in_s",
        "run_at_local",
        "cron",
        "every_s",
        "rrule",
        "start_at",
        "end_at",
        "exclude",
        "max_runs",
    }
    own = {"anchor_at", "anchor_at_local", "offsets_s"}
    assert set(NewTask.model_fields) - schedule - {"task_key"} == set(NewGroup.model_fields) - own
    for name in set(NewTask.model_fields) & set(NewGroup.model_fields):
        assert NewTask.model_fields[name].default == NewGroup.model_fields[name].default


@pytest.mark.parametrize("offsets_s", [[0], [-31_536_000, 31_536_000], list(range(50))])
def test_offsets(offsets_s: list[int]) -> None:
    assert read(NewGroup, SOUND | {"offsets_s": offsets_s}).offsets_s == offsets_s


@pytest.mark.parametrize(
    "offsets_s", [[], [1, 1], list(range(51)), [31_536_001], [-31_536_001], [0.5], ["1"], [None], [True], "1", 1, None]
)
def test_offsets_that_are_refused(offsets_s: Any) -> None:
    with pytest.raises(Refused) as caught:
        read(NewGroup, SOUND | {"offsets_s": offsets_s})
    assert {field for field, _ in caught.value.errors} == {"offsets_s"}
    assert "\n" not in str(caught.value)


def test_a_move_takes_an_anchor_and_no_more() -> None:
    assert read(Move, {"anchor_at_local": "2030-03-01T12:00"}).anchor_at_local == AT
    for more in ({"offsets_s": [1]}, {"handler": "mock"}):
        with pytest.raises(Refused, match="no such field"):
            read(Move, {"anchor_at": "2030-03-01T12:00:00Z"} | more)


def test_times() -> None:
    assert Anchor(at=AT).times(-60) == {"run_at": AT - timedelta(minutes=1), "run_at_local": None}
    assert Anchor(local=AT, timezone="Asia/Tokyo").times(60) == {
        "run_at": None,
        "run_at_local": AT + timedelta(minutes=1),
        "timezone": "Asia/Tokyo",
    }
    for anchor in (Anchor(at=datetime(2000, 1, 1)), Anchor(local=datetime(2000, 1, 1))):
        assert anchor.times(0)
        with pytest.raises(ScheduleError, match="2000 to 2199") as caught:
            anchor.times(-1)
        assert caught.value.field == "offsets_s"


def member(offset_s: int, **columns: Any) -> dict[str, Any]:
    row = dict.fromkeys(COLUMNS.split(", ")) | {"offset_s": offset_s, "timezone": "UTC", "tags": "", "payload": "1"}
    return row | {"run_at": AT + timedelta(seconds=offset_s)} | columns


def test_the_answer_tells_the_anchor_that_the_members_agree_on() -> None:
    agreed = strict_json(grouping.answer("g", Group([member(-60), member(5)], past=[-60]), ["w"]))
    assert (agreed["anchor_at"], agreed["anchor_at_local"]) == ("2030-03-01T12:00:00.000000Z", None)
    assert agreed["warnings"] == ["w", "offset -60 s is past: it does not run"]
    local = Group([member(-60, run_at=None, run_at_local=AT - timedelta(minutes=1))])
    assert strict_json(grouping.answer("g", local))["anchor_at_local"] == "2030-03-01T12:00:00"
    for other in (member(5, run_at=AT), member(5, run_at=None, run_at_local=AT + timedelta(seconds=5))):
        apart = strict_json(grouping.answer("g", Group([member(-60), other])))
        assert (apart["anchor_at"], apart["anchor_at_local"]) == (None, None)
        assert "do not agree" in apart["warnings"][0]
