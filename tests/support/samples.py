"""One layer in every form that the tiers know: payload, blob, index, an image in a registry."""

import hashlib
import io
import random
import tarfile
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from clipfs.image.digest import Digest
from clipfs.image.model import Layer
from clipfs.layer.index import CHUNK_BYTES, PackedEntries, make_index
from clipfs.tiers.tier import Extent, IndexedLayer
from tests.support import images
from tests.support.images import Packed


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A layer whose every byte the test knows. `tar` holds the payload."""

    tar: Path
    codec: str
    payload: bytes
    indexed: IndexedLayer

    @property
    def layer(self) -> Layer:
        return self.indexed.layer

    @property
    def key(self) -> str:
        return self.indexed.cache_key

    def bytes_of(self, extent: Extent) -> bytes:
        return self.payload[extent.offset : extent.end]

    def push(self, registry: str, name: str) -> str:
        """Push an image of just this layer; its reference."""
        layout = self.tar.with_name(f"{self.tar.name}.oci")
        if not layout.exists():
            images.write_layout(layout, [Packed(self.tar)], codec=self.codec)
        return images.push(layout, registry, name)


def make_sample(
    tar: Path, *, content_bytes: int, seed: int = 0, codec: str = "plain", name: str = "content"
) -> Sample:
    """A layer with one file of content_bytes random bytes; the same for the same seed."""
    content = random.Random(seed).randbytes(content_bytes)
    with tarfile.open(tar, "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo(name)
        info.size = content_bytes
        archive.addfile(info, io.BytesIO(content))
    payload, blob = tar.read_bytes(), Packed(tar).blob(codec)
    diff_id = _sha256(payload)
    chunks = (payload[at : at + CHUNK_BYTES] for at in range(0, len(payload), CHUNK_BYTES))
    index = make_index(
        payload_bytes=len(payload),
        diff_id=diff_id,
        chunk_digests=b"".join(blake3(chunk).digest() for chunk in chunks),
        entries=PackedEntries(),
    )
    media_type = images.LAYER_TYPES[codec]
    layer = Layer(digest=_sha256(blob), size=len(blob), media_type=media_type, diff_id=diff_id)
    return Sample(
        tar=tar, codec=codec, payload=payload, indexed=IndexedLayer(layer=layer, index=index)
    )


def _sha256(data: bytes) -> Digest:
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())
