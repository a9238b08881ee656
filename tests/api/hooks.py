"""What the description of the API cannot tell a generator: texts of our formats, and fields that must fit one another.

Loaded by schemathesis. A request that is meant to be good and has such fields is mended before it is sent; one that is
meant to be bad is sent as it is.
"""

import os
import secrets
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

import schemathesis
from hypothesis import strategies as st

ENDPOINT, TASK_NAME, PREFIXES_NAME = "tried", "CLOCKJACK_TRIED_TASK_ID", "CLOCKJACK_TRIED_WITH"
TASK_ID = int(os.environ.get(TASK_NAME, "1"))
PREFIXES = os.environ.get(PREFIXES_NAME, "").split()  # of the keys that ask
RESERVED = {"host", "content-length", "idempotency-key", "user-agent", "accept-encoding", "expect"}
RESERVED |= {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
KINDS = ("run_at", "run_at_local", "cron", "every_s", "rrule", "in_s")

moments = st.datetimes(datetime(2030, 1, 1), datetime(2180, 1, 1)).map(lambda at: at.isoformat(timespec="milliseconds"))
days = st.dates(datetime(2005, 1, 1).date(), datetime(2020, 1, 1).date()).map(str)  # nothing of the future is left out
FORMATS = {
    "date-time": st.builds(str.__add__, moments, st.sampled_from(("Z", "+01:00", "-09:30"))),
    "local-date-time": moments,
    "cron": st.one_of(
        st.sampled_from(("@daily", "0 9 * * MON-FRI", "*/7 * * * *", "H H * * *", "30 4 1,15 * 5", "*/5 * * * * *")),
        st.builds("{} {} * * *".format, st.integers(0, 59), st.integers(0, 23)),
    ),
    "rrule": st.sampled_from(("FREQ=DAILY", "FREQ=WEEKLY;BYDAY=MO,TH;BYHOUR=9;BYMINUTE=0", "FREQ=HOURLY;INTERVAL=5")),
    "time-zone": st.sampled_from(("UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe")),
    "dates": st.one_of(days, days.map(lambda day: f"{day}/2020-02-01")),
    "printable": st.text(st.sampled_from("abzAZ09 -_#/.:äß漢🎈"), min_size=1, max_size=40).map(
        lambda s: s.strip() or "x"
    ),
    "path-key": st.text(st.sampled_from("abzAZ09 -_#:äß漢🎈"), min_size=1, max_size=20).map(lambda s: s.strip() or "x"),
    "cursor": st.integers(0, 2**62).map(lambda n: urlsafe_b64encode(f"1.{n}".encode()).decode().rstrip("=")),
    "public-url": st.builds(
        "{}://{}/{}".format,
        st.sampled_from(("http", "https")),
        st.sampled_from(("example.com", "hooks.example.org:8443", "93.184.215.14", "[2606:2800:21f::1]")),
        st.text(st.sampled_from("abc/?=&é%"), max_size=20),
    ),
}
for name, strategy in FORMATS.items():
    schemathesis.openapi.format(name, strategy)


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """A good request is good for our code, too; and what others need stays there."""
    if (case.method, (case.path_parameters or {}).get("name")) == ("DELETE", ENDPOINT):
        case.path_parameters["name"] = "another"
    if case.method != "GET" and (case.path_parameters or {}).get("key_prefix") in PREFIXES:
        case.path_parameters["key_prefix"] = "another"
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    key = (case.headers or {}).get("Idempotency-Key")
    if key:  # the same key with another request is refused, whatever is in that
        case.headers["Idempotency-Key"] = secrets.token_hex(16)
    if isinstance(case.body, dict):
        mend(f"{case.method} {case.operation.path}", case.body)


def mend(operation: str, body: dict[str, Any]) -> None:
    """What no schema can say of this body is as it must be."""
    _fit(body)
    now = datetime.now(UTC)
    if operation.endswith("/backfill"):  # of the past, and no more than 1,000 occurrences
        body |= {"from": _text(now - timedelta(seconds=120)), "to": _text(now - timedelta(seconds=60))}
    elif operation.endswith("/simulate"):  # an end after its beginning, and no more than 1,000 rows
        body |= {"from": "2031-01-01T00:00:00Z", "to": "2031-01-01T00:10:00Z"}
        for one in body.get("outages", ()):
            one |= {"from": "2031-01-01T00:01:00Z", "to": "2031-01-01T00:02:00Z"}
    elif operation == "PUT /v1/tasks/by-key/{task_key}":  # the one of the URL
        body.pop("task_key", None)
    elif operation == "POST /v1/keys" and body.get("per_second") is not None and body.get("burst") is not None:
        body["burst"] = 100_000  # no less than a second lets through
    elif operation == "POST /v1/expectations":  # what it names must be there
        body["endpoint"] = ENDPOINT
        if body.get("task_id") is not None:
            body["task_id"] = TASK_ID
    elif operation == "PATCH /v1/tasks/{task_id}":  # judged together with what the task has
        for name in ("limit_key", "max_concurrent", "per_second"):
            body.pop(name, None)
        body |= dict.fromkeys(("start_at", "end_at", "dst_fold"))
        for name in KINDS:
            if body.get(name, "") is None:
                del body[name]
        body.setdefault("name", "mended")
    elif operation == "POST /v1/tasks/bulk":  # no two of one task_key
        for number, one in enumerate(body["tasks"]):
            if isinstance(one, dict):
                _fit(one)
                if isinstance(one.get("task_key"), str):
                    one["task_key"] = f"{number}-{one['task_key']}"[:200].strip()


def _fit(body: dict[str, Any]) -> None:
    """An end is after the beginning; no header is ours, or there in another spelling, too."""
    if any(body.get(name) is not None for name in ("run_at", "run_at_local", "in_s")):
        body.pop("start_at", None)
    if isinstance(body.get("end_at"), str):
        body["end_at"] = "2199-12-30T00:00:00Z"
    if isinstance(body.get("headers"), dict):
        kept = {name.lower(): value for name, value in body["headers"].items()}
        body["headers"] = {
            name: value
            for name, value in kept.items()
            if name not in RESERVED and not name.startswith(("proxy-", "webhook-"))
        }


def _text(when: datetime) -> str:
    return when.isoformat(timespec="seconds").replace("+00:00", "Z")
