"""api_keys: how fast a key may ask, and when it was used last."""

from alembic import op
from sqlalchemy import text

revision = "0017"
down_revision = "0016"

COLUMNS = """
ALTER TABLE api_keys
  ADD COLUMN per_second   DOUBLE NULL AFTER scope,
  ADD COLUMN burst        INT UNSIGNED NULL AFTER per_second,
  ADD COLUMN last_used_at DATETIME(6) NULL,
  ADD CONSTRAINT api_keys_limit CHECK (
    (per_second IS NULL) = (burst IS NULL)
    AND (per_second IS NULL OR per_second BETWEEN 0.001 AND 10000)
    AND (burst IS NULL OR (burst BETWEEN 1 AND 100000 AND burst >= per_second)))
"""


def upgrade() -> None:
    have = {name for name, *_ in op.get_bind().execute(text("SHOW COLUMNS FROM api_keys"))}
    if "burst" not in have:
        op.execute(COLUMNS)


def downgrade() -> None:
    raise NotImplementedError("keys with a limit would have none: revoke them first")
