"""What the registration of a group may say, and its answer: the same by HTTP and the command line."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from clockjack import cautions
from clockjack import described as says
from clockjack.documents import compact, moment, task
from clockjack.ledger import acceptance, groups, tasks
from clockjack.ledger.acceptance import Answer, Change, Ticket
from clockjack.ledger.database import Connection, Database
from clockjack.ledger.groups import Anchor, Group
from clockjack.registration import (
    Fold,
    Gap,
    Moment,
    Refused,
    WallTime,
    Words,
    Work,
    Zone,
    in_a_path,
    needs_payload,
    read,
)

MAX_OFFSET_S = 31_536_000
SCHEDULE = ("timezone", "jitter_s", "dst_gap", "dst_fold")


class UnknownGroup(LookupError):
    """This namespace has no such group."""


def _distinct(offsets_s: list[int]) -> list[int]:
    twice = sorted(offset_s for offset_s in set(offsets_s) if offsets_s.count(offset_s) > 1)
    if twice:
        raise ValueError(f"has {twice[0]} twice")
    return offsets_s


Offset = Annotated[int, Field(ge=-MAX_OFFSET_S, le=MAX_OFFSET_S), says.WHOLE]


class Named(BaseModel):
    """A group's name; it may have slashes."""

    group_key: Annotated[Words, StringConstraints(max_length=180), AfterValidator(in_a_path)]


class Move(BaseModel):
    """Another anchor for a group: one of both. Without a timezone its members keep theirs."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        json_schema_extra=says.exactly_one({"anchor_at": "string", "anchor_at_local": "string"})
        | {"examples": [{"anchor_at": says.MOMENT}]},
    )

    anchor_at: Moment | None = None
    anchor_at_local: WallTime | None = None
    timezone: Zone | None = None


class NewGroup(Work):
    """The registration of a group as it is sent."""

    model_config = ConfigDict(
        json_schema_extra={
            "allOf": [says.ONE_ANCHOR, says.LIMITED, says.CALLED],
            "examples": [{"handler": "mail.remind", "anchor_at": says.MOMENT, "offsets_s": [-86400, -3600, -600]}],
        }
    )

    anchor_at: Moment | None = None
    anchor_at_local: WallTime | None = None
    offsets_s: Annotated[
        list[Offset],
        Field(min_length=1, max_length=50, json_schema_extra={"uniqueItems": True}),
        AfterValidator(_distinct),
    ]
    timezone: Zone = "UTC"
    jitter_s: Annotated[int, Field(ge=0, le=86_400), says.WHOLE] = 0
    dst_gap: Gap = "run_after"
    dst_fold: Fold = "first"


def register(
    database: Database,
    namespace: str,
    group_key: str,
    document: Any,
    *,
    actor: str,
    warnings: Any,
    ticket: Ticket | None = None,
) -> Answer:
    """The group is what `document` says: 201 when it is new, else 200. Refused names what cannot be used.

    `warnings(queue, handler)` are those about the consumers.
    """
    read(Named, {"group_key": group_key})
    new = read(NewGroup, document)
    needs_payload(new)
    anchor = _anchor(new)
    work = {name: getattr(new, name) for name in (*Work.model_fields, *SCHEDULE)}
    work |= {"tags": ",".join(dict.fromkeys(new.tags)), "payload": compact(new.payload)}
    served = warnings(new.queue, new.handler)

    def body(connection: Connection) -> Change:
        made = groups.put(connection, namespace, group_key, anchor, new.offsets_s, work, actor=actor)
        text = answer(group_key, made, [*served, *_surprises(made)])
        if not made.created:
            return Change(200, text)  # bringing it to the same values again changes nothing
        one = made.members[0]

        def seen(connection: Connection) -> bool:
            row = tasks.get(connection, namespace, one["id"])
            return row is not None and row["created_at"] == one["created_at"]

        return Change(201, text, seen)

    return acceptance.once(database, body, ticket)


def move(
    database: Database, namespace: str, group_key: str, document: Any, *, actor: str, ticket: Ticket | None = None
) -> Answer:
    """The group's members lie at their offsets from another anchor. Raises UnknownGroup."""
    anchor = _anchor(read(Move, document))

    def body(connection: Connection) -> Change:
        moved = _known(groups.move(connection, namespace, group_key, anchor, actor=actor))
        return Change(200, answer(group_key, moved, _surprises(moved)))

    return acceptance.once(database, body, ticket)


def cancel(database: Database, namespace: str, group_key: str, *, actor: str, ticket: Ticket | None = None) -> Answer:
    """All members of the group are cancelled. Raises UnknownGroup."""

    def body(connection: Connection) -> Change:
        return Change(200, answer(group_key, _known(groups.cancel(connection, namespace, group_key, actor=actor))))

    return acceptance.once(database, body, ticket)


def show(database: Database, namespace: str, group_key: str) -> str:
    """The group as it is, as JSON. Raises UnknownGroup."""
    found = acceptance.read(database, lambda connection: groups.get(connection, namespace, group_key))
    return answer(group_key, _known(found))


def answer(group_key: str, group: Group, warnings: Sequence[str] = ()) -> str:
    """The group as JSON: its anchor as its members tell it, the members in the order of their times, and warnings."""
    members = group.members
    ats = {row["run_at"] and row["run_at"] - timedelta(seconds=row["offset_s"]) for row in members}
    walls = {row["run_at_local"] and row["run_at_local"] - timedelta(seconds=row["offset_s"]) for row in members}
    agreed = len(ats) == len(walls) == 1
    wall = min(walls) if agreed else None
    document = {
        "group_key": group_key,
        "anchor_at": moment(min(ats)) if agreed else None,
        "anchor_at_local": wall.isoformat() if wall else None,
        "timezone": members[0]["timezone"] if len({row["timezone"] for row in members}) == 1 else None,
        "members": [task(row) for row in members],
    }
    found = [*warnings, *(f"offset {offset_s} s is past: it does not run" for offset_s in group.past)]
    if not agreed:
        found.append("its members do not agree on one anchor: they were changed one by one")
    return compact(document | {"warnings": found})


def _surprises(group: Group) -> list[str]:
    """What the members' schedules, which are sound, hold in store, each once."""
    found: dict[str, None] = {}
    for row in group.members:
        if row["next_run_at"] is not None:
            before = row["next_run_at"] - timedelta(seconds=row["jitter_s"], microseconds=1)
            found |= dict.fromkeys(cautions.warnings(tasks.schedule_of(row), before))
    return list(found)


def _anchor(sent: NewGroup | Move) -> Anchor:
    if (sent.anchor_at is None) == (sent.anchor_at_local is None):
        field = "anchor_at" if sent.anchor_at is None else "anchor_at_local"
        raise Refused([(field, "give exactly one of anchor_at and anchor_at_local")])
    return Anchor(sent.anchor_at, sent.anchor_at_local, sent.timezone)


def _known(group: Group | None) -> Group:
    if group is None:
        raise UnknownGroup
    return group
