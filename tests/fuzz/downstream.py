"""What becomes of a layer's entries: a merged tree, its image, and that image read back."""

from collections.abc import Sequence

from clipfs import errors
from clipfs.layer.index import Entry
from clipfs.tree.merge import merge
from clipfs.tree.writer import write_image
from tests.fuzz.images import Walk
from tests.fuzz.judge import expect_plain, expect_same
from tests.support.entries import devices_of


def read_back(entries: Sequence[Entry], payload_bytes: int) -> bool:
    """Whether entries make a tree; if so, its image answers every question."""
    try:
        root = merge([entries])
    except errors.CorruptImage as error:
        expect_plain(error)
        return False
    walk = Walk(bytes(write_image(root, devices_of(1, payload_bytes))))
    expect_same(walk.refusals, 0, "an image of our own that cannot be read")
    return True
