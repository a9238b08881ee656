"""Groups: one-time tasks at offsets from one moment, such as an event's reminders, changed as one.

A member is an ordinary task with the task_key `{group_key}#{offset_s}`, found by the unique key over those. A change
holds the locks of all members, taken in ascending order of id, so two at once come one after the other. Where there is
no member yet, a row of idempotency_keys takes their place: two registrations without a common offset would not meet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from clockjack.ledger import control, keys, tasks
from clockjack.ledger.database import changed, rows
from clockjack.ledger.decide import ON_TIME
from clockjack.ledger.tasks import COLUMNS, DEFAULTS, EDITABLE, StateConflict, schedule_of
from clockjack.moments import FIRST, LAST
from clockjack.schedules import ScheduleError, first, validate

OLDEST = timedelta(days=365)
MEMBERS = (
    "SELECT {} FROM tasks FORCE INDEX (task_key) WHERE namespace = :n AND task_key >= :low AND task_key < :high"
    " AND group_key = :g AND offset_s IS NOT NULL AND task_key = CONCAT(group_key, '#', offset_s) ORDER BY id"
)
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Anchor:
    """The moment from which offsets count: `at` (naive UTC), or `local` by the clocks of the zone. One of both.

    Without `timezone` each member keeps its own.
    """

    at: datetime | None = None
    local: datetime | None = None
    timezone: str | None = None

    @property
    def field(self) -> str:
        """The name under which it is sent."""
        return "anchor_at" if self.at else "anchor_at_local"

    def times(self, offset_s: int) -> Row:
        """The schedule of the member at this offset; ScheduleError if it leaves the years that a task may lie in."""
        when = (self.at or self.local or FIRST) + timedelta(seconds=offset_s)
        if not FIRST <= when <= LAST:
            words = f"{offset_s} s from {self.field} is a time outside the years {FIRST.year} to {LAST.year}"
            raise ScheduleError("offsets_s", words)
        zone = {"timezone": self.timezone} if self.timezone else {}
        return {"run_at": when if self.at else None, "run_at_local": None if self.at else when, **zone}


@dataclass(frozen=True, slots=True)
class Group:
    """A group after a change or a look: its members in the order of their times, and whether it is new.

    `past` holds the offsets of those whose time was over when it was given to them: they do not run.
    """

    members: list[Row]
    created: bool = False
    past: list[int] = field(default_factory=list)


def get(connection: Connection, namespace: str, group_key: str) -> Group | None:
    """The group without its cancelled members, unless all are; None where there is none."""
    found = rows(connection, MEMBERS.format(COLUMNS), **_named(namespace, group_key))
    return Group(_in_order(_alive(found) or found)) if found else None


def put(
    connection: Connection,
    namespace: str,
    group_key: str,
    anchor: Anchor,
    offsets_s: Sequence[int],
    work: Mapping[str, Any],
    *,
    actor: str,
) -> Group:
    """The group has exactly these members, with these (validated) values, at these offsets from the anchor.

    A member of an offset that is gone is cancelled. ScheduleError where a member's time cannot be; StateConflict where
    its task_key belongs to a task outside the group; 1062: somebody was faster, call again after the rollback.
    """
    common = {name: work.get(name, DEFAULTS.get(name)) for name in EDITABLE}
    wanted = {offset_s: common | anchor.times(offset_s) for offset_s in offsets_s}
    _check(anchor, wanted)
    there = _locked(connection, namespace, group_key) or _reserved(connection, namespace, group_key)
    now = _now(connection, anchor, wanted)
    members: list[Row] = []
    for row in there:
        if row["offset_s"] in wanted:
            members.append(tasks.edit(connection, row, wanted[row["offset_s"]], actor=actor))
        else:
            control.cancel(connection, namespace, row["id"], actor=actor)
    known = {row["offset_s"]: row["schedule_version"] for row in there}
    for offset_s in sorted(wanted.keys() - known.keys(), key=str):  # in the order of the index that SQL goes by
        task_key = f"{group_key}#{offset_s}"
        identity = {"task_key": task_key, "group_key": group_key, "offset_s": offset_s}
        made = tasks.register(connection, namespace, wanted[offset_s] | identity, actor=actor)
        if not made.created:
            raise StateConflict(
                f"the task_key {task_key!r} belongs to task {made.task['id']}, which is not in the group"
            )
        members.append(made.task)
    _pass_over(connection, [row for row in members if known.get(row["offset_s"]) != row["schedule_version"]], now)
    return Group(_in_order(members), not there, _past(connection, members))


def move(connection: Connection, namespace: str, group_key: str, anchor: Anchor, *, actor: str) -> Group | None:
    """All members that are not cancelled lie at their offsets from the new anchor; None where there is no group.

    Those that ran for the old one run again for the new one.
    """
    there = _locked(connection, namespace, group_key)
    if not there:
        return None
    live = _alive(there)
    if not live:
        raise StateConflict("the group is cancelled: register it again instead")
    times = {row["offset_s"]: anchor.times(row["offset_s"]) for row in live}
    try:
        _check(anchor, {row["offset_s"]: row | times[row["offset_s"]] for row in live})
    except ScheduleError as error:
        if error.field in (anchor.field, "offsets_s", "timezone"):
            raise
        raise StateConflict(f"what the members have does not allow it: {error}") from None
    now = _now(connection, anchor, times)
    members = [tasks.edit(connection, row, times[row["offset_s"]], actor=actor) for row in live]
    moved = [new for old, new in zip(live, members, strict=True) if old["schedule_version"] != new["schedule_version"]]
    _pass_over(connection, moved, now)
    return Group(_in_order(members), past=_past(connection, members))


def cancel(connection: Connection, namespace: str, group_key: str, *, actor: str) -> Group | None:
    """All members are cancelled; their history stays. None where there is no group."""
    there = _locked(connection, namespace, group_key)
    found = [control.cancel(connection, namespace, row["id"], actor=actor) for row in there]
    return Group(_in_order([row for row in found if row])) if found else None


def _named(namespace: str, group_key: str) -> dict[str, str]:
    return {"n": namespace, "g": group_key, "low": f"{group_key}#", "high": f"{group_key}$"}  # $ comes after #


def _ids(connection: Connection, namespace: str, group_key: str) -> list[int]:
    return [row["id"] for row in rows(connection, MEMBERS.format("id"), **_named(namespace, group_key))]


def _locked(connection: Connection, namespace: str, group_key: str) -> list[Row]:
    """The members, locked in ascending order of id.

    The first one stands for the group: only who has it may look which others there are.
    """
    ids = _ids(connection, namespace, group_key)
    while ids:
        rows(connection, "SELECT id FROM tasks WHERE id = :i FOR UPDATE", i=ids[0])
        first_of_all, ids = ids[0], _ids(connection, namespace, group_key)
        if ids and ids[0] == first_of_all:
            return rows(
                connection,
                f"SELECT {COLUMNS} FROM tasks FORCE INDEX (PRIMARY) WHERE id IN :ids ORDER BY id FOR UPDATE",
                ids=ids,
            )
    return []


def _reserved(connection: Connection, namespace: str, group_key: str) -> list[Row]:
    """Nobody else makes this group's first members now; returns those that somebody has made meanwhile, locked."""
    name = f" group {group_key}"  # no Idempotency-Key of a request begins with a space
    sql = "SELECT id FROM idempotency_keys WHERE namespace = :n AND idempotency_key = :k FOR UPDATE"
    if rows(connection, sql, n=namespace, k=name):
        return _locked(connection, namespace, group_key)
    keys.reserve(connection, namespace, name, keys.digest(name))
    return []


def _alive(members: Sequence[Row]) -> list[Row]:
    return [row for row in members if row["state"] != "cancelled"]


def _in_order(members: Sequence[Row]) -> list[Row]:
    return sorted(members, key=lambda row: (row["run_at"] or row["run_at_local"] or LAST, row["offset_s"]))


def _check(anchor: Anchor, wanted: Mapping[int, Mapping[str, Any]]) -> None:
    """Every member's schedule is sound, before anything is locked or written for it."""
    for offset_s, values in wanted.items():
        try:
            validate(schedule_of({"created_at": None, **values}))
        except ScheduleError as error:
            if error.field not in ("run_at", "run_at_local"):
                raise
            raise ScheduleError(anchor.field, f"{offset_s} s from {anchor.field}: {error}") from None


def _now(connection: Connection, anchor: Anchor, offsets_s: Mapping[int, Any]) -> datetime:
    """The database's time; ScheduleError if all of the group lies more than a year before it."""
    now: datetime = connection.execute(sa.text("SELECT UTC_TIMESTAMP(6)")).scalar_one()
    if (anchor.at or anchor.local or now) + timedelta(seconds=max(offsets_s)) < now - OLDEST:
        raise ScheduleError(anchor.field, "too old: the last member lies more than a year in the past")
    return now


def _pass_over(connection: Connection, members: Sequence[Row], now: datetime) -> None:
    """Those that would be late already do not run: a row of `runs` says so for each. The tasks are locked."""
    late = [row for row in members if row["next_run_at"] is not None and row["next_run_at"] < now - ON_TIME]
    if not late:
        return
    ids = sorted(row["id"] for row in late)
    changed(connection, "UPDATE tasks FORCE INDEX (PRIMARY) SET next_run_at = NULL WHERE id IN :ids", ids=ids)
    found = rows(
        connection,
        "SELECT task_id, due_at FROM runs WHERE task_id IN :ids AND (task_id, due_at) IN :at",
        ids=ids,
        at=[(row["id"], row["next_run_at"]) for row in late],
    )
    there = {(row["task_id"], row["due_at"]) for row in found}
    new = [
        (row["id"], row["next_run_at"], row["schedule_version"], row["version"], row["queue"], now, now)
        for row in sorted(late, key=lambda row: int(row["id"]))
        if (row["id"], row["next_run_at"]) not in there
    ]
    if new:
        connection.exec_driver_sql(
            "INSERT INTO runs (task_id, due_at, schedule_version, task_version, queue, claimed_at, finished_at, state,"
            " reason) VALUES " + ", ".join(["(%s, %s, %s, %s, %s, %s, %s, 'skipped', 'past')"] * len(new)),
            tuple(value for row in new for value in row),
        )
    for row in late:
        row["next_run_at"] = None


def _past(connection: Connection, members: Sequence[Row]) -> list[int]:
    """The offsets of the members that do not run because their time was over; the same whenever it is asked."""
    still = {(row["id"], first(schedule_of(row))): row["offset_s"] for row in members if row["next_run_at"] is None}
    if not still:
        return []
    found = rows(
        connection,
        "SELECT task_id, due_at FROM runs WHERE task_id IN :ids AND state = 'skipped' AND reason = 'past'",
        ids=sorted({task_id for task_id, _ in still}),
    )
    return sorted(still[key] for row in found if (key := (row["task_id"], row["due_at"])) in still)
