"""A FUSE front that serves the torture image, in a process of its own."""

from collections.abc import Iterator

import pytest

from tests.mount.served import Served, serving
from tests.tree.torture import torture


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The torture image, mounted; the module's tests share it."""
    made = torture()
    with serving(made.image(), made.payloads, tmp_path_factory.mktemp("fuse")) as found:
        yield found
