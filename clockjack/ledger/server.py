"""Whether this database server keeps what the guarantees promise; asked at the start of every process and by doctor.

What would lose acknowledged work, or hand out wrong ids, is an error; what only costs speed or visibility is a warning.
"""

import re

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from clockjack.ledger.database import Database, code
from clockjack.ledger.migrate import current, head
from clockjack.ledger.rights import DENIED

MYSQL, MARIADB = (8, 0, 16), (10, 6, 0)
VARIABLES = (
    "innodb_flush_log_at_trx_commit",
    "log_bin",
    "sync_binlog",
    "binlog_format",
    "innodb_doublewrite",
    "innodb_deadlock_detect",
    "auto_increment_increment",
    "innodb_autoinc_lock_mode",
    "time_zone",
    "version",
)


class Unfit(Exception):
    """The server, or the tables, cannot keep the guarantees; the text says what to change."""


def require(database: Database, *, unsafe_server: bool = False) -> list[str]:
    """The server and the tables are fit to work on; returns the warnings. Raises Unfit, or Unavailable.

    `unsafe_server` turns errors about the server's settings into warnings, never one about the tables.
    """
    try:
        schema = database.transaction(check_schema)
    except DBAPIError as error:
        if code(error) in DENIED:
            raise Unfit(f"its user may not read the tables: see deploy/grants.sql ({code(error)})") from error
        raise
    errors, warnings = database.transaction(check)
    if schema or (errors and not unsafe_server):
        raise Unfit("; ".join([*schema, *([] if unsafe_server else errors)]))
    return errors + warnings


def check_schema(connection: Connection) -> list[str]:
    """What is wrong with the revision of the tables; [] when this code can work on them."""
    found, known = current(connection), head()
    if found is None:
        return ["the database has no tables of Clockjack: run `clockjack migrate`"]
    if found != known:
        return [f"the tables are at revision {found}, this version needs {known}: run `clockjack migrate`"]
    return []


def check(connection: Connection) -> tuple[list[str], list[str]]:
    """The errors and warnings about the server's settings, each with what to change."""
    values = _variables(connection)
    errors, warnings = _version(values["version"])
    binlog = _on(values.get("log_bin", "OFF"))

    if values.get("innodb_flush_log_at_trx_commit") not in ("1", "3"):
        errors.append(
            "innodb_flush_log_at_trx_commit must be 1: a crash of the server would lose acknowledged registrations"
        )
    if binlog and values.get("sync_binlog") != "1":
        errors.append("sync_binlog must be 1 while log_bin is on: a crash would part the server from its replicas")
    if values.get("innodb_doublewrite", "ON").upper() in ("OFF", "0", "DETECT_ONLY"):
        errors.append("innodb_doublewrite must be ON: a power failure could leave half-written pages")
    if values.get("auto_increment_increment", "1") != "1":
        errors.append("auto_increment_increment must be 1: the ids of runs written together are counted from the first")
    binlog_format = values.get("binlog_format", "ROW").upper()
    if binlog and binlog_format == "STATEMENT":
        errors.append("binlog_format must be ROW: InnoDB refuses writes at READ COMMITTED with STATEMENT")
    elif binlog and binlog_format != "ROW":
        warnings.append("binlog_format should be ROW: with MIXED replicas can differ from the source")
    if values.get("time_zone") != "+00:00":
        errors.append("the session's time_zone must be +00:00: something changes it after connecting")
    if not _on(values.get("innodb_deadlock_detect", "ON")):
        warnings.append("innodb_deadlock_detect should be ON: a deadlock would last until the lock wait times out")
    if values.get("innodb_autoinc_lock_mode", "2") not in ("1", "2"):
        warnings.append("innodb_autoinc_lock_mode should be 1 or 2: with 0 registrations wait for one another")
    return errors, warnings


def _variables(connection: Connection) -> dict[str, str]:
    names = ", ".join(f"'{name}'" for name in VARIABLES)
    # not every server knows every name, so they are listed and not selected one by one
    found = connection.execute(sa.text(f"SHOW SESSION VARIABLES WHERE Variable_name IN ({names})"))
    return {str(name): str(value) for name, value in found}


def _version(text: str) -> tuple[list[str], list[str]]:
    maria = "mariadb" in text.lower()
    # MariaDB may put 5.5.5- in front for old replicas
    numbers = re.search(r"(\d+)\.(\d+)\.(\d+)", text.removeprefix("5.5.5-"))
    version = tuple(int(n) for n in numbers.groups()) if numbers else (0,)
    least = MARIADB if maria else MYSQL
    if version >= least:
        return [], []
    name = "MariaDB" if maria else "MySQL"
    return [f"{name} {'.'.join(map(str, least))} or later is needed for SKIP LOCKED and CHECK; this is {text}"], []


def _on(value: str) -> bool:
    return value.upper() in ("ON", "1")
