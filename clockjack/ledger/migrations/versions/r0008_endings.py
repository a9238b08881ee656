"""attempts: an attempt may end as snoozed or discarded, too."""

from alembic import op
from sqlalchemy import text

revision = "0008"
down_revision = "0007"

CHECK = """
ALTER TABLE attempts
  DROP {constraint} attempts_outcome,
  ADD CONSTRAINT attempts_outcome CHECK (
    outcome IN ('failed', 'lost', 'timeout', 'interrupted', 'snoozed', 'discarded', 'cancelled'))
"""


def upgrade() -> None:
    version = op.get_bind().execute(text("SELECT VERSION()")).scalar_one()
    op.execute(CHECK.format(constraint="CONSTRAINT" if "MariaDB" in version else "CHECK"))


def downgrade() -> None:
    raise NotImplementedError("restore a backup: attempts that the old check refuses may be there")
