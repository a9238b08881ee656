"""expectations: what should be heard of again and again, and who is told when it is not."""

from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE IF NOT EXISTS expectations (
          id             BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
          namespace      VARCHAR(64) NOT NULL DEFAULT 'default',
          name           VARCHAR(100) NOT NULL,
          task_id        BIGINT UNSIGNED NULL,
          expect_every_s INT UNSIGNED NOT NULL,
          endpoint       VARCHAR(100) NOT NULL,
          queue          VARCHAR(64) NOT NULL DEFAULT 'default',
          state          VARCHAR(6) NOT NULL DEFAULT 'heard',
          heard_at       DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
          look_at        DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
          created_at     DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
          PRIMARY KEY (id),
          UNIQUE KEY expectation_name (namespace, name),
          KEY look (look_at),
          CONSTRAINT expectations_state CHECK (state IN ('heard', 'silent') AND state NOT LIKE '% %'),
          CONSTRAINT expectations_every CHECK (expect_every_s BETWEEN 1 AND 31536000)
        ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE expectations")
