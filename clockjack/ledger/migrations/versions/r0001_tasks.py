"""tasks: what to run and when. A row inserted with plain SQL is a registered task."""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE IF NOT EXISTS tasks (
          id               BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
          namespace        VARCHAR(64) NOT NULL DEFAULT 'default',
          task_key         VARCHAR(200) NULL,
          name             VARCHAR(200) NULL,
          handler          VARCHAR(200) NOT NULL,
          queue            VARCHAR(64) NOT NULL DEFAULT 'default',
          payload          MEDIUMTEXT NOT NULL DEFAULT ('null'),
          run_at           DATETIME(6) NULL,
          run_at_local     DATETIME(6) NULL,
          cron             VARCHAR(255) NULL,
          every_s          INT UNSIGNED NULL,
          rrule            VARCHAR(500) NULL,
          timezone         VARCHAR(64) NOT NULL DEFAULT 'UTC',
          start_at         DATETIME(6) NULL,
          end_at           DATETIME(6) NULL,
          max_runs         INT UNSIGNED NULL,
          exclude          TEXT NULL,
          jitter_s         INT UNSIGNED NOT NULL DEFAULT 0,
          dst_gap          VARCHAR(9) NOT NULL DEFAULT 'run_after',
          dst_fold         VARCHAR(5) NOT NULL DEFAULT 'first',
          runs_claimed     INT UNSIGNED NOT NULL DEFAULT 0,
          timeout_s        INT UNSIGNED NOT NULL DEFAULT 60,
          max_failures     SMALLINT UNSIGNED NOT NULL DEFAULT 5,
          backoff_s        INT UNSIGNED NOT NULL DEFAULT 2,
          backoff_max_s    INT UNSIGNED NOT NULL DEFAULT 3600,
          state            VARCHAR(16) NOT NULL DEFAULT 'active',
          next_run_at      DATETIME(6) NULL DEFAULT (COALESCE(run_at, UTC_TIMESTAMP(6))),
          schedule_version INT UNSIGNED NOT NULL DEFAULT 1,
          version          INT UNSIGNED NOT NULL DEFAULT 0,
          error            VARCHAR(1000) NULL,
          created_at       DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
          updated_at       DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
          PRIMARY KEY (id),
          UNIQUE KEY task_key (namespace, task_key),
          KEY due (next_run_at),
          CONSTRAINT tasks_one_schedule
            CHECK ((run_at IS NOT NULL) + (run_at_local IS NOT NULL) + (cron IS NOT NULL) + (every_s IS NOT NULL)
              + (rrule IS NOT NULL) = 1),
          CONSTRAINT tasks_next_is_run_at
            CHECK (run_at IS NULL OR next_run_at IS NULL
              OR (next_run_at >= run_at AND next_run_at <= run_at + INTERVAL jitter_s SECOND)),
          CONSTRAINT tasks_state CHECK (state IN ('active', 'paused', 'cancelled', 'invalid')),
          CONSTRAINT tasks_handler CHECK (handler <> '' AND queue <> '' AND namespace <> ''),
          CONSTRAINT tasks_every CHECK (every_s IS NULL OR every_s BETWEEN 1 AND 31536000),
          CONSTRAINT tasks_options CHECK (
            jitter_s BETWEEN 0 AND 86400 AND dst_gap IN ('run_after', 'skip')
            AND dst_fold IN ('first', 'last', 'both')),
          CONSTRAINT tasks_times CHECK (
            (run_at IS NULL OR (run_at >= '2000-01-01' AND run_at < '2200-01-01'))
            AND (run_at_local IS NULL OR (run_at_local >= '2000-01-01' AND run_at_local < '2200-01-01'))
            AND (next_run_at IS NULL OR (next_run_at >= '2000-01-01' AND next_run_at < '2200-01-01'))
            AND (start_at IS NULL OR (start_at >= '2000-01-01' AND start_at < '2200-01-01'))
            AND (end_at IS NULL OR (end_at >= '2000-01-01' AND end_at < '2200-01-01'))
            AND (end_at IS NULL OR start_at IS NULL OR end_at > start_at)
            AND created_at >= '2000-01-01' AND created_at < '2200-01-01'),
          CONSTRAINT tasks_payload CHECK (OCTET_LENGTH(payload) <= 262144),
          CONSTRAINT tasks_policy CHECK (
            timeout_s BETWEEN 1 AND 86400 AND max_failures BETWEEN 1 AND 1000
            AND backoff_s BETWEEN 0 AND 86400 AND backoff_max_s BETWEEN 0 AND 604800
            AND (max_runs IS NULL OR max_runs >= 1))
        ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE tasks")
