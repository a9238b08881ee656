"""Every request of the API as a value, made from what a caller in Python gives. Pure; both clients send these.

Each may be sent twice: what registers carries an Idempotency-Key, and what does not means the same again.
"""

import uuid
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from clockjack.answers import (
    Backfilled,
    Controlled,
    Group,
    Page,
    Task,
    TaskRun,
)
from clockjack.outlook import Explanation, Forecast, QueueState, QueueStates
from clockjack.sending import instant, sendable
from clockjack.telemetry import wall_clock

T = TypeVar("T")
PAGE = 200


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request whose good answer is a T."""

    method: str
    path: str
    params: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    document: Any = None

    def parts(self) -> dict[str, Any]:
        """The request as an HTTP client takes it."""
        body = {} if self.document is None else {"json": self.document}
        return {"method": self.method, "url": self.path, "params": self.params, "headers": self.headers, **body}


Talk = Generator[Call[Any], Any, T]  # gives a request, gets its answer, and so on


def following(call: Call[Page[T]], page: Page[T]) -> Call[Page[T]] | None:
    """The request for the page after this one."""
    cursor = page["next_cursor"]
    return replace(call, params={**call.params, "cursor": cursor}) if cursor else None


def schedule(
    handler: str,
    payload: Any = None,
    *,
    run_at: datetime | None = None,
    in_s: float | None = None,
    idempotency_key: str | None = None,
    **fields: Any,
) -> Call[Task]:
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
    return _once("/v1/tasks", idempotency_key, sendable(document))


def schedule_many(
    tasks: Sequence[dict[str, Any]], *, atomic: bool = True, idempotency_key: str | None = None
) -> Call[dict[str, Any]]:
    """Up to 1,000 tasks are registered by one request, each a dictionary of what `schedule` takes.

    All or none; with `atomic` false each for itself, and the answer has the problem of each that is refused.
    """
    document = {"tasks": [sendable(task) for task in tasks], "atomic": atomic}
    return _once("/v1/tasks/bulk", idempotency_key, document)


def get(task_id: int) -> Call[Task]:
    """The task."""
    return Call("GET", f"/v1/tasks/{task_id}")


def put_task(
    task_key: str,
    handler: str,
    payload: Any = None,
    *,
    if_version: int | None = None,
    if_new: bool = False,
    idempotency_key: str | None = None,
    **fields: Any,
) -> Call[Task]:
    """The task of this `task_key` has exactly these values, of the fields that `schedule` takes; returns it.

    With `if_version` only if it is of that version, with `if_new` only if there is none: else ClientError 412.
    """
    call: Call[Task] = schedule(handler, payload, idempotency_key=idempotency_key, **fields)
    if if_version is not None:
        call.headers["If-Match"] = f'"{if_version}"'
    if if_new:
        call.headers["If-None-Match"] = "*"
    return replace(call, method="PUT", path=_keyed(task_key))


def task_by_key(task_key: str) -> Call[Task]:
    """The task of this `task_key`, also a cancelled one."""
    return Call("GET", _keyed(task_key))


def cancel_by_key(task_key: str) -> Call[Task]:
    """The task of this `task_key` fires no more; its history stays."""
    return _once(_keyed(task_key), None, None, "DELETE")


def explain(task_id: int) -> Call[Explanation]:
    """The task in sentences: `schedule`, `state`, `next`, `recent` runs and `warnings`."""
    return Call("GET", f"/v1/tasks/{task_id}/explain")


def tasks(**where: Any) -> Call[Page[Task]]:
    """All tasks, the newest first, without payloads; read page by page.

    `where`: state, handler, queue, task_key (a prefix), tag, group_key.
    """
    return Call("GET", "/v1/tasks", _wanted(where | {"limit": PAGE}))


def pause(task_id: int) -> Call[Task]:
    """The task starts nothing until it is resumed."""
    return _once(f"/v1/tasks/{task_id}/pause", None, None)


def resume(task_id: int, *, catch_up: bool = False) -> Call[Task]:
    """The task is active again; with `catch_up` what its pause missed is due, as far as its `misfire` says."""
    return _once(f"/v1/tasks/{task_id}/resume", None, {"catch_up": catch_up})


def edit(
    task_id: int, *, if_version: int | None = None, idempotency_key: str | None = None, **fields: Any
) -> Call[Task]:
    """The task has these values, of the fields that `schedule` takes; None resets one to its default.

    A dictionary as `payload` is merged into the one that is there (RFC 7396). With `if_version` only if the task is
    of that version: else ClientError 412.
    """
    call: Call[Task] = _once(f"/v1/tasks/{task_id}", idempotency_key, sendable(fields, nulls=True), "PATCH")
    if if_version is not None:
        call.headers["If-Match"] = f'"{if_version}"'
    return call


def control(action: str, *, dry_run: bool = False, **parts: Any) -> Talk[Controlled]:
    """`action` (pause, resume, cancel, run, edit) is done to all that match: {matched, changed, refused}.

    `parts`: the filter (task_key, a prefix; handler, queue, tag, group_key, state) or `all=True`; with resume
    `catch_up`; with edit `set`, a dictionary of fields.
    """
    document: dict[str, Any] = {"action": action, "dry_run": dry_run}
    document |= {name: parts.pop(name) for name in ("all", "catch_up", "set") if name in parts}
    if "set" in document:
        document["set"] = sendable(document["set"], nulls=True)
    if parts:
        document["filter"] = parts
    total = Controlled(matched=0, changed=0, refused=[])
    while True:
        page: Controlled = yield _once("/v1/tasks/control", None, dict(document))
        total["matched"] += page["matched"]
        total["changed"] += page["changed"]
        total["refused"] += page["refused"]
        if not page["next_cursor"]:
            return total
        document["cursor"] = page["next_cursor"]


def backfill(
    task_id: int,
    since: datetime,
    to: datetime,
    *,
    per_s: int = 10,
    dry_run: bool = False,
    idempotency_key: str | None = None,
) -> Call[Backfilled]:
    """The task's occurrences from `since` to `to` that had no run have one; with `dry_run` they are only listed."""
    document = {"from": since, "to": to, "per_s": per_s, "dry_run": dry_run}
    return _once(f"/v1/tasks/{task_id}/backfill", idempotency_key, sendable(document))


def cancel(task_id: int) -> Call[Task]:
    """The task fires no more; its history stays."""
    return _once(f"/v1/tasks/{task_id}", None, None, "DELETE")


def run_now(task_id: int, *, idempotency_key: str | None = None) -> Call[TaskRun]:
    """One more run of the task is due now; returns the run."""
    return _once(f"/v1/tasks/{task_id}/run", idempotency_key, None)


def runs(task_id: int | None = None, **where: Any) -> Call[Page[TaskRun]]:
    """The task's runs, the latest due first; or those of all tasks that are `where` says; read page by page."""
    path = "/v1/runs" if task_id is None else f"/v1/tasks/{task_id}/runs"
    return Call("GET", path, _wanted(where | {"limit": PAGE}))


def run(run_id: int) -> Call[TaskRun]:
    """The run, with its attempts that did not succeed."""
    return Call("GET", f"/v1/runs/{run_id}")


def retry_run(run_id: int, *, idempotency_key: str | None = None) -> Call[TaskRun]:
    """The run that has failed is tried again."""
    return _once(f"/v1/runs/{run_id}/retry", idempotency_key, None)


def cancel_run(run_id: int, *, idempotency_key: str | None = None) -> Call[TaskRun]:
    """The run is over, or is told to end if it is at work."""
    return _once(f"/v1/runs/{run_id}/cancel", idempotency_key, None)


def queues() -> Call[QueueStates]:
    """The queues that are paused, hold something or are served: what is due, waits and runs in each."""
    return Call("GET", "/v1/queues")


def pause_queue(queue: str) -> Call[QueueState]:
    """Nothing of the queue starts until it is resumed; needs a key with the scope admin."""
    return _once(f"/v1/queues/{quote(queue, safe='')}/pause", None, None)


def resume_queue(queue: str) -> Call[QueueState]:
    """The queue starts what is due; needs a key with the scope admin."""
    return _once(f"/v1/queues/{quote(queue, safe='')}/resume", None, None)


def forecast(*, bucket: str = "1m", begin: datetime | None = None, buckets: int | None = None) -> Call[Forecast]:
    """The coming load: how many tasks are due in each second (`1s`) or minute (`1m`) from `begin` (now) on."""
    since = None if begin is None else instant("begin", begin)
    return Call("GET", "/v1/forecast", _wanted({"bucket": bucket, "from": since, "buckets": buckets}))


def put_group(
    group_key: str,
    handler: str,
    payload: Any = None,
    *,
    offsets_s: Sequence[int],
    idempotency_key: str | None = None,
    **fields: Any,
) -> Call[Group]:
    """The group has exactly these members; returns it, with `warnings`.

    When: `anchor_at` (an aware datetime), or `anchor_at_local` (without a zone) with `timezone`. `fields` are the
    columns of a one-time task.
    """
    document = {"handler": handler, "payload": payload, "offsets_s": [*offsets_s], **fields}
    return _once(_group(group_key), idempotency_key, sendable(document), "PUT")


def move_group(group_key: str, *, idempotency_key: str | None = None, **anchor: Any) -> Call[Group]:
    """The group's members lie at their offsets from another `anchor_at`, or `anchor_at_local` (and `timezone`)."""
    return _once(_group(group_key) + "/move", idempotency_key, sendable(anchor))


def group(group_key: str) -> Call[Group]:
    """The group."""
    return Call("GET", _group(group_key))


def cancel_group(group_key: str) -> Call[Group]:
    """The group's members fire no more; their history stays."""
    return _once(_group(group_key), None, None, "DELETE")


def _once(path: str, key: str | None, document: Any, method: str = "POST") -> Call[Any]:
    return Call(method, path, headers={"Idempotency-Key": key or uuid.uuid4().hex}, document=document)


def _wanted(where: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in where.items() if value is not None}


def _keyed(task_key: str) -> str:
    return f"/v1/tasks/by-key/{quote(task_key, safe='')}"


def _group(group_key: str) -> str:
    return f"/v1/groups/{quote(group_key, safe='')}"
