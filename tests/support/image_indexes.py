"""Image indexes on a node's disk, as users find them."""

from pathlib import Path

from tests.support.node import Node

MARK = slice(1072, 1088)
"""Where one that another node has merged is marked."""


def image_indexes(node: Node) -> list[bytes]:
    """What the node's have, in the order of their names, whoever has merged them."""
    return [_unmarked(path) for path in sorted((node.root / "index").glob("*.erofs"))]


def _unmarked(path: Path) -> bytes:
    data = bytearray(path.read_bytes())
    data[MARK] = bytes(MARK.stop - MARK.start)
    return bytes(data)
