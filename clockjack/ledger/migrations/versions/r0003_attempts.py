"""attempts: one row for each attempt that did not succeed; the successful one is the run row itself."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE IF NOT EXISTS attempts (
          run_id     BIGINT UNSIGNED NOT NULL,
          due_at     DATETIME(6) NOT NULL,
          attempt    INT UNSIGNED NOT NULL,
          run_token  BINARY(16) NULL,
          worker     VARCHAR(100) NULL,
          started_at DATETIME(6) NULL,
          ended_at   DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
          outcome    VARCHAR(11) NOT NULL,
          error      TEXT NULL,
          PRIMARY KEY (run_id, due_at, attempt),
          CONSTRAINT attempts_outcome CHECK (outcome IN ('failed', 'lost', 'timeout', 'interrupted'))
        ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE attempts")
