"""runs: one row an occurrence, partitioned by week so that history is dropped and not deleted."""

from alembic import op
from sqlalchemy import text

from clockjack.ledger.partitions import boundaries, definition

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    now = op.get_bind().execute(text("SELECT UTC_TIMESTAMP(6)")).scalar_one()
    op.execute(
        f"""
        CREATE TABLE IF NOT EXISTS runs (
          id               BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
          due_at           DATETIME(6) NOT NULL,
          task_id          BIGINT UNSIGNED NOT NULL,
          schedule_version INT UNSIGNED NOT NULL,
          queue            VARCHAR(64) NOT NULL,
          state            VARCHAR(9) NOT NULL,
          attempt          INT UNSIGNED NOT NULL DEFAULT 0,
          failures         SMALLINT UNSIGNED NOT NULL DEFAULT 0,
          wake_at          DATETIME(6) NULL,
          run_token        BINARY(16) NULL,
          worker           VARCHAR(100) NULL,
          origin           VARCHAR(8) NOT NULL DEFAULT 'schedule',
          first_started_at DATETIME(6) NULL,
          started_at       DATETIME(6) NULL,
          finished_at      DATETIME(6) NULL,
          skipped_until    DATETIME(6) NULL,
          result           MEDIUMTEXT NULL,
          error            TEXT NULL,
          reason           VARCHAR(200) NULL,
          PRIMARY KEY (id, due_at),
          UNIQUE KEY occurrence (task_id, due_at),
          KEY wake (wake_at),
          CONSTRAINT runs_state CHECK (
            state IN ('ready', 'running', 'succeeded', 'failed', 'cancelled', 'skipped')),
          CONSTRAINT runs_live CHECK ((state IN ('ready', 'running')) = (wake_at IS NOT NULL)),
          CONSTRAINT runs_origin CHECK (origin IN ('schedule', 'manual'))
        ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin
        PARTITION BY RANGE COLUMNS (due_at) ({definition(boundaries(now))})
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE runs")
