"""Slots that are hashed from a task's identity, so that not all of them fall on minute 0.

The same seed always gives the same slot, in every process and on every host: SHA-256, never Python's own `hash`.
"""

import re
from datetime import datetime, timedelta
from hashlib import sha256

HASHED = re.compile(r"h(\((?P<low>\d{1,4})-(?P<high>\d{1,4})\))?(/(?P<step>\d{1,4}))?")
MILLISECOND = timedelta(milliseconds=1)
BITS = 64


def number(seed: str, what: str) -> int:
    """A whole number below 2**64 that belongs to the seed and this use of it."""
    return int.from_bytes(sha256(f"{what}:{seed}".encode("utf-8", "surrogatepass")).digest()[: BITS // 8])


def settle(item: str, seed: str, field: str, low: int, high: int) -> str:
    """The item of a cron field (lower case) with its `h` replaced by the seed's slot; any other as it is.

    `h` is one value of low-high and `h(a-b)` one of a-b; with `/n` the slot is the first of the values n apart.
    ValueError if a-b is not a range within low-high or the step is 0.
    """
    match = HASHED.fullmatch(item)
    if not match:
        return item
    first, last = int(match["low"] or low), int(match["high"] or high)
    step = int(match["step"] or 0)
    if not low <= first <= last <= high or (match["step"] and not step):
        raise ValueError(item)
    choices = min(step or last - first + 1, last - first + 1)
    slot = first + number(seed, field) % choices
    return f"{slot}-{last}/{step}" if step else str(slot)


def delay(seed: str, occurrence: datetime, span: timedelta) -> timedelta:
    """How far jitter moves this occurrence: whole milliseconds, at least 0 and less than `span` (0 if that is 0)."""
    if span <= MILLISECOND:
        return timedelta(0)
    steps = -(-span // MILLISECOND)
    return (number(seed, occurrence.isoformat()) * steps >> BITS) * MILLISECOND
