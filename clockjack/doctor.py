"""What keeps this installation from keeping its promises, in words and with what to do."""

from dataclasses import asdict, dataclass
from typing import Any

from clockjack import zones
from clockjack.ledger import acceptance, reports, rights, server
from clockjack.ledger import queues as switches
from clockjack.ledger.database import Database, Unavailable, UnknownCommit
from clockjack.queues import Queues, RedisError
from clockjack.registration import unserved
from clockjack.settings import Settings

LATE_S = 10.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: `level` is ok, warning or problem."""

    level: str
    what: str
    text: str


def examine(settings: Settings, database: Database) -> dict[str, Any]:
    """{ok, findings, queues, counts}: all that can be told from outside; a server that is away is a finding."""
    findings: list[Finding] = []
    counts: dict[str, Any] = {}
    wanted: dict[str, set[str]] = {}
    try:
        if _database(settings, database, findings):
            _rights(database, findings)
            counts = acceptance.read(database, reports.counts)
            wanted = acceptance.read(database, reports.wanted_queues)
            _lateness(database, counts, findings)
            _paused(database, findings)
    except (Unavailable, UnknownCommit) as error:
        findings.append(Finding("problem", "database", str(error)))
    text = f"their rules are those of tzdata {zones.version()}; /readyz says those of a producer"
    findings.append(Finding("ok", "zones", text))
    queues = _queues(settings, wanted, findings)
    return {
        "ok": all(finding.level != "problem" for finding in findings),
        "findings": [asdict(finding) for finding in findings],
        "queues": queues,
        "counts": counts,
    }


def _database(settings: Settings, database: Database, findings: list[Finding]) -> bool:
    """True when the tables can be read."""
    errors, warnings = acceptance.read(database, server.check)
    level = "warning" if settings.unsafe_server else "problem"
    findings += [Finding(level, "database", text) for text in errors]
    findings += [Finding("warning", "database", text) for text in warnings]
    if not errors:
        findings.append(Finding("ok", "database", "answers, and its settings keep what is acknowledged"))
    wrong = acceptance.read(database, server.check_schema)
    findings += [Finding("problem", "schema", text) for text in wrong]
    if not wrong:
        findings.append(Finding("ok", "schema", "the tables are at the revision of this version"))
    return not wrong


def _rights(database: Database, findings: list[Finding]) -> None:
    user, lacks = acceptance.read(database, rights.missing)
    if lacks:
        text = f"the user {user} lacks {', '.join(lacks)}: run deploy/grants.sql again"
        findings.append(Finding("problem", "rights", text))
    else:
        findings.append(Finding("ok", "rights", f"the user {user} may do what it must"))


def _lateness(database: Database, counts: dict[str, Any], findings: list[Finding]) -> None:
    age_s = acceptance.read(database, reports.health)["oldest_due_age_s"]
    if age_s > LATE_S:
        text = f"something due has waited for {age_s:.0f} s: is a dispatcher running, and are there enough consumers?"
        findings.append(Finding("problem", "lateness", text))
    else:
        findings.append(Finding("ok", "lateness", f"the oldest due task or run has waited for {age_s:.1f} s"))
    if invalid := counts["tasks"].get("invalid"):
        findings.append(
            Finding("warning", "tasks", f"{invalid} tasks are invalid: `clockjack list --state invalid` says why")
        )


def _paused(database: Database, findings: list[Finding]) -> None:
    queues, _ = acceptance.read(database, switches.list_queues)
    for name, queue in sorted(queues.items()):
        if queue["state"] == "paused":
            text = (
                f"the queue {name!r} is paused since {queue['paused_at']} by {queue['paused_by']}: nothing of it starts"
            )
            findings.append(Finding("warning", "queues", text))


def _queues(settings: Settings, wanted: dict[str, set[str]], findings: list[Finding]) -> list[dict[str, Any]]:
    try:
        queues = Queues(settings.redis_url)
        wrong = queues.check()
        served, status = queues.served(), queues.status()
    except RedisError as error:
        findings.append(Finding("problem", "redis", f"cannot be used: {str(error) or type(error).__name__}"))
        return []
    findings += [Finding("problem", "redis", text) for text in wrong]
    if not wrong:
        findings.append(Finding("ok", "redis", "answers, and does not evict"))
    missing = {
        text: None for queue in sorted(wanted) for name in wanted[queue] for text in unserved(served, queue, name)
    }
    findings += [Finding("problem", "consumers", text) for text in missing]
    if not missing:
        findings.append(Finding("ok", "consumers", "every queue and handler that tasks need is served"))
    return status
