"""What the consumers execute under chaos: it tells the receiver when it is entered and left, and fails as it is told.

Payload: {"task_key", "sleep_ms", "fail", "crash", "hang", "bytes", "leak_mb", "leak_files"}; of fail, crash and hang,
how many attempts do so.
"""

import json
import os
import resource
import signal
import threading
import time
from http.client import HTTPConnection
from typing import Any

from clockjack import Run, handler

FILES = 4096
_local = threading.local()
_leaked: list[Any] = []
# what there is to leak: the same on every machine
_most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (FILES if _most == resource.RLIM_INFINITY else min(FILES, _most), _most))


@handler("chaos")
def chaos(run: Run) -> Any:
    """Enters, does what the payload says, leaves."""
    work = run.payload
    tell(run, "enter")
    wake_s = time.monotonic() + work.get("sleep_ms", 0) / 1000
    while (left_s := wake_s - time.monotonic()) > 0:
        time.sleep(min(left_s, 0.1))
    _leaked.append(b"x" * (work.get("leak_mb", 0) * 1_000_000))
    for _ in range(work.get("leak_files", 0)):
        _leaked.append(os.open(os.devnull, os.O_RDONLY))
    if run.failures < work.get("crash", 0):
        os.kill(os.getpid(), signal.SIGKILL)
    if run.failures < work.get("hang", 0):
        time.sleep(60)  # in one piece: no exception reaches it
    if run.failures < work.get("fail", 0):
        raise RuntimeError("told to fail")
    tell(run, "leave")
    return "x" * work["bytes"] if "bytes" in work else None


def tell(run: Run, phase: str) -> None:
    """The receiver has written it down; raises when it does not answer."""
    body = json.dumps({"run_key": run.key, "attempt": run.attempt, "task_key": run.payload["task_key"], "phase": phase})
    connection = getattr(_local, "connection", None)
    if connection is None:
        connection = HTTPConnection("127.0.0.1", int(os.environ["CHAOS_RECEIVER"]), timeout=60)
    _local.connection = None  # whatever ends this call early, also from outside, leaves no half-read answer behind
    connection.request("POST", "/", body)  # never sent twice: an effect too many would be ours
    connection.getresponse().read()
    _local.connection = connection
