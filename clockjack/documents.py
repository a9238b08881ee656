"""Rows as the JSON that leaves the house, and JSON as it may come in.

Field names are column names; every moment is RFC 3339 in UTC with microseconds and `Z`, but run_at_local is what a wall
clock shows, without an offset. What is read is strict: no NaN or Infinity, no number that overflows to them, no name
twice in an object, no half of a surrogate pair.
"""

import json
import math
from datetime import datetime
from typing import Any

from clockjack.ledger.database import to_us
from clockjack.ledger.tasks import COLUMNS, SEEN

MAX_DEPTH, MAX_READ_DEPTH = 20, 100
HIDDEN = frozenset(("run_token", "live_task_id", "key_hash", *SEEN))
TASK_FIELDS = [name for name in COLUMNS.split(", ") if name not in HIDDEN]


def strict_json(text: str | bytes) -> Any:
    """The value of `text`; ValueError with words for people when it is not JSON that every reader reads alike."""
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        value = _DECODER.decode(text)
        if depth(value, MAX_READ_DEPTH + 1) > MAX_READ_DEPTH:  # writing it again would need the stack once more
            raise RecursionError
        if "\\u" in text:  # only an escape can bring a lone surrogate: the decoding above refused the bytes of one
            compact(value).encode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("not valid UTF-8") from None
    except UnicodeEncodeError:
        raise ValueError("has half of a surrogate pair (\\ud800 to \\udfff)") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    return value


def compact(value: Any) -> str:
    """`value` as JSON text without spaces, not escaped."""
    return _ENCODER.encode(value)


def depth(value: Any, limit: int = MAX_DEPTH + 1) -> int:
    """How deep arrays and objects lie in one another in `value`, counted up to `limit`."""
    level, found = [value], 0
    while found < limit:
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer) or (None,)
        ]
        if not level:
            break
        found += 1
    return found


def moment(when: datetime | None) -> str | None:
    """A naive UTC datetime as RFC 3339."""
    return None if when is None else when.isoformat(timespec="microseconds") + "Z"


def task(row: dict[str, Any]) -> dict[str, Any]:
    """A task's row for people and programs outside, in the order of the columns."""
    return {name: _outside(name, row[name]) for name in TASK_FIELDS if name in row}


def run(row: dict[str, Any]) -> dict[str, Any]:
    """A run's row for people and programs outside, with its key and its lateness."""
    document = {"id": row["id"], "run_key": f"{row['task_id']}-{to_us(row['due_at'])}"}
    document |= {name: _outside(name, value) for name, value in row.items() if name not in HIDDEN}
    first = row.get("first_started_at")
    document["lateness_ms"] = round((first - row["due_at"]).total_seconds() * 1000, 3) if first else None
    return document


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """Any other row for people and programs outside."""
    return {name: _outside(name, value) for name, value in row.items() if name not in HIDDEN}


def nested(value: Any) -> Any:
    """What is no row, for people and programs outside: its moments are texts, however deep they lie."""
    if isinstance(value, dict):
        return {name: nested(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [nested(inner) for inner in value]
    return moment(value) if isinstance(value, datetime) else value


def _outside(name: str, value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat() if name == "run_at_local" else moment(value)
    if name == "tags":
        return [tag for tag in value.split(",") if tag]
    if name in ("payload", "result", "progress", "exclude") and isinstance(value, str):
        try:  # a row written with plain SQL may hold anything: what is no JSON is shown as the text that it is
            return strict_json(value)
        except ValueError:
            return value
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _int(text: str) -> int:
    if len(text) > 1000:
        raise ValueError(f"the number {text[:40]}… has too many digits")
    return int(text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice[:100]!r} appears twice in one object")
    return found


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_float, parse_int=_int, object_pairs_hook=_once)
