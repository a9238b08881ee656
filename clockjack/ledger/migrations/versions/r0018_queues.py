"""queues: which are paused. One that has no row is active."""

from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE IF NOT EXISTS queues (
          queue      VARCHAR(64) NOT NULL,
          paused_at  DATETIME(6) NULL,
          actor      VARCHAR(100) NOT NULL DEFAULT 'sql',
          updated_at DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
          PRIMARY KEY (queue),
          CONSTRAINT queues_queue CHECK (queue <> '')
        ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE queues")
