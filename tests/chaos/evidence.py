"""What is left of a run for the checker: the tables by plain SELECT, and the counters."""

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pymysql.cursors

from clockjack.ledger.database import to_us
from tests.chaos.world import World

TABLES = ("tasks", "runs", "attempts", "task_events")


def dump(world: World, directory: Path, tables: tuple[str, ...] = TABLES) -> None:
    """The tables as they were at one instant, one file each."""
    directory.mkdir(parents=True, exist_ok=True)
    with world.connect(cursorclass=pymysql.cursors.SSDictCursor) as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT")
        for table in tables:
            with open(directory / f"{table}.jsonl", "w") as file:
                cursor.execute(f"SELECT * FROM {table}")
                for row in cursor:
                    file.write(json.dumps({name: plain(value) for name, value in row.items()}) + "\n")


def plain(value: Any) -> Any:
    """The value as JSON can have it: moments as µs, bytes as hex."""
    if isinstance(value, datetime):
        return to_us(value)
    return value.hex() if isinstance(value, bytes) else value


def waited_us() -> int:
    """How long something on this machine has waited for a processor since it was started; 0 where nobody counts it."""
    path = Path("/proc/pressure/cpu")
    found = re.search(r"some .*total=(\d+)", path.read_text()) if path.exists() else None
    return int(found[1]) if found else 0


def counters(world: World) -> dict[str, int]:
    """What the servers, the proxy and the processes counted, killed ones included."""
    edges = world.order("stats")
    logs = "".join(path.read_text(errors="replace") for path in (world.out / "log").glob("*.log"))
    errors = "".join((server.directory / "server.log").read_text(errors="replace") for server in world.servers)
    status = dict(world.sql("SHOW GLOBAL STATUS LIKE 'Innodb_deadlocks'"))
    found = {name: int(value) for name, value in world.counters().items()}
    # a metric of a process that was killed is up to a second old; what a table or a log says is whole
    lost = world.sql("SELECT COUNT(*) FROM attempts WHERE outcome = 'lost'")[0][0]
    found["lost_attempts"] = max(found["lost_attempts"], int(lost))
    found["deadlocks"] = max(
        int(status.get("Innodb_deadlocks", 0)),
        len(re.findall(r"deadlock detected", errors, re.IGNORECASE)) + len(re.findall(r'"code": 1213', logs)),
    )
    found["lock_timeouts"] = len(re.findall(r'"code": 1205', logs))
    found["unknown_commits"] = sum(edge.get("unknown_commits", 0) for edge in edges.values())
    found["commits"] = sum(edge.get("commits", 0) for edge in edges.values())
    found["deaths"] = len(world.deaths)
    found["starved_ms"] = round(world.starved_s * 1000)
    return found
