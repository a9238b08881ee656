"""The one handler of all benchmarks, Clockjack's and the peers': it appends one line, with one write.

Standard library only, as the peers import it. The line is `key attempt due_us now_us pid`, as `deploy.demo.effects`
reads it; the file is named by CLOCKJACK_EFFECTS.
"""

import os
import time

_file = -1


def mark(key: str, due_us: int, attempt: int = 1) -> None:
    """One line more is in the file: this run's handler was entered now."""
    global _file
    now_us = time.time_ns() // 1000
    if _file < 0:
        _file = os.open(os.environ["CLOCKJACK_EFFECTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(_file, f"{key} {attempt} {due_us} {now_us} {os.getpid()}\n".encode())
