"""What is promised of the demo, and the words where it is not so.

Each check returns the line that says what was seen, with its numbers; a check that fails
raises NotAsPromised.
"""

import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from demo.image import Image, sha256_of
from demo.reads import READ_BYTES, Reads
from demo.stage import NotAsPromised

LAZY_SHARE = 0.1
"""How much of the payload a node may hold that has read a little of it."""


def require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise NotAsPromised(otherwise)


def same_files(volume: Path, files: Mapping[str, str]) -> str:
    """The volume has just these regular files (sha256 by path), with just this content."""
    found = dict[str, str]()
    count = 0
    for folder, _, names in os.walk(volume):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.islink(path) or not os.path.isfile(path):
                continue
            found[os.path.relpath(path, volume)] = sha256_of(path)
            count += os.path.getsize(path)
    for path in sorted(files.keys() | found.keys()):
        require(path in found, f"{path} is missing from {volume}")
        require(path in files, f"{path} is in {volume} and not in the image")
        require(found[path] == files[path], f"{volume}/{path} differs from its source")
    return f"{len(found):,} files, {count / 1e6:,.0f} MB, sha256 equal to the source"


def came_from(tier: str, reads: Reads, source: Sequence[bytes]) -> None:
    """These reads returned the source's bytes; this tier moved them, and no farther one.

    tier  a tier's name in `clipfs stats`, or "page cache": none was asked
    """
    require(list(reads.data) == list(source), f"reads from the {tier} returned wrong bytes")
    order = ["page cache", "disk", "content_cache", "registry"]
    for farther in order[order.index(tier) + 1 :]:
        count = reads.moved[farther]
        require(not count, f"reads meant for the {tier} moved {count:,} bytes from the {farther}")
    if tier != "page cache":
        least = len(source) * READ_BYTES
        require(reads.moved[tier] >= least, f"reads moved {reads.moved[tier]:,} from the {tier}")


def no_layer_was_asked_for(asked: Sequence[tuple[str, str]], image: Image) -> str:
    """A node's requests to the registry: some, for the manifest, and none for a layer."""
    layers = {layer.digest for layer in image.layers}
    manifests = sum(kind == "manifests" for kind, _ in asked)
    blobs = [name for _, name in asked if name in layers]
    require(manifests > 0, "the registry's log shows no request of node B's at all")
    require(not blobs, f"node B asked the registry for {len(blobs)} layers")
    return f"{manifests} requests for the manifest, 0 for a layer"


def every_layer_was_asked_for(asked: Sequence[tuple[str, str]], image: Image) -> None:
    """The counterpart, of the same log: it would have shown the requests."""
    names = {name for _, name in asked}
    absent = [layer.name for layer in image.layers if layer.digest not in names]
    require(not absent, f"the registry's log shows no request of node A's for: {absent}")


def is_lazy(on_disk: int, image: Image) -> str:
    """The node's disk holds little of the image."""
    share = on_disk / image.payload_bytes
    words = f"{on_disk / 1e6:,.1f} of {image.payload_bytes / 1e6:,.0f} MB on its disk"
    require(share < LAZY_SHARE, f"node B is not lazy: {words}")
    return words


def is_read_only(volume: Path) -> str:
    """A pod cannot change what it sees."""
    try:
        (volume / "new").touch()
    except OSError as error:
        require(error.errno == errno.EROFS, f"writing failed with {error}, not with EROFS")
        return "a write fails with EROFS"
    raise NotAsPromised(f"{volume} can be written to")
