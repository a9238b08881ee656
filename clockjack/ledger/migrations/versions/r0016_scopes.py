"""api_keys: what a key may do. Keys from before may write, as they could."""

from alembic import op
from sqlalchemy import text

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    have = {name for name, *_ in op.get_bind().execute(text("SHOW COLUMNS FROM api_keys"))}
    if "scope" not in have:
        op.execute("ALTER TABLE api_keys ADD COLUMN scope VARCHAR(5) NOT NULL DEFAULT 'write' AFTER name")


def downgrade() -> None:
    raise NotImplementedError("keys that may only read would write again: revoke them first")
