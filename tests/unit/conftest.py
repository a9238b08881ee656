"""The end of a run of the unit tests says how much the oracle has compared."""

import pytest

from tests.unit import cron_oracle


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    windows, differences = cron_oracle.compared.values()
    if windows:
        terminalreporter.write_line(f"cron oracle: {windows} windows, {differences} differences")
