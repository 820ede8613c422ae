"""Fixtures that every part of the suite uses: a real registry, a place on a real disk."""

from collections.abc import Iterator

import pytest

from tests.support.registry import RegistryServer, run_registry


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """A real registry without authentication; the tests share it, each with its own names."""
    with run_registry(tmp_path_factory.mktemp("registry")) as server:
        yield server
