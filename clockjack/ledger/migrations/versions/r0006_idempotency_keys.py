"""idempotency_keys: the answer that a registration was given, written in the registration's own transaction."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE IF NOT EXISTS idempotency_keys (
          id              BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
          namespace       VARCHAR(64) NOT NULL,
          idempotency_key VARCHAR(255) NOT NULL,
          request_hash    BINARY(32) NOT NULL,
          status          SMALLINT UNSIGNED NOT NULL,
          answer          MEDIUMTEXT NOT NULL,
          created_at      DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
          PRIMARY KEY (id),
          UNIQUE KEY idempotency_key (namespace, idempotency_key),
          KEY created_at (created_at)
        ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE idempotency_keys")
