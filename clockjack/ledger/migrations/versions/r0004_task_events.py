"""task_events: one row for each change of a task, written in the same transaction."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE IF NOT EXISTS task_events (
          id               BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
          task_id          BIGINT UNSIGNED NOT NULL,
          at               DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
          actor            VARCHAR(100) NOT NULL,
          action           VARCHAR(16) NOT NULL,
          version          INT UNSIGNED NOT NULL,
          schedule_version INT UNSIGNED NOT NULL,
          detail           VARCHAR(1000) NULL,
          PRIMARY KEY (id),
          KEY task (task_id)
        ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE task_events")
