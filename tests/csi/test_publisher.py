"""Making a volume while somebody makes room: what the node has of its image stays."""

from pathlib import Path

import pytest

from clipfs import errors
from clipfs.cache.collect import collect
from clipfs.cache.limits import Limits
from clipfs.image.credentials import RegistryConfig
from clipfs.image.digest import Digest, cache_key
from clipfs.image.model import Image, Layer
from clipfs.image.platform import host_platform
from clipfs.image.reference import parse_reference
from clipfs.layer.layout import Layout
from csi.mounter import Tree, Watch
from csi.publisher import Publisher
from csi.status.reporter import NoReporter
from csi.volume import Volume

LAYER = Layer(digest=Digest(f"sha256:{'a' * 64}"), size=1, media_type="", diff_id=None)
IMAGE = Image(
    reference=parse_reference("h.io/a:1"), digest=Digest(f"sha256:{'b' * 64}"), layers=(LAYER,)
)


class Pressed:
    """A node whose limits want everything gone, just when an image is to be mounted."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def mount(self, image: Image, *, front: str, credentials: RegistryConfig, watch: Watch) -> Tree:
        collect(self._layout, Limits(max_bytes=0))
        left = [layer for layer in image.layers if self._layout.payload(layer.cache_key).exists()]
        raise errors.NodeFault(f"{len(left)} layers are left")

    def unmount(self, digest: Digest) -> None:
        pass

    def mounted(self) -> list[Digest]:
        return []


def test_what_never_was_promised_by_is_not_evicted_before_it_is_mounted(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "root")
    layout.make()
    layout.payload(LAYER.cache_key).write_bytes(b"payload")
    layout.image_index(cache_key(IMAGE.digest)).write_bytes(b"index")
    publisher = Publisher(
        layout, Pressed(layout), lambda *_: IMAGE, RegistryConfig.empty(), NoReporter()
    )
    volume = Volume(
        volume_id="v", target=tmp_path / "target", image=IMAGE.reference, pull_policy="Never",
        platform=host_platform(), front="auto", attributes={}, pod=None,
        credentials=RegistryConfig.empty(),
    )  # fmt: skip
    with pytest.raises(errors.NodeFault, match="1 layers are left"):
        publisher.publish(volume)
    assert list(layout.run.glob("*.use")) == []
    assert len(collect(layout, Limits(max_bytes=0)).removed) == 2
