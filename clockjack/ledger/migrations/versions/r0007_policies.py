"""tasks and runs: policies for what is missed, late or overlaps; groups; tags; what was seen of plain SQL."""

from alembic import op
from sqlalchemy import text

revision = "0007"
down_revision = "0006"

TASKS = """
ALTER TABLE tasks
  ADD COLUMN group_key             VARCHAR(180) NULL AFTER task_key,
  ADD COLUMN offset_s              INT NULL AFTER group_key,
  ADD COLUMN tags                  VARCHAR(500) NOT NULL DEFAULT '' AFTER name,
  ADD COLUMN misfire               VARCHAR(4) NOT NULL DEFAULT 'once' AFTER dst_fold,
  ADD COLUMN max_misfires          SMALLINT UNSIGNED NOT NULL DEFAULT 100 AFTER misfire,
  ADD COLUMN max_lateness_s        INT UNSIGNED NULL AFTER max_misfires,
  ADD COLUMN overlap               VARCHAR(9) NOT NULL DEFAULT 'allow' AFTER max_lateness_s,
  ADD COLUMN pause_after_failures  SMALLINT UNSIGNED NULL AFTER overlap,
  ADD COLUMN misfires_claimed      SMALLINT UNSIGNED NOT NULL DEFAULT 0 AFTER runs_claimed,
  ADD COLUMN missed_since          DATETIME(6) NULL AFTER next_run_at,
  ADD COLUMN seen_state            VARCHAR(16) NOT NULL DEFAULT '' AFTER version,
  ADD COLUMN seen_schedule_version INT UNSIGNED NOT NULL DEFAULT 0 AFTER seen_state,
  ADD CONSTRAINT tasks_misfire CHECK (
    misfire IN ('skip', 'once', 'all') AND max_misfires BETWEEN 1 AND 10000
    AND (max_lateness_s IS NULL OR max_lateness_s BETWEEN 1 AND 31536000)),
  ADD CONSTRAINT tasks_overlap CHECK (overlap IN ('allow', 'skip', 'queue_one', 'replace')),
  ADD CONSTRAINT tasks_failures CHECK (pause_after_failures IS NULL OR pause_after_failures BETWEEN 1 AND 1000),
  ADD CONSTRAINT tasks_words CHECK (CONCAT(state, misfire, overlap, dst_gap, dst_fold) NOT LIKE '% %'),
  ADD CONSTRAINT tasks_group CHECK ((group_key IS NULL) = (offset_s IS NULL))
"""
RUNS = """
ALTER TABLE runs
  ADD COLUMN live_task_id BIGINT UNSIGNED NULL AFTER task_id,
  ADD COLUMN task_version INT UNSIGNED NOT NULL DEFAULT 1 AFTER schedule_version,
  ADD COLUMN claimed_at   DATETIME(6) NULL AFTER origin,
  ADD COLUMN lease_until  DATETIME(6) NULL AFTER wake_at,
  ADD KEY live (live_task_id),
  DROP {constraint} runs_origin,
  ADD CONSTRAINT runs_origin CHECK (origin IN ('schedule', 'manual', 'backfill')),
  ADD CONSTRAINT runs_overlap CHECK (
    live_task_id IS NULL OR (live_task_id = task_id AND wake_at IS NOT NULL))
"""


# tasks_words: to IN, as to =, 'skip ' is 'skip'; to Python it is a word that nobody knows


def upgrade() -> None:
    have = {name for name, *_ in op.get_bind().execute(text("SHOW COLUMNS FROM tasks"))}
    if "seen_state" not in have:
        op.execute(TASKS)
    op.execute("UPDATE tasks SET seen_state = state, seen_schedule_version = schedule_version WHERE version > 0")
    have = {name for name, *_ in op.get_bind().execute(text("SHOW COLUMNS FROM runs"))}
    if "live_task_id" not in have:
        version = op.get_bind().execute(text("SELECT VERSION()")).scalar_one()
        op.execute(RUNS.format(constraint="CONSTRAINT" if "MariaDB" in version else "CHECK"))


def downgrade() -> None:
    raise NotImplementedError("restore a backup: the columns hold what nothing else knows")
