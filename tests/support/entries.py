"""Entries of a layer in few words, as a tar of it would give them."""

from collections.abc import Sequence
from typing import Any

from clipfs.image.digest import Digest
from clipfs.layer.index import Entry, EntryKind
from clipfs.tree.merge import merge
from clipfs.tree.superblock import Device
from clipfs.tree.writer import write_image


def file(path: bytes, *, offset: int = 0, **more: Any) -> Entry:
    """A file of 0644; offset is where its bytes begin in the payload."""
    more.setdefault("mode", 0o644)
    return Entry(path=path, kind=EntryKind.FILE, payload_offset=offset, **more)


def folder(path: bytes, mode: int = 0o700, **more: Any) -> Entry:
    """Not 0755 unless asked for, so that it is told from an implied one."""
    return Entry(path=path, kind=EntryKind.DIRECTORY, mode=mode, **more)


def symlink(path: bytes, target: bytes, **more: Any) -> Entry:
    return Entry(path=path, kind=EntryKind.SYMLINK, mode=0o777, target=target, **more)


def link(path: bytes, target: bytes) -> Entry:
    return Entry(path=path, kind=EntryKind.HARDLINK, mode=0o644, target=target)


def device(path: bytes, kind: EntryKind, major: int = 0, minor: int = 0) -> Entry:
    return Entry(path=path, kind=kind, mode=0o600, rdev_major=major, rdev_minor=minor)


def whiteout(path: bytes) -> Entry:
    """What hides path."""
    parent, slash, name = path.rpartition(b"/")
    return file(parent + slash + b".wh." + name)


def opaque(path: bytes) -> Entry:
    """What hides all that lower layers have in the folder at path."""
    return file(path + b"/.wh..wh..opq" if path else b".wh..wh..opq")


def devices_of(count: int, payload_bytes: int = 1 << 20) -> list[Device]:
    """count layers with digests of their own."""
    return [
        Device(digest=Digest(f"sha256:{number:064x}"), payload_bytes=payload_bytes)
        for number in range(count)
    ]


def image_of(*layers: Sequence[Entry], payload_bytes: int = 1 << 20) -> bytes:
    """The image index of layers, the lowest first."""
    return bytes(write_image(merge(layers), devices_of(len(layers), payload_bytes)))
