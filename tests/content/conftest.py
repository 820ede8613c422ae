"""A content cache as a process; the tests share it, each with keys of its own."""

import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.support.content import ContentServer, key_of, run_content_server

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContentServer]:
    with run_content_server(tmp_path_factory.mktemp("content")) as running:
        yield running


@pytest.fixture
def fresh_key() -> Callable[[], str]:
    """Keys of pages that nobody has used."""
    return lambda: key_of(next(_NUMBERS))


@pytest.fixture
def layer(fresh_key: Callable[[], str]) -> str:
    """The cache key of a layer that nobody has used."""
    return fresh_key().partition("/")[0]


@pytest.fixture
def key(fresh_key: Callable[[], str]) -> str:
    return fresh_key()
