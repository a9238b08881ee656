"""Bring the tables to this version: one DDL a revision, one migrator at a time."""

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from clockjack.ledger.database import Database, Unavailable

LOCK = "clockjack.migrate"
MIGRATIONS = Path(__file__).parent / "migrations"


def head() -> str:
    """The newest revision that this code knows. Read from the files' names: each process asks, and one migrates."""
    return max(path.name[1:5] for path in MIGRATIONS.glob("versions/r[0-9]*.py"))


def current(connection: Connection) -> str | None:
    """The revision of the tables, or None where there are none."""
    found = connection.execute(
        sa.text(
            "SELECT COUNT(*) FROM information_schema.tables"
            " WHERE table_schema = DATABASE() AND table_name = 'alembic_version'"
        )
    ).scalar_one()
    if not found:
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def migrate(url: str) -> str:
    """The tables are at `head()`; returns it. Waits up to 60 s for another migrator."""
    from alembic import command  # of all processes only this one needs it: 7 MB
    from alembic.config import Config

    database = Database(url, size=2, locks=False)
    try:
        with database._engine.connect() as connection:
            if connection.execute(sa.text("SELECT GET_LOCK(:l, 60)"), {"l": LOCK}).scalar_one() != 1:
                raise Unavailable("another migration is running; try again when it has ended")
            try:
                connection.execute(sa.text("SET SESSION lock_wait_timeout = 30"))
                config = Config()
                config.set_main_option("script_location", str(MIGRATIONS))
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                connection.commit()
            finally:
                connection.execute(sa.text("SELECT RELEASE_LOCK(:l)"), {"l": LOCK})
        return head()
    finally:
        database.close()
