-- What each of Clockjack's users may do in the database, and no more. For MariaDB >= 10.6 and MySQL >= 8.0.16.
--
-- Run it as an administrator, after `clockjack migrate`; again after an upgrade; it may be run any number of times. Before:
-- replace each 'change-me' by a password of its own, and `clockjack` by the name of your database if it has another.
-- `clockjack migrate` and backups are the work of the database's owner, who needs no line here.
-- Tests run every stage as its own user, and try that what is not granted here is refused.

CREATE USER IF NOT EXISTS 'producer'@'%' IDENTIFIED BY 'change-me';
CREATE USER IF NOT EXISTS 'dispatcher'@'%' IDENTIFIED BY 'change-me';
CREATE USER IF NOT EXISTS 'consumer'@'%' IDENTIFIED BY 'change-me';
CREATE USER IF NOT EXISTS 'sql_producer'@'%' IDENTIFIED BY 'change-me';
CREATE USER IF NOT EXISTS 'python_producer'@'%' IDENTIFIED BY 'change-me';

-- producer: registers and changes tasks, shows what became of them. Makes and revokes API keys, and
-- changes no other thing of one. Deletes endpoints and expectations only.
-- The command `clockjack` needs the same, but for `migrate`.
GRANT SELECT, INSERT, UPDATE ON `clockjack`.tasks TO 'producer'@'%';
GRANT SELECT, INSERT, UPDATE ON `clockjack`.runs TO 'producer'@'%';
GRANT SELECT ON `clockjack`.attempts TO 'producer'@'%';
GRANT SELECT, INSERT ON `clockjack`.task_events TO 'producer'@'%';
GRANT SELECT, INSERT (namespace, name, scope, per_second, burst, key_prefix, key_hash), UPDATE (revoked_at, last_used_at)
  ON `clockjack`.api_keys TO 'producer'@'%';
-- the answer is written at the end of the transaction that took the key
GRANT SELECT, INSERT, UPDATE (status, answer) ON `clockjack`.idempotency_keys TO 'producer'@'%';
GRANT SELECT, INSERT, UPDATE, DELETE ON `clockjack`.endpoints TO 'producer'@'%';
GRANT SELECT, INSERT, UPDATE, DELETE ON `clockjack`.expectations TO 'producer'@'%';
GRANT SELECT, INSERT, UPDATE ON `clockjack`.queues TO 'producer'@'%';
GRANT SELECT ON `clockjack`.alembic_version TO 'producer'@'%';

-- dispatcher: claims tasks, looks again at runs, keeps history in bounds. Registers alerts of expectations, knows no API key.
-- ALTER and DROP, on this one table, are for its weekly partitions: see docs/adr/0018.
GRANT SELECT, INSERT, UPDATE, DELETE ON `clockjack`.tasks TO 'dispatcher'@'%';
GRANT SELECT, INSERT, UPDATE, ALTER, DROP ON `clockjack`.runs TO 'dispatcher'@'%';
GRANT SELECT, INSERT, DELETE ON `clockjack`.attempts TO 'dispatcher'@'%';
GRANT SELECT, INSERT, DELETE ON `clockjack`.task_events TO 'dispatcher'@'%';
GRANT SELECT (id, created_at), DELETE ON `clockjack`.idempotency_keys TO 'dispatcher'@'%';
GRANT SELECT, UPDATE ON `clockjack`.expectations TO 'dispatcher'@'%';
GRANT SELECT ON `clockjack`.queues TO 'dispatcher'@'%';
GRANT SELECT ON `clockjack`.alembic_version TO 'dispatcher'@'%';

-- consumer: starts and finishes runs. Of a task it may change what pausing it after failures changes.
GRANT SELECT, UPDATE (state, error, version, updated_at, seen_state, seen_schedule_version)
  ON `clockjack`.tasks TO 'consumer'@'%';
GRANT SELECT, UPDATE ON `clockjack`.runs TO 'consumer'@'%';
GRANT SELECT, INSERT ON `clockjack`.attempts TO 'consumer'@'%';
GRANT SELECT, INSERT ON `clockjack`.task_events TO 'consumer'@'%';
-- an endpoint whose receiver says that it is gone is disabled
GRANT SELECT, UPDATE (state, reason, version, updated_at) ON `clockjack`.endpoints TO 'consumer'@'%';
GRANT SELECT ON `clockjack`.queues TO 'consumer'@'%';
GRANT SELECT ON `clockjack`.alembic_version TO 'consumer'@'%';

-- sql_producer: another service that registers tasks in its own transactions (docs/sql.md). It reads and writes tasks of
-- all namespaces, but not the columns that Clockjack keeps for itself; of runs it sees no results, and no key or event at all.
GRANT SELECT,
  INSERT (namespace, task_key, group_key, offset_s, name, tags, handler, queue, payload, run_at, run_at_local, cron, every_s,
    rrule, timezone, start_at, end_at, max_runs, exclude, jitter_s, dst_gap, dst_fold, misfire, max_misfires, max_lateness_s,
    overlap, pause_after_failures, timeout_s, max_failures, backoff_s, backoff_max_s, limit_key, max_concurrent, per_second),
  UPDATE (task_key, group_key, offset_s, name, tags, handler, queue, payload, run_at, run_at_local, cron, every_s, rrule,
    timezone, start_at, end_at, max_runs, exclude, jitter_s, dst_gap, dst_fold, misfire, max_misfires, max_lateness_s, overlap,
    pause_after_failures, timeout_s, max_failures, backoff_s, backoff_max_s, limit_key, max_concurrent, per_second, state,
    error, next_run_at, schedule_version, runs_claimed)
  ON `clockjack`.tasks TO 'sql_producer'@'%';
-- the views of docs/sql.md ask with the rights of who reads them: these columns, no results and no tokens
GRANT SELECT ON `clockjack`.v_next TO 'sql_producer'@'%';
GRANT SELECT ON `clockjack`.v_late TO 'sql_producer'@'%';
GRANT SELECT ON `clockjack`.v_dead TO 'sql_producer'@'%';
GRANT SELECT (id, due_at, task_id, queue, state, attempt, failures, wake_at, origin, first_started_at, finished_at, reason, error)
  ON `clockjack`.runs TO 'sql_producer'@'%';
GRANT SELECT (run_id, due_at, attempt, outcome) ON `clockjack`.attempts TO 'sql_producer'@'%';
-- if it is to see the results as well, in all namespaces:
-- GRANT SELECT ON `clockjack`.runs TO 'sql_producer'@'%';

-- a service whose handlers give `run.transaction(engine)` an engine of their own (docs/handlers.md). Replace 'app' by its user.
-- What it may then do to any run: end it, and see that it is there. It sees no payload and no result.
-- GRANT SELECT (id, due_at, attempt, run_token, state) ON `clockjack`.runs TO 'app'@'%';
-- GRANT UPDATE (state, finished_at, wake_at, live_task_id, error, reason) ON `clockjack`.runs TO 'app'@'%';
--
-- where handlers use `run.transaction()` without one, the consumer's user needs rights on their tables instead, such as
-- GRANT SELECT, INSERT, UPDATE ON `app`.* TO 'consumer'@'%';

-- python_producer: another service that registers by `clockjack.enqueue` in its own transactions (docs/sql.md). Of runs it
-- writes those that stand for what a changed schedule passes over, and reads whether there is one. It can end no run and bring
-- none back: the CHECK runs_live wants wake_at written with that.
GRANT SELECT, INSERT, UPDATE ON `clockjack`.tasks TO 'python_producer'@'%';
GRANT SELECT (id, task_id, due_at, state, reason, skipped_until, first_started_at),
  INSERT (task_id, due_at, schedule_version, task_version, queue, claimed_at, state, finished_at, reason, skipped_until),
  UPDATE (state, reason, skipped_until, finished_at)
  ON `clockjack`.runs TO 'python_producer'@'%';
GRANT INSERT ON `clockjack`.task_events TO 'python_producer'@'%';
