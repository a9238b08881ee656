"""runs: what a handler says about its progress, and that somebody has asked it to stop."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.execute(
        """
        ALTER TABLE runs
          ADD COLUMN progress        VARCHAR(1024) NULL,
          ADD COLUMN cancel_asked_at DATETIME(6) NULL
        """
    )


def downgrade() -> None:
    op.execute("ALTER TABLE runs DROP COLUMN progress, DROP COLUMN cancel_asked_at")
