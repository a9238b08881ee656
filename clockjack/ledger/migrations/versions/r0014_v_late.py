"""v_late: what should have begun more than 10 s ago and has not, for plain SQL; found by `due` and `wake`."""

from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.execute(
        """
        CREATE OR REPLACE SQL SECURITY INVOKER VIEW v_late AS
        SELECT id AS task_id, CAST(NULL AS UNSIGNED) AS run_id, namespace, task_key, name, handler, queue,
          next_run_at AS due_at, TIMESTAMPDIFF(MICROSECOND, next_run_at, UTC_TIMESTAMP(6)) / 1000000 AS late_s,
          'not claimed' AS why
        FROM tasks FORCE INDEX (due)
        WHERE state = 'active' AND next_run_at < UTC_TIMESTAMP(6) - INTERVAL 10 SECOND
        UNION ALL
        SELECT r.task_id, r.id, t.namespace, t.task_key, t.name, t.handler, r.queue,
          r.due_at, TIMESTAMPDIFF(MICROSECOND, r.due_at, UTC_TIMESTAMP(6)) / 1000000,
          'not started'
        FROM runs r FORCE INDEX (wake) STRAIGHT_JOIN tasks t ON t.id = r.task_id
        WHERE r.wake_at IS NOT NULL AND r.state = 'ready' AND r.first_started_at IS NULL AND r.origin <> 'backfill'
          AND r.due_at < UTC_TIMESTAMP(6) - INTERVAL 10 SECOND AND t.state = 'active'
        """
    )


def downgrade() -> None:
    op.execute("DROP VIEW v_late")
