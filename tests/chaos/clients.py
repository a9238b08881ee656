"""The clients: each does its steps of the plan in their order, by HTTP or plain SQL, and writes down what it saw.

ok: the answer says so. fail: certainly nothing happened. unknown: no answer to what may have happened; the task is then
left alone. HTTP is asked again with the same Idempotency-Key until there is an answer; a COMMIT is not.
"""

import heapq
import http.client
import json
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pymysql

from tests.chaos.plan import Step

PATIENCE_S, PAUSE_S, TURN = 30.0, 0.2, 5
AGAIN = {1040, 1205, 1213, 1927, 2003, 2006, 2013, 0}


def now_us() -> int:
    return time.time_ns() // 1000


def moment(us: int) -> str:
    """The moment as the API takes it."""
    return datetime.fromtimestamp(us / 1e6, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class Ahead:
    """How far the database's clock is ahead of ours, by act of the nemesis, and whether clients may ask just now."""

    def __init__(self) -> None:
        self.by_us = 0
        self.open = threading.Event()
        self.open.set()


AHEAD = Ahead()


class History:
    """The file of what the clients saw."""

    def __init__(self, path: Path) -> None:
        self._file, self._lock, self._ops = open(path, "a"), threading.Lock(), 0  # noqa: SIM115
        self.results: dict[str, int] = {}

    def write(self, client: str, f: str, key: str, value: Any, from_us: int, result: str, task_id: int | None) -> None:
        """One more line."""
        to_us = None if result == "unknown" else now_us()
        with self._lock:
            self._ops += 1
            self.results[f"{f} {result}"] = self.results.get(f"{f} {result}", 0) + 1
            line = {"op": self._ops, "client": client, "f": f, "key": key, "value": value}
            line |= {"from_us": from_us, "to_us": to_us, "result": result, "task_id": task_id}
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()


class Client:
    """One client: a thread of its own does `steps` from begin_us on. `ask` is the door."""

    def __init__(self, name: str, history: History, ask: "Http | Sql") -> None:
        self.name, self.history, self._ask = name, history, ask
        self._known: dict[str, tuple[int, dict[str, Any]]] = {}
        self._begin_us = now_us()

    def run(self, steps: Sequence[Step], begin_us: int, stop: Callable[[], bool]) -> None:
        """All steps are done, or it was told to stop."""
        self._begin_us = begin_us
        waiting = [(step.at_s, n, step) for n, step in enumerate(steps)]
        heapq.heapify(waiting)
        while waiting and not stop():
            wait_s = begin_us / 1e6 + waiting[0][0] - time.time()
            if wait_s > 0:
                time.sleep(min(wait_s, 0.5))
                continue
            self.do(heapq.heappop(waiting)[2])

    def do(self, step: Step) -> int | None:
        """The step is done and written down; the task's id, if it is known."""
        AHEAD.open.wait()
        task_id, have = self._known.get(step.key, (None, {}))
        if step.f != "register" and task_id is None:
            return None  # it was refused, or nobody knows
        change = self._fixed(step.value)
        if step.f == "edit" and ("cron" in change or "every_s" in change):
            change = {"start_at": None, "timezone": "UTC", **change}  # else the old ones would stay
            have = {name: value for name, value in have.items() if name not in ("cron", "every_s")}
        value = {**have, **change}
        if step.f == "register":
            value["task_key"] = step.key
        begun_us = now_us()
        result, found = self._ask.do(step.f, task_id, value if step.f == "register" else change)
        if result == "ok" and found:
            task_id = found
        shown = value if step.f in ("register", "edit") else {}
        self.history.write(self.name, step.f, step.key, shown, begun_us, result, task_id)
        if result == "ok" and task_id is not None:
            self._known[step.key] = (task_id, value)
        elif result == "unknown":
            self._known.pop(step.key, None)
        return task_id

    def _fixed(self, value: dict[str, Any]) -> dict[str, Any]:
        """The value with the plan's relative times as moments."""
        fixed = {name: v for name, v in value.items() if not name.endswith("_at_s") and name != "run_in_s"}
        if "run_in_s" in value:
            fixed["run_at"] = moment(now_us() + AHEAD.by_us + int(value["run_in_s"] * 1e6))
        for name, ahead_us in (("start_at", AHEAD.by_us), ("end_at", 0)):
            if f"{name}_s" in value:
                fixed[name] = moment(self._begin_us + ahead_us + int(value[f"{name}_s"] * 1e6))
        return fixed


class Http:
    """The producers, asked in turn until one gives an answer."""

    def __init__(self, ports: Sequence[int], api_key: str) -> None:
        self._ports, self._api_key, self._turn, self._asked = list(ports), api_key, 0, 0
        self._connection: http.client.HTTPConnection | None = None

    def do(self, f: str, task_id: int | None, value: dict[str, Any]) -> tuple[str, int | None]:
        """ok, fail or unknown; and the id in the answer."""
        path = f"/v1/tasks/{task_id}"
        method, path, document = {
            "register": ("POST", "/v1/tasks", value),
            "edit": ("PATCH", path, value),
            "cancel": ("DELETE", path, None),
            "pause": ("POST", f"{path}/pause", None),
            "resume": ("POST", f"{path}/resume", None),
            "run_now": ("POST", f"{path}/run", None),
        }[f]
        headers = {"Authorization": f"Bearer {self._api_key}", "Content-Type": "application/json"}
        headers["Idempotency-Key"] = str(uuid.uuid4())  # else a copy that comes late undoes what was done meanwhile
        give_up = time.monotonic() + PATIENCE_S
        while time.monotonic() < give_up:
            status, answer = self._once(method, path, document, headers)
            if status in (200, 201, 202):
                return "ok", int(answer["id"]) if f == "register" else None
            code = answer.get("code") if isinstance(answer, dict) else None
            if status and status < 500 and status != 429 and code != "idempotency-key-in-flight":
                return "fail", None
            time.sleep(PAUSE_S)
        return "unknown", None

    def _once(self, method: str, path: str, document: Any, headers: dict[str, str]) -> tuple[int, Any]:
        """The status and the answer; 0 when there is none."""
        self._asked += 1
        if self._connection is not None and self._asked % TURN == 0:  # every producer is asked, whatever has died
            self._connection.close()
            self._connection = None
        if self._connection is None:
            self._turn += 1
            port = self._ports[self._turn % len(self._ports)]
            self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            self._connection.request(method, path, None if document is None else json.dumps(document), headers)
            answer = self._connection.getresponse()
            status, text = answer.status, answer.read()
            if status >= 500:
                self._connection = None  # the next try goes to the other one
            return status, json.loads(text)
        except (OSError, http.client.HTTPException, ValueError):
            if self._connection is not None:
                self._connection.close()
            self._connection = None
            return 0, None


class Sql:
    """The table `tasks`, through an edge of its own."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: Any = None

    def do(self, f: str, task_id: int | None, value: dict[str, Any]) -> tuple[str, int | None]:
        """ok, fail or unknown; and the id of a new row. What failed before its COMMIT is tried again."""
        sql, values = statement(f, task_id, value)
        give_up = time.monotonic() + PATIENCE_S
        while time.monotonic() < give_up:
            try:
                if self._connection is None:
                    self._connection = pymysql.connect(
                        host="127.0.0.1", port=self._port, user="root", database="clockjack", charset="utf8mb4",
                        connect_timeout=3, read_timeout=5, write_timeout=5,
                        init_command="SET SESSION innodb_lock_wait_timeout=3, time_zone='+00:00'",
                    )  # fmt: skip
                with self._connection.cursor() as cursor:
                    cursor.execute(sql, values)
                    found = cursor.lastrowid if f == "register" else None
            except (pymysql.MySQLError, OSError) as error:
                self._drop()
                if isinstance(error, pymysql.MySQLError) and error.args[0] not in AGAIN:
                    return "fail", None
                time.sleep(PAUSE_S)
                continue
            try:
                self._connection.commit()
                return "ok", found
            except (pymysql.MySQLError, OSError):
                self._drop()
                return "unknown", None
        return "fail", None

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection._force_close()
        self._connection = None


def statement(f: str, task_id: int | None, value: dict[str, Any]) -> tuple[str, tuple[Any, ...]]:
    """What docs/sql.md says for this."""
    row = {name: json.dumps(v) if name == "payload" else v for name, v in value.items()}
    for name in ("run_at", "start_at", "end_at"):
        if row.get(name):
            row[name] = row[name].replace("T", " ").rstrip("Z")
    if f == "register":
        marks = ", ".join(["%s"] * len(row))
        return f"INSERT INTO tasks ({', '.join(row)}) VALUES ({marks})", tuple(row.values())
    sets = {
        "cancel": "state = 'cancelled', next_run_at = NULL",
        "pause": "state = 'paused'",
        "resume": "state = 'active', next_run_at = COALESCE(run_at, UTC_TIMESTAMP(6))",
        "edit": "",
    }[f]
    if f == "edit":
        if "cron" in row or "every_s" in row:
            row = {"cron": None, "every_s": None, **row}
            sets = "next_run_at = UTC_TIMESTAMP(6), schedule_version = schedule_version + 1, "
        elif "run_at" in row:
            row["next_run_at"] = row["run_at"]
            sets = "schedule_version = schedule_version + 1, "
        sets += ", ".join(f"{name} = %s" for name in row)
    else:
        row = {}
    return f"UPDATE tasks SET {sets} WHERE id = %s", (*row.values(), task_id)
