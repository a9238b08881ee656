"""v_next: what is due next, for readers by plain SQL; read in the order of the index `due`."""

from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.execute(
        """
        CREATE OR REPLACE ALGORITHM = MERGE SQL SECURITY INVOKER VIEW v_next AS
        SELECT id AS task_id, namespace, task_key, name, handler, queue, next_run_at AS due_at,
          TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), next_run_at) / 1000000 AS in_s
        FROM tasks
        WHERE state = 'active' AND next_run_at IS NOT NULL
        """
    )


def downgrade() -> None:
    op.execute("DROP VIEW v_next")
