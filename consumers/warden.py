"""The parent of one command: `python -I -S warden.py PARENT SPEC`. What the command starts ends with it, or with us.

It is the process to which everything that the command leaves behind falls (Linux: a subreaper), so that what has made a
session of its own is found, too. It ends all when the command has ended, at SIGTERM, and when its parent dies. Only the
standard library is here, and little of it: it is started for each command.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys

SUBREAPER, PARENT_DEATH = 36, 1  # prctl
CANNOT_EXECUTE, NOT_FOUND, TOLD_TO_END = 126, 127, 143
OF_MB = 1_000_000


class End(BaseException):
    """SIGTERM came."""


def main(parent: int, spec: dict[str, object]) -> int:
    """The command and all that it started have ended; its exit code, or 128 + the signal that ended it."""
    code = TOLD_TO_END
    try:
        signal.signal(signal.SIGTERM, _end)
        if sys.platform == "linux":
            prctl = ctypes.CDLL(None).prctl
            prctl(SUBREAPER, 1)
            prctl(PARENT_DEATH, signal.SIGTERM)
        if os.getppid() != parent:  # it died before we could be told
            return code
        pid = os.fork()
        if not pid:
            _become(spec)
        while True:
            ended, status = os.wait()
            if ended == pid:
                code = os.waitstatus_to_exitcode(status)
                break
    except End:
        pass
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _end_all()
    return code if code >= 0 else 128 - code


def _end(*_: object) -> None:
    raise End


def _become(spec: dict[str, object]) -> None:
    """This process is the command, in a session of its own and within its limits."""
    argv: list[str] = spec["argv"]  # type: ignore[assignment]
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()
        for name, most in spec["limits"].items():  # type: ignore[attr-defined]
            kind = getattr(resource, name)
            _, hard = resource.getrlimit(kind)
            least = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (least, least))
        os.chdir(str(spec["cwd"]))
        os.execv(argv[0], argv)  # noqa: S606  a list of the operator's, and no shell
    except BaseException as error:
        os.write(2, f"{argv[0]}: {type(error).__name__}: {error}\n".encode(errors="replace"))
        os._exit(NOT_FOUND if isinstance(error, FileNotFoundError) else CANNOT_EXECUTE)


def _end_all() -> None:
    """No process is left below this one: who loses its parent becomes our child, and is met in the next round."""
    while True:
        for pid in _children():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            return


def _children() -> list[int]:
    """Our own, by the parents that all processes name."""
    found = []
    for name in os.listdir("/proc") if sys.platform == "linux" else ():
        if name.isdecimal():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", errors="replace") as stat:
                if int(stat.read().rpartition(")")[2].split()[1]) == os.getpid():
                    found.append(int(name))
    return found


if __name__ == "__main__":
    os._exit(main(int(sys.argv[1]), json.loads(sys.argv[2])))
