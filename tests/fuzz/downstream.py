"""What becomes of a layer's entries: a merged tree, its image, and that image read back."""

from collections.abc import Sequence

from clipfs import errors
from clipfs.layer.index import Entry
from clipfs.layer.sparse import SparseMap
from clipfs.tree.merge import merge
from clipfs.tree.sparse import layout_of
from clipfs.tree.superblock import Device
from clipfs.tree.writer import write_image
from tests.fuzz.images import Walk
from tests.fuzz.judge import expect_plain, expect_same
from tests.support.entries import devices_of


def read_back(
    entries: Sequence[Entry], payload_bytes: int, sparse: Sequence[SparseMap] = ()
) -> bool:
    """Whether entries make a tree; if so, its image answers every question."""
    try:
        root = merge([entries])
        (device,) = devices_of(1, payload_bytes)
        device = Device(
            digest=device.digest, payload_bytes=payload_bytes, sparse=layout_of(tuple(sparse))
        )
    except errors.CorruptImage as error:
        expect_plain(error)
        return False
    walk = Walk(bytes(write_image(root, [device])))
    expect_same(walk.refusals, 0, "an image of our own that cannot be read")
    return True
