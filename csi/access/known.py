"""What the registry said before: which digest a tag was, and which image a digest is.

An image is kept under the repository that delivered its documents: another one, which names the
same digest, must deliver them itself. Nothing of this is shown, or told, to a pod that has not
proved access to that digest.
"""

from pathlib import Path

import msgspec

from clipfs.image.digest import Digest, cache_key
from clipfs.image.model import Image
from clipfs.image.platform import Platform
from clipfs.image.reference import Reference
from clipfs.image.resolved import Resolved
from clipfs.layer.layout import Layout
from clipfs.layer.seal import KeyRing
from csi.access.memory import Memory

MOST_TAGS = 4096
MOST_IMAGES = 1024
"""A node holds some hundred; a record takes a few KB."""


class _Tag(msgspec.Struct, frozen=True):
    digest: Digest


class Known:
    """Below folder, `tags/` and `images/`."""

    def __init__(self, folder: Path, keys: KeyRing) -> None:
        self._tags = Memory(folder / "tags", _Tag, keys, most=MOST_TAGS)
        self._images = Memory(folder / "images", Resolved, keys, most=MOST_IMAGES)

    def tag(self, reference: Reference, platform: Platform) -> Digest | None:
        """What reference, a tag, was when somebody here asked last."""
        found = self._tags.read((str(reference), str(platform)))
        return found.digest if found is not None else None

    def image(self, reference: Reference, digest: Digest, platform: Platform) -> Image | None:
        """The image of a digest that reference's repository has named: an index's, or its own."""
        found = self._images.read(_image_key(reference, digest, platform))
        return found.named(reference) if found is not None else None

    def add_tag(self, reference: Reference, digest: Digest, platform: Platform) -> None:
        self._tags.write((str(reference), str(platform)), _Tag(digest))

    def add_image(self, image: Image, digest: Digest, platform: Platform) -> None:
        """image is what digest leads to, for platform, in the repository of its reference."""
        self._images.write(_image_key(image.reference, digest, platform), Resolved.of(image))


def is_indexed(layout: Layout, image: Image) -> bool:
    """Whether the node has image, were its payloads still on their way: it mounts at once."""
    return layout.image_index(cache_key(image.digest)).exists() and all(
        layout.layer_index(layer.cache_key).exists() or layout.payload(layer.cache_key).exists()
        for layer in image.layers
    )


def is_whole(layout: Layout, image: Image) -> bool:
    """Whether the node has image and all its payloads."""
    return layout.image_index(cache_key(image.digest)).exists() and all(
        layout.payload(layer.cache_key).exists() for layer in image.layers
    )


def _image_key(reference: Reference, digest: Digest, platform: Platform) -> tuple[str, ...]:
    return reference.registry, reference.repository, digest, str(platform)
