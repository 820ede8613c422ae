"""What a registry has said that a name is: kept, or told by one process to another, as JSON.

    data = msgspec.json.encode(Resolved.of(image))
    image = load(path, reference)

Not here: an image as documents (`clipfs.image.manifest`).
"""

from pathlib import Path
from typing import Self

import msgspec

from clipfs import errors
from clipfs.image.digest import Digest
from clipfs.image.model import Image, Layer
from clipfs.image.reference import Reference


class Resolved(msgspec.Struct, frozen=True):
    """An image without the reference that led to it."""

    digest: Digest
    layers: tuple[Layer, ...]

    @classmethod
    def of(cls, image: Image) -> Self:
        return cls(image.digest, image.layers)

    def named(self, reference: Reference) -> Image:
        return Image(reference=reference, digest=self.digest, layers=self.layers)


def load(path: Path, reference: Reference) -> Image:
    """InvalidInput if path does not tell the image whose digest reference names."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Resolved)
    except (OSError, ValueError) as error:  # msgspec's and UTF-8's
        raise errors.InvalidInput(f"--resolved {path}: {error}") from error
    if found.digest != reference.digest:
        raise errors.InvalidInput(f"--resolved {path}: it is not the image {reference}")
    return found.named(reference)
