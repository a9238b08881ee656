"""The heartbeat: the leases of all runs in hand are extended, reckoned from the sending of the statement."""

import logging

from clockjack import telemetry
from clockjack.ledger import asking, runs
from clockjack.ledger.database import Database, UnknownCommit, chunks
from consumers import execution
from consumers.execution import Job, Pool
from consumers.holding import Hold

log = logging.getLogger("clockjack.consumer")


def beat(database: Database, pool: Pool) -> None:
    """Each begun job has a lease of 20 s from now, or its handler is told to stop.

    MySQL only: a Redis that hangs must not cost a lease. What has not begun keeps its first lease of 6 s, so that it is
    soon found if this process dies. A job whose own transaction is being committed, or was, has no use for one.
    """
    jobs = [job for job in list(pool.jobs.values()) if job.state in ("running", "over") and not _ends(job)]
    for part in chunks(sorted(jobs, key=lambda job: (job.held.run_id, job.held.attempt))):
        sent_s, held = execution.boot_s(), [job.held for job in part]
        said = {job.held.run_id: job.progress for job in part if job.progress is not None}
        try:
            ours, asked = database.transaction(
                lambda c, h=held, p=said: (runs.heartbeat(c, h, p), asking.asked(c, h))  # type: ignore[misc]
            )
        except UnknownCommit:
            continue
        for job in part:
            if (job.held.run_id, job.held.attempt) in ours:
                job.lease_s = max(job.lease_s, sent_s + runs.LEASE_S)
                if job.progress is said.get(job.held.run_id):
                    job.progress = None
                if (job.held.run_id, job.held.attempt) in asked:
                    Hold(pool, job).ask()
            elif job.state == "running" and not _ends(job):
                telemetry.FENCED.labels("heartbeat").inc()
                log.warning("lease lost", extra={"action": "lease_lost", "run_id": job.held.run_id})
                pool.stop(job, "lost")


def _ends(job: Job) -> bool:
    return job.commits or job.done
