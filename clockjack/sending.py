"""What a caller in Python gives, as the JSON that a registration or an edit is. Pure."""

from datetime import date, datetime
from typing import Any

MOMENTS = ("run_at", "start_at", "end_at", "anchor_at", "from", "to")
WALLS = ("run_at_local", "anchor_at_local")


def sendable(fields: dict[str, Any], *, nulls: bool = False) -> dict[str, Any]:
    """The fields with their moments and days as text; those that are None are left out, unless they mean something."""
    found = {name: value for name, value in fields.items() if nulls or value is not None or name == "payload"}
    if found.get("exclude") is not None:
        found["exclude"] = [day.isoformat() if isinstance(day, date) else day for day in found["exclude"]]
    for name in (*MOMENTS, *WALLS):
        if isinstance(value := found.get(name), datetime):
            found[name] = instant(name, value) if name in MOMENTS else _wall(name, value)
    if callable(dump := getattr(found.get("payload"), "model_dump", None)):  # a model of pydantic
        found["payload"] = dump(mode="json")
    return found


def instant(name: str, value: datetime) -> str:
    """The moment as text; ValueError where it has no zone."""
    if value.tzinfo is None:
        raise ValueError(f"{name}: a datetime without a zone; use datetime(…, tzinfo=…)")
    return value.isoformat()


def _wall(name: str, value: datetime) -> str:
    if value.tzinfo is not None:
        raise ValueError(f"{name}: a datetime with a zone; its zone is the field timezone")
    return value.isoformat()
