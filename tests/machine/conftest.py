"""A node of the test's own, for those that need one only; a real object store."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.node import Node
from tests.support.registry import RegistryServer
from tests.support.s3_server import s3_server

__all__ = ["s3_server"]


@pytest.fixture
def node(tmp_path: Path, registry: RegistryServer) -> Iterator[Node]:
    found = Node(tmp_path / "root", ["--plain-http", registry.address])
    try:
        yield found
    finally:
        found.close()
