"""Rows of `runs` that a transaction holds are updated by their whole primary key."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.engine import Connection


def update_locked(connection: Connection, keys: Sequence[tuple[int, datetime]], sets: str, *values: Any) -> int:
    """The runs `keys`, which this transaction has locked, are updated; `sets` takes `values` at its %s.

    Each is named by its whole primary key. A range over ids would also touch the row behind it, wait there while
    somebody holds that one, and so could deadlock with another that does the same.
    """
    ordered = sorted(keys)
    points = " OR ".join(["(id = %s AND due_at = %s)"] * len(ordered))
    sql = f"UPDATE runs SET {sets} WHERE {points}"
    return int(connection.exec_driver_sql(sql, (*values, *(part for key in ordered for part in key))).rowcount)
