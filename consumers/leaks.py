"""What handlers leak has an end: a consumer that has too little left is told so, and gives its place to a new one."""

import os
import resource
import sys
from pathlib import Path

OF_RSS = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss, in bytes
FILES_SHARE = 0.9
_STATM, _PAGE = Path("/proc/self/statm"), os.sysconf("SC_PAGE_SIZE")


def leaking(memory_mb: int) -> str | None:
    """Why this process should end before it must: its memory is above `memory_mb` (0: no limit), or its files run out.

    At its limit of open files a process can neither connect nor accept: all its handlers would fail.
    """
    used_mb = memory_bytes() / 1e6
    if memory_mb and used_mb > memory_mb:
        return f"{used_mb:.0f} MB of memory, CLOCKJACK_MEMORY_MB is {memory_mb}"
    most, files = resource.getrlimit(resource.RLIMIT_NOFILE)[0], open_files()
    if most != resource.RLIM_INFINITY and files > FILES_SHARE * most:
        return f"{files} open files, the limit is {most}"
    return None


def memory_bytes() -> int:
    """The resident memory of this process; where the system does not tell it, its peak."""
    try:
        return int(_STATM.read_text().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return peak_bytes()


def peak_bytes() -> int:
    """The most resident memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * OF_RSS


def open_files() -> int:
    """How many file descriptors of this process are open; 0 where the system does not tell."""
    try:
        return len(os.listdir("/dev/fd"))
    except OSError as error:
        return 10**9 if error.errno == 24 else 0  # EMFILE: not even this one could be opened
