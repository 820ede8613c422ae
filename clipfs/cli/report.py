"""What `mount` and `index` say of an image in JSON: the same words for the same things."""

from clipfs.mount.prepare import Prepared
from clipfs.tiers.settings import TierSettings
from clipfs.tree.reader import ImageIndex


def totals(prepared: Prepared) -> tuple[int, int]:
    """Names in the tree, and bytes of its regular files."""
    with ImageIndex.open(prepared.index_path) as index:
        return index.entry_count, index.total_bytes


def described(prepared: Prepared, settings: TierSettings, **seconds: float) -> dict[str, object]:
    """The image, its totals and layers; seconds of steps beside those of `prepare`."""
    entries, total_bytes = totals(prepared)
    return {
        "image": str(prepared.image.reference),
        "digest": prepared.image.digest,
        "entries": entries,
        "bytes": total_bytes,
        "layers": [
            {
                "digest": one.layer.digest,
                "cache_key": one.cache_key,
                "media_type": one.layer.media_type,
                "size": one.layer.size,
                "payload_size": one.index.payload_bytes,
                "complete": settings.layout.payload(one.cache_key).exists(),
            }
            for one in prepared.layers
        ],
        "seconds": {"resolve": prepared.resolve_s, "index": prepared.index_s, **seconds},
    }
