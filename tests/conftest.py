"""How a run is spread over processes (`-n auto`), and what it says at its end about all of them.

Each process has servers of its own (tests/integration/conftest.py). `xdist_group("heavy")` marks what loads both cores
or times a guarantee: never are two of those at work at once.
"""

import os
from collections import Counter
from typing import Any

import pytest

from tests import said

MOST = 4  # processes: each starts a database and a Redis


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """`-n auto`: a process for each core; none beside this one on a server of one's own, which holds one database."""
    if os.environ.get("CLOCKJACK_TEST_MYSQL_URL"):
        return 0
    return min(os.cpu_count() or 1, MOST)


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("CLOCKJACK_TEST_MYSQL_URL") and config.getoption("numprocesses", None):
        raise pytest.UsageError("CLOCKJACK_TEST_MYSQL_URL is one database, which each test empties: leave out -n")


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["said"] = (dict(said.compared), sorted(said.lines))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    compared, lines = getattr(node, "workeroutput", {}).get("said", ({}, ()))
    said.compared.update(Counter(compared))
    said.lines.update(lines)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in sorted(said.lines):
        terminalreporter.write_line(line)
    if said.compared["windows"]:
        windows, differences = said.compared["windows"], said.compared["differences"]
        terminalreporter.write_line(f"cron oracle: {windows} windows, {differences} differences")
