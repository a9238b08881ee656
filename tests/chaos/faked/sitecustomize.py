"""First on the path of a process under libfaketime, whose clock_nanosleep refuses the monotonic clock."""

import select
import time


def sleep(seconds: float) -> None:
    """As time.sleep, on the real clock."""
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    select.select([], [], [], seconds)


time.sleep = sleep
