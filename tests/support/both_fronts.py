"""Images of raw tars in a registry, and an image on both fronts side by side."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.support import images
from tests.support.images import Packed
from tests.support.node import Node

FRONTS = ("erofs", "fuse")


def write_layout(
    home: Path, layers: Sequence[bytes | Iterable[bytes]], codec: str = "gzip"
) -> Path:
    """An OCI layout below home whose layers are just these tars, whole or in pieces."""
    home.mkdir(parents=True, exist_ok=True)
    packed = []
    for number, layer in enumerate(layers):
        path = home / f"{number}.tar"
        with path.open("wb") as file:
            file.writelines([layer] if isinstance(layer, bytes) else layer)
        packed.append(Packed(path))
    images.write_layout(home / "oci", packed, codec=codec)
    return home / "oci"


@contextmanager
def on_both_fronts(node: Node, image: str, home: Path) -> Iterator[dict[str, Path]]:
    """front -> where the image is mounted by it."""
    places = {front: home / front for front in FRONTS}
    for front, place in places.items():
        assert node.mount(image, place, "--front", front)["front"] == front
    try:
        yield places
    finally:
        with ThreadPoolExecutor() as beside:
            list(beside.map(node.unmount, places.values()))
