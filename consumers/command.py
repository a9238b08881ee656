"""The handler `command`: a program that this consumer's operator has listed by name, with the payload's input on stdin.

Payload: {"command": "name", "input": any JSON}. What is executed is in the setting CLOCKJACK_COMMANDS alone: a payload
chooses among names, adds no argument and meets no shell. The program has a clean environment, a session and limits of
its own, and ends with all that it started: at its timeout, when its run is lost or cancelled, when this process dies.
"""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clockjack.commands import FILES, Command
from clockjack.endings import Discard, InvalidPayload
from clockjack.handlers import Run
from consumers.warden import CANNOT_EXECUTE, NOT_FOUND, OF_MB

WARDEN = str(Path(__file__).with_name("warden.py"))
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KEPT_BYTES, RESULT_CHARS, ERROR_CHARS = 8_192, 12_000, 1_000
TICK_S, END_WITHIN_S = 0.1, 3.0


class CommandError(Exception):
    """The command did not end well; the message is for people."""


def execute(run: Run, commands: Mapping[str, Command]) -> dict[str, Any]:
    """The command has ended with exit code 0; returns that and the last of what it wrote. Else raises CommandError."""
    work = run.payload if isinstance(run.payload, dict) else {}
    name = work.get("command")
    if not isinstance(name, str) or set(work) - {"command", "input"}:
        raise InvalidPayload('expected {"command": "name", "input": any JSON}')
    command = commands.get(name)
    if command is None:
        raise CommandError(f"this consumer has no command named {name[:200]!r}: see CLOCKJACK_COMMANDS")
    given = json.dumps(work["input"], ensure_ascii=False).encode("utf-8", "replace") if "input" in work else b""
    process = _started(run, command)
    try:
        stdout, stderr = _ended(process, given, run)
    except BaseException:
        _end(process)
        raise
    finally:
        for pipe in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
    return _told(name, process.returncode, stdout, stderr)


def _started(run: Run, command: Command) -> "subprocess.Popen[bytes]":
    limits = {"RLIMIT_CORE": 0, "RLIMIT_NOFILE": FILES, "RLIMIT_CPU": run.timeout_s}
    limits |= {"RLIMIT_AS": command.memory_mb * OF_MB} if command.memory_mb else {}
    limits |= {"RLIMIT_FSIZE": command.file_mb * OF_MB} if command.file_mb else {}
    spec = {"argv": command.argv, "cwd": command.cwd, "limits": limits}
    ours = {"RUN_KEY": run.key, "TASK_ID": run.task_id, "ATTEMPT": run.attempt, "DUE_AT": run.due_at.isoformat()}
    return subprocess.Popen(
        [sys.executable, "-I", "-S", WARDEN, str(os.getpid()), json.dumps(spec)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
        env={"PATH": PATH, "LANG": "C.UTF-8"} | command.env | {f"CLOCKJACK_{k}": str(v) for k, v in ours.items()},
        start_new_session=True,  # no signal for our group ends it before it has ended the others
    )


def _ended(process: "subprocess.Popen[bytes]", given: bytes, run: Run) -> tuple[bytes, bytes]:
    """The process has ended; the last of what it wrote. In short steps, so that this thread can be told to stop."""
    assert process.stdin
    assert process.stdout
    assert process.stderr
    kept = {process.stdout: bytearray(), process.stderr: bytearray()}
    with selectors.DefaultSelector() as selector:
        for pipe in (*kept, process.stdin):
            os.set_blocking(pipe.fileno(), False)
            selector.register(pipe, selectors.EVENT_WRITE if pipe is process.stdin else selectors.EVENT_READ)
        while selector.get_map() or process.poll() is None:
            if not selector.get_map():
                time.sleep(TICK_S / 5)
            for key, _ in selector.select(TICK_S) if selector.get_map() else ():
                if key.fileobj is process.stdin:
                    given = _fed(selector, process.stdin, given)
                elif part := os.read(key.fd, 65_536):
                    kept[key.fileobj] = (kept[key.fileobj] + part)[-KEPT_BYTES:]  # type: ignore[index]
                else:
                    selector.unregister(key.fileobj)
            if run.cancelled:
                raise Discard("cancelled: the command was ended")
    return bytes(kept[process.stdout]), bytes(kept[process.stderr])


def _fed(selector: selectors.BaseSelector, stdin: Any, given: bytes) -> bytes:
    """What is left of `given`; when nothing is, or nobody reads it, stdin is closed."""
    try:
        given = given[os.write(stdin.fileno(), given[:65_536]) :] if given else given
    except BlockingIOError:
        return given
    except OSError:
        given = b""
    if not given:
        selector.unregister(stdin)
        with contextlib.suppress(OSError):
            stdin.close()
    return given


def _end(process: "subprocess.Popen[bytes]") -> None:
    """The command and what it started have ended."""
    process.terminate()
    try:
        process.wait(END_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _told(name: str, code: int, stdout: bytes, stderr: bytes) -> dict[str, Any]:
    out, err = stdout.decode("utf-8", "replace"), stderr.decode("utf-8", "replace")
    if code:
        what = {CANNOT_EXECUTE: " (it cannot be executed)", NOT_FOUND: " (not found)"}.get(code, "")
        if code > 128:
            what = f" (ended by signal {code - 128})"
        last = (err.strip() or out.strip())[-ERROR_CHARS:]
        raise CommandError(f"{name} ended with exit code {code}{what}" + (f": {last}" if last else ""))
    while len(json.dumps([out, err])) > RESULT_CHARS:
        out, err = out[len(out) // 2 :], err[len(err) // 2 :]
    return {"exit_code": code, "stdout": out, "stderr": err}
