"""The real image's wheels in three layers of their own, for peers that do not link across layers.

containerd unpacks each layer alone, so a hard link to a file of a lower layer fails there.
Built once a machine, beside the real image.
"""

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.support import images
from tests.support.layer_tar import Layer
from tests.support.real_image import CACHE, TOP, WHEELS, download, real_image

FIRST_FILE = f"{TOP}/numpy/__init__.py"
"""What is read as soon as the tree is there."""


@dataclass(frozen=True, slots=True)
class Wheels:
    """Where the built image lies."""

    home: Path

    @property
    def layout(self) -> Path:
        return self.home / "oci"

    @property
    def payload_bytes(self) -> int:
        return int(json.loads((self.home / "payload.json").read_text()))


def wheels() -> Wheels:
    """The image, built now if this machine does not have it yet."""
    home = CACHE / f"wheels-{real_image().home.name}"
    if not home.exists():
        for stale in CACHE.glob("wheels-*"):
            shutil.rmtree(stale)
        building = Path(tempfile.mkdtemp(dir=CACHE, prefix="wheels-"))
        _build(building)
        building.rename(home)
    return Wheels(home)


def _build(home: Path) -> None:
    packed = []
    for number, names in enumerate(WHEELS):
        layer = Layer(home / f"{number}.tar", owner=(0, 0), lower={})
        for wheel in download(names, home / "downloaded" / str(number)):
            layer.unzip(wheel, TOP)
        packed.append(layer.close()[0])
    images.write_layout(home / "oci", packed)
    (home / "payload.json").write_text(json.dumps(sum(one.tar.stat().st_size for one in packed)))
    shutil.rmtree(home / "downloaded")
    for one in packed:
        one.tar.unlink()
