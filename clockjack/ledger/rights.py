"""What a user of the database may do, asked of the server itself, compared with what its stage needs.

NEEDS is what deploy/grants.sql gives (a test compares them). EXPLAIN asks for the rights of the statement that it
explains, and does nothing; so rights that came by a role, or by being the owner, count as any others.
"""

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from clockjack.ledger.database import code

DENIED = {1142, 1143}
COLUMN = {
    "tasks": "error",
    "runs": "worker",
    "attempts": "worker",
    "task_events": "actor",
    "api_keys": "name",
    "idempotency_keys": "created_at",
    "endpoints": "reason",
    "expectations": "queue",
    "queues": "actor",
    "alembic_version": "version_num",
}
UPDATED = COLUMN | {"idempotency_keys": "answer", "api_keys": "revoked_at"}
PROBES = {
    "SELECT": "EXPLAIN SELECT {column} FROM {table}",
    "INSERT": "EXPLAIN INSERT INTO {table} ({column}) VALUES (1)",
    "UPDATE": "EXPLAIN UPDATE {table} SET {column} = 1",
    "DELETE": "EXPLAIN DELETE FROM {table}",
}
NEEDS = {
    "producer": {
        "tasks": ("SELECT", "INSERT", "UPDATE"),
        "runs": ("SELECT", "INSERT", "UPDATE"),
        "attempts": ("SELECT",),
        "task_events": ("SELECT", "INSERT"),
        "api_keys": ("SELECT", "INSERT", "UPDATE"),
        "idempotency_keys": ("SELECT", "INSERT", "UPDATE"),
        "endpoints": ("SELECT", "INSERT", "UPDATE", "DELETE"),
        "expectations": ("SELECT", "INSERT", "UPDATE", "DELETE"),
        "queues": ("SELECT", "INSERT", "UPDATE"),
        "alembic_version": ("SELECT",),
    },
    "dispatcher": {
        "tasks": ("SELECT", "INSERT", "UPDATE", "DELETE"),
        "runs": ("SELECT", "INSERT", "UPDATE"),
        "attempts": ("SELECT", "INSERT", "DELETE"),
        "task_events": ("SELECT", "INSERT", "DELETE"),
        "idempotency_keys": ("SELECT", "DELETE"),
        "expectations": ("SELECT", "UPDATE"),
        "queues": ("SELECT",),
        "alembic_version": ("SELECT",),
    },
    "consumer": {
        "tasks": ("SELECT", "UPDATE"),
        "runs": ("SELECT", "UPDATE"),
        "attempts": ("SELECT", "INSERT"),
        "task_events": ("SELECT", "INSERT"),
        "endpoints": ("SELECT", "UPDATE"),
        "queues": ("SELECT",),
        "alembic_version": ("SELECT",),
    },
}


def missing(connection: Connection) -> tuple[str, list[str]]:
    """The user, and the rights that it lacks: of its stage if it is called like one, else those of the command.

    The command `clockjack` needs what a producer needs.
    """
    user = str(connection.exec_driver_sql("SELECT CURRENT_USER()").scalar_one())
    needs = NEEDS.get(user.partition("@")[0], NEEDS["producer"])
    wanted = [(verb, table) for table, verbs in needs.items() for verb in verbs]
    lacks = [f"{verb} on {table}" for verb, table in wanted if not _may(connection, table, verb)]
    return user, lacks


def _may(connection: Connection, table: str, verb: str) -> bool:
    column = (UPDATED if verb == "UPDATE" else COLUMN)[table]
    try:
        connection.exec_driver_sql(PROBES[verb].format(table=table, column=column)).close()
    except DBAPIError as error:
        if code(error) not in DENIED:
            raise
        return False
    return True
