"""Registration inside the caller's own transaction: the task is there when that commits, and never was if it does not.

with engine.begin() as connection:            # or a Session, or a connection of pymysql or mysqlclient
    connection.execute(insert(orders).values(…))
    enqueue(connection, "invoice.send", {"order": 7}, in_s=3600)
"""

from datetime import datetime
from typing import Any

from clockjack import registration
from clockjack.ledger import guest
from clockjack.schedules import ScheduleError
from clockjack.sending import sendable

ACTOR = "python"


def enqueue(
    connection: Any,
    handler: str,
    payload: Any = None,
    *,
    run_at: datetime | None = None,
    in_s: float | None = None,
    namespace: str = "default",
    database: str | None = None,
    **fields: Any,
) -> int:
    """The task is registered in the transaction that `connection` is in; returns its id.

    `connection`: of SQLAlchemy (a Connection or a Session) or of a DB-API driver whose parameters are `%s`. It is not
    committed, and no other is opened. `database` names the one that has Clockjack's tables, if the connection is in
    another on the same server. The other fields are those of `Client.schedule`; a known `task_key` brings that task to
    these values. Refused (a ValueError) names each wrong field: then nothing was written.
    """
    document = {"handler": handler, "payload": payload, "run_at": run_at, "in_s": in_s, **fields}
    new = registration.new_task(sendable(document))
    if not 0 < len(namespace) <= 64 or not namespace.isprintable() or namespace != namespace.strip():
        raise registration.Refused([("namespace", "expected 1 to 64 printable characters")])
    try:
        made = guest.register(
            connection, namespace, lambda now: registration.fields(new, now), actor=ACTOR, database=database
        )
    except ScheduleError as error:  # with the slots of its id it never fires
        raise registration.Refused([(error.field, str(error))]) from None
    return int(made.task["id"])
