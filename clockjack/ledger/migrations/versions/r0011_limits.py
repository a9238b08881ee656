"""tasks: limits by key."""

from alembic import op
from sqlalchemy import text

revision = "0011"
down_revision = "0010"

TASKS = """
ALTER TABLE tasks
  ADD COLUMN limit_key      VARCHAR(100) NULL,
  ADD COLUMN max_concurrent SMALLINT UNSIGNED NULL,
  ADD COLUMN per_second     DOUBLE NULL,
  ADD CONSTRAINT tasks_limit CHECK (
    (limit_key IS NULL) = (max_concurrent IS NULL AND per_second IS NULL)
    AND (limit_key IS NULL OR limit_key <> '')
    AND (max_concurrent IS NULL OR max_concurrent BETWEEN 1 AND 10000)
    AND (per_second IS NULL OR per_second BETWEEN 0.001 AND 10000))
"""


def upgrade() -> None:
    have = {name for name, *_ in op.get_bind().execute(text("SHOW COLUMNS FROM tasks"))}
    if "limit_key" not in have:
        op.execute(TASKS)


def downgrade() -> None:
    raise NotImplementedError("restore a backup: the columns hold what nothing else knows")
