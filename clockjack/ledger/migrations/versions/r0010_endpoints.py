"""endpoints: receivers of webhooks by name; their secrets and fixed headers are sealed."""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE IF NOT EXISTS endpoints (
          id            BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
          namespace     VARCHAR(64) NOT NULL DEFAULT 'default',
          name          VARCHAR(100) NOT NULL,
          url           VARCHAR(2048) NOT NULL,
          sealed        MEDIUMTEXT NOT NULL,
          header_names  VARCHAR(2100) NOT NULL DEFAULT '',
          success       VARCHAR(200) NOT NULL DEFAULT '2xx',
          state         VARCHAR(8) NOT NULL DEFAULT 'enabled',
          reason        VARCHAR(200) NULL,
          overlap_until DATETIME(6) NULL,
          version       INT UNSIGNED NOT NULL DEFAULT 1,
          created_at    DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
          updated_at    DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
          PRIMARY KEY (id),
          UNIQUE KEY endpoint_name (namespace, name),
          CONSTRAINT endpoints_state CHECK (state IN ('enabled', 'disabled') AND state NOT LIKE '% %')
        ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE endpoints")
