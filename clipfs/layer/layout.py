"""Where things lie under `--root`. Names are promises: scripts and operators rely on them.

cache/sha256_<layer>                complete, verified payload, and nothing else
partial/sha256_<layer>[.chunks]     a payload on its way, and which chunks of it are there
partial/<origin record>.first       one that a first pass writes: unverified until it is whole
index/sha256_<layer>.v1.toc         layer index
index/sha256_<layer>.v1.sparse      its sparse files, rebuilt for the kernel
index/sha256_<layer>.v1.origin.<sha256 of host>   origin record
index/sha256_<manifest>.v1.erofs    image index
index/key                           the node's own key: signs where none was given, seals run/access
damaged/                            folders that stood in the place of a cached file
run/                                state; may go when nothing is mounted:
    mounts/  log/  counters/        of the servers of images
    images/  volumes/  driver.lock  of the CSI driver
    access/                         of the driver: what was proved, what tags and digests are
    storing/  <layer>.fill          layers on their way to the content cache, or to this disk
    background.fill  reading        of the servers' background fill: who fills, whether a read waits
    <layer>.use  <manifest>.use     locks of those who prepare a mount
    <origin record>.proof           of who downloads a layer from that host
    boot                            the boot that all of it speaks of
"""

from dataclasses import dataclass
from pathlib import Path

from clipfs import errors
from clipfs.layer.index import VERSION

LOCKS = ("*.fill", "*.use", "*.proof")
"""Below `run/`: the files of locks, each of which is gone when nobody holds it."""


IMAGE_INDEX_VERSION = 1
"""Of what a merge writes: nodes and the content cache keep those of one version apart."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths under one root; `key` is a cache key, `sha256_<hex>`."""

    root: Path

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def partial(self) -> Path:
        return self.root / "partial"

    @property
    def index(self) -> Path:
        return self.root / "index"

    @property
    def run(self) -> Path:
        return self.root / "run"

    def payload(self, key: str) -> Path:
        return self.cache / key

    def partial_payload(self, key: str) -> Path:
        return self.partial / key

    def first_pass(self, record: str) -> Path:
        """record  the name of the origin record that it earns"""
        return self.partial / f"{record}.first"

    def chunk_map(self, key: str) -> Path:
        return self.partial / f"{key}.chunks"

    def layer_index(self, key: str) -> Path:
        return self.index / layer_index_name(key)

    def sparse_file(self, key: str) -> Path:
        return self.index / f"{key}.v{VERSION}.sparse"

    def image_index(self, key: str) -> Path:
        return self.index / image_index_name(key)

    def use_lock(self, key: str) -> Path:
        return self.run / f"{key}.use"

    def fill_lock(self, key: str) -> Path:
        return self.run / f"{key}.fill"

    def proof_lock(self, record: str) -> Path:
        """record  the name of the origin record that is to be earned"""
        return self.run / f"{record}.proof"

    def make(self) -> None:
        """Create the folders that are missing, private to root: payloads may be secrets.

        Raises  NodeFault if a file is in the place of one; OSError if the disk refuses
        """
        for folder in (self.cache, self.partial, self.index, self.run):
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except FileExistsError as error:
                if self.root.exists() and not self.root.is_dir():
                    raise
                raise errors.NodeFault(
                    f"{folder} is no folder; move it away, clipfs makes it again"
                ) from error


def image_index_name(key: str) -> str:
    """What an image's index is called there; key is made of its manifest's digest."""
    return f"{key}.v{IMAGE_INDEX_VERSION}.erofs"


def layer_index_name(key: str) -> str:
    """What a layer's index is called, below `index/` as in the content cache."""
    return f"{key}.v{VERSION}.toc"
