"""The Python client: registers tasks by HTTP, and survives a producer or a database that is away for a moment.

Every registration carries an Idempotency-Key, so sending it again can never register it twice.
"""

import random
import time
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx2

from clockjack.settings import client_environment
from clockjack.telemetry import wall_clock

AGAIN = {429, 502, 503}
PATIENCE_S = 30.0
LONGEST_WAIT_S = 5.0
MOMENTS = ("run_at", "start_at", "end_at", "anchor_at", "from", "to")
WALLS = ("run_at_local", "anchor_at_local")


class ClientError(Exception):
    """The answer was a problem, or none came; `status` is 0 when nobody answered. `errors` names the wrong fields."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        self.status = status
        self.code = str(problem.get("code", ""))
        self.title = str(problem.get("title", ""))
        self.detail = str(problem.get("detail", ""))
        self.errors: list[dict[str, str]] = problem.get("errors") or []
        super().__init__(f"{status} {self.code or self.title}: {self.detail}" if status else self.detail)


class Client:
    """A connection to Clockjack; safe to share between threads, closed by `close()` or at the end of `with`.

    Without arguments it uses CLOCKJACK_URL and CLOCKJACK_API_KEY, or a `make up` that runs in this directory.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = 10.0,
        patience_s: float = PATIENCE_S,
    ) -> None:
        known_url, known_key = client_environment() if url is None or api_key is None else (None, None)
        url, api_key = url or known_url, api_key or known_key
        if not url or not api_key:
            raise ValueError("no url or api_key: give both, or set CLOCKJACK_URL and CLOCKJACK_API_KEY")
        self._patience_s = patience_s
        self._http = httpx2.Client(
            base_url=url.rstrip("/"),
            headers={"Authorization": f"Bearer {api_key}", "Accept": "application/json"},
            timeout=timeout_s,
            trust_env=False,  # no proxy or password file of the surroundings sees the key
        )

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """The connections are closed."""
        self._http.close()

    def schedule(
        self,
        handler: str,
        payload: Any = None,
        *,
        run_at: datetime | None = None,
        in_s: float | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> dict[str, Any]:
        """The task is registered, exactly once; returns it, with `warnings`.

        When: one of `run_at` (an aware datetime), `in_s`, `run_at_local` (a datetime without a zone), `cron`, `rrule`
        (these with `timezone`) or `every_s`. `fields` are the columns of a task: queue, name, task_key, start_at,
        end_at, exclude (dates, or ranges as text), jitter_s, max_runs, timeout_s, max_failures, backoff_s, …
        """
        if in_s is not None:
            if run_at is not None:
                raise ValueError("give either run_at or in_s")
            run_at = datetime.fromtimestamp(wall_clock()(), UTC) + timedelta(seconds=in_s)
        document = {"handler": handler, "payload": payload, "run_at": run_at, **fields}
        return self._once("/v1/tasks", idempotency_key, _sendable(document))

    def get(self, task_id: int) -> dict[str, Any]:
        """The task."""
        return self._ask("GET", f"/v1/tasks/{task_id}")

    def explain(self, task_id: int) -> dict[str, Any]:
        """The task in sentences: `schedule`, `state`, `next`, `recent` runs and `warnings`."""
        return self._ask("GET", f"/v1/tasks/{task_id}/explain")

    def list(self, **where: Any) -> Iterator[dict[str, Any]]:
        """All tasks, the newest first, without payloads.

        `where`: state, handler, queue, task_key (a prefix), tag, group_key.
        """
        return self._pages("/v1/tasks", where)

    def pause(self, task_id: int) -> dict[str, Any]:
        """The task starts nothing until it is resumed."""
        return self._once(f"/v1/tasks/{task_id}/pause", None, None)

    def resume(self, task_id: int, *, catch_up: bool = False) -> dict[str, Any]:
        """The task is active again; with `catch_up` what its pause missed is due, as far as its `misfire` says."""
        return self._once(f"/v1/tasks/{task_id}/resume", None, {"catch_up": catch_up})

    def edit(
        self, task_id: int, *, if_version: int | None = None, idempotency_key: str | None = None, **fields: Any
    ) -> dict[str, Any]:
        """The task has these values, of the fields that `schedule` takes; None resets one to its default.

        A dictionary as `payload` is merged into the one that is there (RFC 7396). With `if_version` only if the task is
        of that version: else ClientError 412.
        """
        match = {} if if_version is None else {"If-Match": f'"{if_version}"'}
        return self._once(f"/v1/tasks/{task_id}", idempotency_key, _sendable(fields, nulls=True), "PATCH", match)

    def control(self, action: str, *, dry_run: bool = False, **parts: Any) -> dict[str, Any]:
        """`action` (pause, resume, cancel, run, edit) is done to all that match: {matched, changed, refused}.

        `parts`: the filter (task_key, a prefix; handler, queue, tag, group_key, state) or `all=True`; with resume
        `catch_up`; with edit `set`, a dictionary of fields.
        """
        document: dict[str, Any] = {"action": action, "dry_run": dry_run}
        document |= {name: parts.pop(name) for name in ("all", "catch_up", "set") if name in parts}
        if "set" in document:
            document["set"] = _sendable(document["set"], nulls=True)
        if parts:
            document["filter"] = parts
        total: dict[str, Any] = {"matched": 0, "changed": 0, "refused": []}
        while True:
            page = self._once("/v1/tasks/control", None, document)
            total = {name: value + page[name] for name, value in total.items()}
            if not page["next_cursor"]:
                return total
            document["cursor"] = page["next_cursor"]

    def backfill(
        self,
        task_id: int,
        since: datetime,
        to: datetime,
        *,
        per_s: int = 10,
        dry_run: bool = False,
        idempotency_key: str | None = None,
    ) -> dict[str, Any]:
        """The task's occurrences from `since` to `to` that had no run have one; with `dry_run` they are only listed."""
        document = {"from": since, "to": to, "per_s": per_s, "dry_run": dry_run}
        return self._once(f"/v1/tasks/{task_id}/backfill", idempotency_key, _sendable(document))

    def cancel(self, task_id: int) -> dict[str, Any]:
        """The task fires no more; its history stays."""
        return self._once(f"/v1/tasks/{task_id}", None, None, "DELETE")

    def run_now(self, task_id: int, *, idempotency_key: str | None = None) -> dict[str, Any]:
        """One more run of the task is due now; returns the run."""
        return self._once(f"/v1/tasks/{task_id}/run", idempotency_key, None)

    def runs(self, task_id: int) -> Iterator[dict[str, Any]]:
        """The task's runs, the latest due first."""
        return self._pages(f"/v1/tasks/{task_id}/runs", {})

    def run(self, run_id: int) -> dict[str, Any]:
        """The run, with its attempts that did not succeed."""
        return self._ask("GET", f"/v1/runs/{run_id}")

    def forecast(
        self, *, bucket: str = "1m", begin: datetime | None = None, buckets: int | None = None
    ) -> dict[str, Any]:
        """The coming load: how many tasks are due in each second (`1s`) or minute (`1m`) from `begin` (now) on."""
        if begin is not None and begin.tzinfo is None:
            raise ValueError("begin: a datetime without a zone; use datetime(…, tzinfo=…)")
        wanted = {"bucket": bucket, "from": begin and begin.isoformat(), "buckets": buckets}
        where = {name: value for name, value in wanted.items() if value is not None}
        return self._ask("GET", "/v1/forecast", params=where)

    def put_group(
        self,
        group_key: str,
        handler: str,
        payload: Any = None,
        *,
        offsets_s: Sequence[int],
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> dict[str, Any]:
        """The group has exactly these members; returns it, with `warnings`.

        When: `anchor_at` (an aware datetime), or `anchor_at_local` (without a zone) with `timezone`. `fields` are the
        columns of a one-time task.
        """
        document = {"handler": handler, "payload": payload, "offsets_s": [*offsets_s], **fields}
        return self._once(_group(group_key), idempotency_key, _sendable(document), "PUT")

    def move_group(self, group_key: str, *, idempotency_key: str | None = None, **anchor: Any) -> dict[str, Any]:
        """The group's members lie at their offsets from another `anchor_at`, or `anchor_at_local` (and `timezone`)."""
        return self._once(_group(group_key) + "/move", idempotency_key, _sendable(anchor))

    def group(self, group_key: str) -> dict[str, Any]:
        """The group."""
        return self._ask("GET", _group(group_key))

    def cancel_group(self, group_key: str) -> dict[str, Any]:
        """The group's members fire no more; their history stays."""
        return self._once(_group(group_key), None, None, "DELETE")

    def _once(
        self, path: str, key: str | None, document: Any, method: str = "POST", headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        headers = {"Idempotency-Key": key or uuid.uuid4().hex, **(headers or {})}
        return self._ask(method, path, headers=headers, **({"json": document} if document is not None else {}))

    def _pages(self, path: str, where: dict[str, Any]) -> Iterator[dict[str, Any]]:
        wanted = {"limit": 200, **{name: value for name, value in where.items() if value is not None}}
        while True:
            page = self._ask("GET", path, params=wanted)
            yield from page["items"]
            if not page["next_cursor"]:
                return
            wanted["cursor"] = page["next_cursor"]

    def _ask(self, method: str, path: str, **parts: Any) -> dict[str, Any]:
        """The JSON of a good answer. Every request here may be sent twice: the key, or its meaning, sees to that."""
        give_up_s = time.monotonic() + self._patience_s
        wait_s = 0.1
        while True:
            wait_s = min(wait_s * 2, LONGEST_WAIT_S)
            try:
                response = self._http.request(method, path, **parts)
            except httpx2.TransportError as error:
                failed, pause_s = ClientError(0, {"detail": f"no answer: {error or type(error).__name__}"}), wait_s
            else:
                if response.is_success:
                    return dict(response.json())
                failed = ClientError(response.status_code, _problem(response))
                if response.status_code not in AGAIN:
                    raise failed
                pause_s = max(wait_s, min(_seconds(response.headers.get("retry-after")), LONGEST_WAIT_S))
            pause_s *= random.uniform(0.5, 1.0)
            if time.monotonic() + pause_s > give_up_s:
                raise failed
            time.sleep(pause_s)


def _sendable(fields: dict[str, Any], *, nulls: bool = False) -> dict[str, Any]:
    """The fields with their moments and days as text; those that are None are left out, unless they mean something."""
    found = {name: value for name, value in fields.items() if nulls or value is not None or name == "payload"}
    if found.get("exclude") is not None:
        found["exclude"] = [day.isoformat() if isinstance(day, date) else day for day in found["exclude"]]
    for name in (*MOMENTS, *WALLS):
        if isinstance(value := found.get(name), datetime):
            if name in MOMENTS and value.tzinfo is None:
                raise ValueError(f"{name}: a datetime without a zone; use datetime(…, tzinfo=…)")
            if name in WALLS and value.tzinfo is not None:
                raise ValueError(f"{name}: a datetime with a zone; its zone is the field timezone")
            found[name] = value.isoformat()
    return found


def _group(group_key: str) -> str:
    return f"/v1/groups/{quote(group_key, safe='')}"


def _problem(response: httpx2.Response) -> dict[str, Any]:
    try:
        found = response.json()
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"title": response.reason_phrase, "detail": response.text[:200]}


def _seconds(text: str | None) -> float:
    return float(text) if text and text.isdecimal() else 0.0
