"""The users of grants.sql on a private server: each stage connects as its own, with a password of this start."""

import re
import secrets
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import make_url

SCRIPT = Path(__file__).with_name("grants.sql")
STAGES = ("producer", "dispatcher", "consumer")  # lines of the Procfile, and users


def statements(database: str) -> list[str]:
    """The statements of grants.sql for the database of this name."""
    text = re.sub(r"^\s*--.*$", "", SCRIPT.read_text(), flags=re.MULTILINE).replace("`clockjack`", f"`{database}`")
    return [" ".join(part.split()) for part in text.split(";") if part.strip()]


def users(owner_url: str) -> dict[str, str]:
    """Every user of grants.sql has exactly its rights there and a new password; returns the URL of each."""
    owner = make_url(owner_url)
    found: dict[str, str] = {}
    engine = sa.create_engine(owner)
    with engine.connect() as connection:
        for statement in statements(str(owner.database)):
            connection.exec_driver_sql(statement.replace("%", "%%"))
            if made := re.match(r"CREATE USER IF NOT EXISTS '(\w+)'", statement):
                name, password = made[1], secrets.token_urlsafe(24)
                connection.exec_driver_sql(f"ALTER USER '{name}'@'%%' IDENTIFIED BY '{password}'")
                connection.exec_driver_sql(f"REVOKE ALL PRIVILEGES, GRANT OPTION FROM '{name}'@'%%'")
                found[name] = owner.set(username=name, password=password).render_as_string(hide_password=False)
    engine.dispose()
    return found


def own_env(urls: dict[str, str]) -> dict[str, dict[str, str]]:
    """What the lines of the Procfile are told apart from the others: the stages' own users, and nothing the rest."""
    nobody = {"CLOCKJACK_DATABASE_URL": ""}
    return {name: {"CLOCKJACK_DATABASE_URL": urls[name]} for name in STAGES} | {"dashboard": nobody}
