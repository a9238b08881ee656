"""api_keys: the SHA-256 of each key; the key itself is shown once and stored nowhere."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE IF NOT EXISTS api_keys (
          id         BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
          namespace  VARCHAR(64) NOT NULL DEFAULT 'default',
          name       VARCHAR(100) NOT NULL,
          key_prefix VARCHAR(16) NOT NULL,
          key_hash   BINARY(32) NOT NULL,
          created_at DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
          revoked_at DATETIME(6) NULL,
          PRIMARY KEY (id),
          UNIQUE KEY key_prefix (key_prefix)
        ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE api_keys")
