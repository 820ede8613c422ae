"""Figures of tests that a run must show: in how many places a fault was met, what a kill hit.

The end of the run lists them, passed tests' too, whichever process a test ran in. A conftest
takes both names from here.
"""

from collections.abc import Callable

import pytest

Say = Callable[[str], None]

_KEY = "said"


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Say:
    """Adds a line, or some, to what the run says of this test."""

    def said(text: str) -> None:
        request.node.user_properties.append((_KEY, text))

    return said


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    found = [
        (report.nodeid, text)
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for key, text in report.user_properties
        if key == _KEY
    ]
    if found:
        terminalreporter.section("said by tests")
    last = ""
    for test, text in found:
        if test != last:
            terminalreporter.write_line(test)
        for line in str(text).splitlines():
            terminalreporter.write_line(f"  {line}")
        last = test
