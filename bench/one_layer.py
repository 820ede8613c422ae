"""An image of one layer whose payload has just the size that the bars are about.

One file of real content: the real image's own files one after the other, so that it
compresses as images do. Built once a machine, beside the real image.
"""

import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support import images
from tests.support.real_image import CACHE, real_image

PAYLOAD_BYTES = 246_634_496
RANGE_OFFSET = 53_692_416
RANGE_BYTES = 53_248
NAME = "data"

_BLOCK = 512
FILE_BYTES = PAYLOAD_BYTES - _BLOCK - 2 * _BLOCK  # its header, and the two blocks of the end
FILE_OFFSET = RANGE_OFFSET - _BLOCK
"""Where the range lies in the file."""


def one_layer() -> Path:
    """The image's OCI layout."""
    real = real_image()
    home = CACHE / f"one-layer-{real.home.name}"
    if not home.exists():
        for stale in CACHE.glob("one-layer-*"):
            shutil.rmtree(stale)
        building = Path(tempfile.mkdtemp(dir=CACHE, prefix="one-layer-"))
        layer = images.Packed(building / "layer.tar")
        _write(layer.tar, real.reference)
        images.write_layout(building / "oci", [layer])
        layer.tar.unlink()
        building.rename(home)
    return home / "oci"


def _write(path: Path, tree: Path) -> None:
    info = tarfile.TarInfo(NAME)
    info.size = FILE_BYTES
    with path.open("wb") as out:
        out.write(info.tobuf(tarfile.USTAR_FORMAT))
        left = FILE_BYTES
        for file in files_of(tree):
            piece = file.read_bytes()[:left]
            out.write(piece)
            left -= len(piece)
            if not left:
                break
        out.write(bytes(2 * _BLOCK))
    assert path.stat().st_size == PAYLOAD_BYTES


def files_of(tree: Path) -> Iterator[Path]:
    """Regular files, by name, each inode once."""
    seen: set[int] = set()
    for folder, folders, names in os.walk(tree):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink() and path.stat().st_ino not in seen:
                seen.add(path.stat().st_ino)
                yield path
