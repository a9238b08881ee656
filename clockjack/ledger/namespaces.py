"""A namespace is the name that keys, tasks and the rest have in common; there is no table of them."""

from typing import Any

from sqlalchemy.engine import Connection

from clockjack.ledger.database import rows

MOST_TASKS = 100_000


def get(connection: Connection, namespace: str) -> dict[str, Any]:
    """How much there is of it: tasks of any state, counted up to 100,000, keys that are valid, and the others."""
    return rows(
        connection,
        "SELECT :n AS namespace,"
        " (SELECT COUNT(*) FROM (SELECT 1 AS one FROM tasks FORCE INDEX (task_key) WHERE namespace = :n"
        f" LIMIT {MOST_TASKS}) AS counted) AS tasks,"
        " (SELECT COUNT(*) FROM api_keys WHERE namespace = :n"
        " AND (revoked_at IS NULL OR revoked_at > UTC_TIMESTAMP(6))) AS `keys`,"
        " (SELECT COUNT(*) FROM endpoints WHERE namespace = :n) AS endpoints,"
        " (SELECT COUNT(*) FROM expectations WHERE namespace = :n) AS expectations",
        n=namespace,
    )[0]
