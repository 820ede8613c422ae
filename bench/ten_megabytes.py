"""An image of one layer of real content that has 10 MB once it is compressed.

Small files of the real image, so that its index has what indexes have; and one file of the real
image's libraries, one after the other, up to the 10 MB. That one is what is read. Built once a
machine, beside the real image.
"""

import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.one_layer import files_of
from tests.support import images
from tests.support.layer_tar import Layer
from tests.support.real_image import CACHE, real_image

COMPRESSED_BYTES = 10_000_000
NAME = "data"

_SMALL_BYTES = 16 << 10
_SMALL_FILES = 1_000
_PIECE_BYTES = 4 << 10


@dataclass(frozen=True, slots=True)
class TenMegabytes:
    """Where the built image lies; `data` is what its file NAME holds."""

    home: Path

    @property
    def layout(self) -> Path:
        return self.home / "oci"

    @property
    def data(self) -> Path:
        return self.home / NAME


def ten_megabytes() -> TenMegabytes:
    """The image, built now if this machine does not have it yet."""
    real = real_image()
    home = CACHE / f"ten-megabytes-{real.home.name}"
    if not home.exists():
        for stale in CACHE.glob("ten-megabytes-*"):
            shutil.rmtree(stale)
        building = Path(tempfile.mkdtemp(dir=CACHE, prefix="ten-megabytes-"))
        _build(building, real.reference)
        building.rename(home)
    return TenMegabytes(home)


def _build(home: Path, tree: Path) -> None:
    files = list(files_of(tree))
    small = [path for path in files if path.stat().st_size <= _SMALL_BYTES][:_SMALL_FILES]
    layer = Layer(home / "layer.tar", owner=(0, 0), lower={})
    for path in small:
        layer.file(layer.member(str(path.relative_to(tree))), path.read_bytes())
    libraries = [path for path in files if ".so" in path.name]
    data = _filling((home / "layer.tar").read_bytes(), _pieces(libraries))
    layer.file(layer.member(NAME), data)
    packed, _ = layer.close()
    images.write_layout(home / "oci", [packed])
    (home / NAME).write_bytes(data)
    packed.tar.unlink()


def _filling(before: bytes, pieces: Iterable[bytes]) -> bytes:
    """As many of pieces as bring a layer that begins so to COMPRESSED_BYTES."""
    packer = zlib.compressobj(images.GZIP_LEVEL, wbits=31)
    packed_bytes, data = len(packer.compress(before)), bytearray()
    for piece in pieces:
        packed_bytes += len(packer.compress(piece))
        data += piece
        if packed_bytes + len(packer.copy().flush()) >= COMPRESSED_BYTES:
            return bytes(data)
    raise AssertionError("the real image is too small")


def _pieces(paths: Iterable[Path]) -> Iterator[bytes]:
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                yield piece
