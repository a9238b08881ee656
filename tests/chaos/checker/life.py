"""What a task may have been at each moment, by the clients' history alone.

An acknowledged operation became true at some moment between its sending and its answer; an unknown one at some moment
up to `SETTLES_S` after that, or never. So at each moment a task is one of a few states. The task's final row tells
which of the unknown ones became true: paths that do not end there are left out.
"""

from collections.abc import Callable, Sequence
from itertools import permutations, product
from typing import Any, NamedTuple

from tests.chaos.checker.files import Op
from tests.chaos.checker.oracle import S

SETTLES_S = 45  # a client gives up after 30 s, and what it sent last may be under way
CROWD = 5  # operations that overlap one another and can still be told apart
KINDS = ("run_at", "in_s", "run_at_local", "cron", "every_s", "rrule")
ABSENT = "absent"


class State(NamedTuple):
    """A task as it may be: `mode` is absent, active, paused or cancelled; its definition by its number."""

    mode: str
    number: int = -1


class Segment(NamedTuple):
    """From `from_us` (included) to `until_us` (not included) the task was one of `states`; None: nobody can tell."""

    from_us: int
    until_us: int
    states: frozenset[State] | None


class Life(NamedTuple):
    """One task_key's definitions, operations and segments; `lost` says why no path ends at its row ("" if one does)."""

    key: str
    definitions: list[dict[str, Any]]
    ops: list[Op]
    segments: list[Segment]
    finals: frozenset[State] | None
    lost: bool

    def at(self, low_us: int, high_us: int) -> frozenset[State] | None:
        """What the task may have been at some moment of this span, both ends included."""
        found: set[State] = set()
        for segment in self.segments:
            if segment.from_us <= high_us and segment.until_us > low_us:
                if segment.states is None:
                    return None
                found |= segment.states
        return frozenset(found)


def ends(op: Op) -> int:
    """After this moment it is settled whether the operation became true."""
    if op.result == "ok" and op.to_us is not None:
        return op.to_us
    return (op.to_us or op.from_us) + SETTLES_S * S


def live(key: str, ops: Sequence[Op], until_us: int, fits: Callable[[State, dict[str, Any]], bool] | None) -> Life:
    """The life of this key up to `until_us`; `fits(state, definition)` says whether its final row can be that."""
    told = [op for op in ops if op.result != "fail" and op.f != "run_now"]
    definitions: list[dict[str, Any]] = []
    layers: list[list[_Path]] = []
    reached: frozenset[State] | None = frozenset({State(ABSENT)})
    crowds = _crowds(told)
    for crowd in crowds:
        paths = _paths(crowd, reached, definitions)
        layers.append(paths)
        reached = frozenset(path.states[-1] for path in paths) if paths else None
    lost = False
    if reached is not None and fits is not None:
        kept = frozenset(s for s in reached if fits(s, definitions[s.number] if s.number >= 0 else {}))
        lost = not kept
        reached = kept or reached
        wanted = reached
        for index in range(len(layers) - 1, -1, -1):
            if not layers[index]:
                break
            layers[index] = [path for path in layers[index] if path.states[-1] in wanted]
            wanted = frozenset(path.states[0] for path in layers[index])
    return Life(key, definitions, list(ops), _segments(crowds, layers, until_us), reached, lost)


class _Path(NamedTuple):
    """The states that one order of a crowd goes through."""

    states: tuple[State, ...]


def _crowds(ops: Sequence[Op]) -> list[list[Op]]:
    found: list[list[Op]] = []
    edge = -1
    for op in sorted(ops, key=lambda op: (op.from_us, op.op)):
        if found and op.from_us < edge:
            found[-1].append(op)
        else:
            found.append([op])
        edge = max(edge, ends(op))
    return found


def _paths(crowd: list[Op], reached: frozenset[State] | None, definitions: list[dict[str, Any]]) -> list[_Path]:
    if reached is None or len(crowd) > CROWD:
        return []
    found = set()
    for choice in product(*([True, False] if op.result == "unknown" else [True] for op in crowd)):
        taken = [op for op, is_taken in zip(crowd, choice, strict=True) if is_taken]
        for order in permutations(taken):
            if any(ends(later) <= op.from_us for i, op in enumerate(order) for later in order[i + 1 :]):
                continue
            for start in reached:
                states = [start]
                for op in order:
                    states.append(after(states[-1], op, definitions))
                found.add(_Path(tuple(states)))
    return sorted(found)


def after(state: State, op: Op, definitions: list[dict[str, Any]]) -> State:
    """What the task is after this operation."""
    if op.f == "register":
        mode = "paused" if state.mode == "paused" else "active"
        return State(mode, _number(dict(op.value), definitions))
    if state.mode in (ABSENT, "cancelled"):
        return state
    if op.f == "edit":
        whole = any(op.value.get(kind) is not None for kind in KINDS)  # else it names only what it changes
        before = {} if whole else definitions[state.number]
        merged = {name: value for name, value in (before | op.value).items() if value is not None}
        return state._replace(number=_number(merged, definitions))
    return state._replace(mode={"pause": "paused", "resume": "active", "cancel": "cancelled"}[op.f])


def _number(definition: dict[str, Any], definitions: list[dict[str, Any]]) -> int:
    if definition not in definitions:
        definitions.append(definition)
    return definitions.index(definition)


def _segments(crowds: list[list[Op]], layers: list[list[_Path]], until_us: int) -> list[Segment]:
    found: list[Segment] = []
    last: frozenset[State] | None = frozenset({State(ABSENT)})
    edge = 0
    for crowd, paths in zip(crowds, layers, strict=True):
        begin, end = crowd[0].from_us, max(ends(op) for op in crowd)
        found.append(Segment(edge, begin, last))
        if not paths:
            last = None
        if last is not None:
            last = frozenset(path.states[-1] for path in paths)
        within = None if last is None else frozenset(state for path in paths for state in path.states)
        found.append(Segment(begin, max(end, begin + 1), within))
        edge = max(end, begin + 1)
    return [*found, Segment(edge, max(until_us, edge) + 1, last)]
