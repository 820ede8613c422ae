"""Fixtures that every part of the suite uses: a real registry, a way to say figures."""

import signal
from collections.abc import Iterator

import pytest

from tests.support.registry import RegistryServer, run_registry
from tests.support.said import pytest_terminal_summary, say

__all__ = ["pytest_terminal_summary", "say"]


def pytest_configure() -> None:
    """What a shell's `&` had ignored is as in a terminal, for all that the tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def log_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command's options that a test parses must not set up the log of all tests after it."""
    monkeypatch.setattr("clipfs.cli.logs.configure", lambda *_: None)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """A real registry without authentication; the tests share it, each with its own names."""
    with run_registry(tmp_path_factory.mktemp("registry")) as server:
        yield server
