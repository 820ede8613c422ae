"""The targets by name, and what to know of each before it is imported."""

from typing import NamedTuple


class Spec(NamedTuple):
    """modules are instrumented; inputs have at most max_bytes."""

    modules: tuple[str, ...]
    max_bytes: int


_TREE = (
    "clipfs.tree.reader",
    "clipfs.tree.superblock",
    "clipfs.tree.chunk_table",
    "clipfs.tree.xattrs",
    "clipfs.tree.folder",
    "clipfs.tree.erofs",
)

SPECS = {
    "reference": Spec(("clipfs.image.reference", "clipfs.image.digest"), 400),
    "manifest": Spec(
        ("clipfs.image.manifest", "clipfs.image.platform", "clipfs.image.digest"), 8192
    ),
    "tar": Spec(
        (
            "clipfs.layer.archive.tar",
            "clipfs.layer.archive.member",
            "clipfs.layer.sparse",
            "clipfs.layer.archive.sparse_formats",
            "clipfs.layer.archive.sparse_members",
            "clipfs.layer.archive.pax",
            "clipfs.layer.archive.header",
            "clipfs.layer.archive.names",
            "clipfs.tree.merge",
        ),
        16384,
    ),
    "codec": Spec(("clipfs.layer.codec",), 16384),
    "layer_index": Spec(
        (
            "clipfs.layer.index",
            "clipfs.layer.sparse",
            "clipfs.tree.merge",
            "clipfs.tree.node",
            "clipfs.tree.sparse",
            "clipfs.tree.writer",
            *_TREE,
        ),
        8192,
    ),
    "erofs": Spec((*_TREE, "clipfs.tree.paths"), 16384),
    "head": Spec(("clipfs.content.head",), 4096),
    "connection": Spec(
        (
            "clipfs.content.connection",
            "clipfs.content.head",
            "clipfs.content.objects",
            "clipfs.content.claiming",
            "clipfs.content.hot",
            "clipfs.content.ranges",
            "clipfs.content.incoming",
            "clipfs.content.keys",
            "clipfs.content.tokens",
        ),
        40960,
    ),
}
"""Target -> spec; `tests.fuzz.targets.<target>` is the module."""
