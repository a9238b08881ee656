"""Importing this makes the importing process die with its parent (Linux); the fork server preloads it.

The fork server would otherwise live as long as its children do: they hold the end of the pipe that tells it that the
consumer is gone: a handler would go on after the process that holds its lease.
"""

import ctypes
import os
import signal
import sys

SERVER = os.getpid()  # the fork server's, in each of its children, too


def die_with_parent() -> None:
    """The kernel kills this process when the thread that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def die_with_server() -> None:
    """A child of the fork server dies with it, also when that has just happened."""
    die_with_parent()
    if os.getppid() != SERVER:
        os._exit(1)


die_with_parent()
