"""v_dead: runs that have failed for good, for readers by plain SQL; found by their last attempt, not in the history."""

from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.execute(
        """
        CREATE OR REPLACE SQL SECURITY INVOKER VIEW v_dead AS
        SELECT a.run_id, r.task_id, t.namespace, t.task_key, t.name, t.handler, r.queue, r.due_at,
          r.finished_at AS failed_at, r.failures, r.reason, r.error
        FROM attempts a
          STRAIGHT_JOIN runs r ON r.id = a.run_id AND r.due_at = a.due_at AND r.attempt = a.attempt
          LEFT JOIN tasks t ON t.id = r.task_id
        WHERE r.state = 'failed'
        """
    )


def downgrade() -> None:
    op.execute("DROP VIEW v_dead")
