"""What is cached under a root: layers and image indexes, their size, last use and users.

A layer is all that bears its key: payload, partial payload, chunk map, indexes. Files that are
not named as we name ours are passed over.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from clipfs import errors
from clipfs.image.digest import cache_key
from clipfs.layer.layout import Layout
from clipfs.mount import records
from clipfs.tiers.storing import storing_now
from clipfs.tree.reader import ImageIndex

State = Literal["complete", "partial", "index"]
"""How much of a layer is here: the whole payload, some of it, or what it holds only."""

STORING = "the content cache's store"
RAW = ".raw"
_NAME = re.compile(r"(sha256_[0-9a-f]{64}(?:\.raw)?)(\..*)?")
_BLOCK_BYTES = 512
"""Unit of st_blocks, stat(2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What goes or stays as one: a layer, or an image index.

    bytes        that it takes on the disk: a sparse file is as small as it is
    last_use_ns  since the epoch
    users        mount points whose mounts use it, and STORING
    needs        of an image index: the layers it names, as `plain_key`; None: it is unreadable
    """

    kind: Literal["layer", "image"]
    key: str
    state: State
    bytes: int
    last_use_ns: int
    users: tuple[str, ...] = ()
    needs: frozenset[str] | None = frozenset()


@dataclass(slots=True)
class _Found:
    state: State = "index"
    bytes: int = 0
    last_use_ns: int = 0
    files: list[Path] = field(default_factory=list)

    def add(self, path: Path, state: State) -> None:
        try:
            status = os.lstat(path)
        except FileNotFoundError:  # renamed or removed meanwhile
            return
        self.files.append(path)
        self.bytes += status.st_blocks * _BLOCK_BYTES
        self.last_use_ns = max(self.last_use_ns, status.st_mtime_ns)
        if "complete" in (state, self.state):
            self.state = "complete"
        elif "partial" in (state, self.state):
            self.state = "partial"


def plain_key(key: str) -> str:
    """The blob's own key: an image index names blobs, however their bytes are read."""
    return key.removesuffix(RAW)


def inventory(layout: Layout) -> list[Item]:
    """Every layer and image index that is here, layers first, each kind by its key."""
    users = users_of(layout)
    layers = [
        Item(
            kind="layer",
            key=key,
            state=found.state,
            bytes=found.bytes,
            last_use_ns=found.last_use_ns,
            users=users.get(key, ()),
        )
        for key, found in sorted(_layers(layout).items())
    ]
    return layers + [_image(path, key, users) for key, path in sorted(_images(layout).items())]


def users_of(layout: Layout) -> dict[str, tuple[str, ...]]:
    """Who uses which keys now, as far as records and marks tell; locks tell the rest."""
    found: dict[str, list[str]] = {}
    for record in records.in_use(layout):
        for key in {*record.layers, record.index_key}:
            found.setdefault(key, []).append(record.mountpoint)
    for key in storing_now(layout):
        found.setdefault(key, []).append(STORING)
    return {key: tuple(sorted(names)) for key, names in found.items()}


def files_of(layout: Layout, item: Item) -> list[Path]:
    """The item's files in the order in which they may go: no map outlives its payload."""
    if item.kind == "image":
        return [layout.image_index(item.key)]
    found = _layers(layout, item.key).get(item.key)
    return found.files if found else []


def last_use_ns(layout: Layout, item: Item) -> int:
    """When it was used last, looked at anew; 0 if it is gone."""
    times = [0]
    for path in files_of(layout, item):
        try:
            times.append(os.lstat(path).st_mtime_ns)
        except FileNotFoundError:
            continue
    return max(times)


def _layers(layout: Layout, only: str = "") -> dict[str, _Found]:
    found: dict[str, _Found] = {}
    for key, rest, path in _named(layout.cache, only):
        if not rest:
            found.setdefault(key, _Found()).add(path, "complete")
    for key, _, path in _named(layout.partial, only):
        found.setdefault(key, _Found()).add(path, "partial")
    for key, rest, path in _named(layout.index, only):
        if not rest.endswith((".erofs", ".tmp")):
            found.setdefault(key, _Found()).add(path, "index")
    return {key: one for key, one in found.items() if one.files}


def _images(layout: Layout) -> dict[str, Path]:
    return {
        key: path for key, rest, path in _named(layout.index) if path == layout.image_index(key)
    }


def _named(folder: Path, only: str = "") -> Iterator[tuple[str, str, Path]]:
    """Key, the rest of the name, and path of each of our files in folder, maps before payloads."""
    names = os.listdir(folder) if folder.is_dir() else []
    for name in sorted((one for one in names if one.startswith(only)), reverse=True):
        match = _NAME.fullmatch(name)
        if match is not None and only in ("", match[1]):
            yield match[1], match[2] or "", folder / name


def _image(path: Path, key: str, users: dict[str, tuple[str, ...]]) -> Item:
    found, needs = _Found(), None
    found.add(path, "index")
    try:
        with ImageIndex.open(path) as index:
            needs = frozenset(cache_key(digest) for digest in index.layer_digests)
    except (OSError, errors.CorruptImage):
        pass
    return Item(
        kind="image",
        key=key,
        state="index",
        bytes=found.bytes,
        last_use_ns=found.last_use_ns,
        users=users.get(key, ()),
        needs=needs,
    )
