"""Image indexes under fuzz: data that notices a read outside of it, and every question there is."""

import itertools
import stat
from collections.abc import Callable
from typing import TypeVar

from clipfs import errors
from clipfs.tree import erofs
from clipfs.tree.reader import ImageIndex, Inode, Nid
from tests.fuzz.judge import broken, expect, expect_plain, expect_same

T = TypeVar("T")
MAX_INODES = 48
"""Looked at in one image: folders may overlap, so that there are more than fit."""

MAX_CONTENT_BYTES = 1 << 20
"""Of a file, its end, whose pieces are looked at."""


class Watched(bytes):
    """Bytes of which no slice may reach beyond their end or count from it."""

    def __getitem__(self, key: object) -> bytes:  # type: ignore[override] # slices alone
        if not isinstance(key, slice):
            broken(f"not a slice: {key!r}")
        expect(
            key.step is None and 0 <= key.start <= key.stop <= len(self),
            f"a read of {key!r} in {len(self)} bytes",
        )
        return bytes.__getitem__(self, key)


class Walk:
    """What an image says of itself. `refusals` counts the questions that it could not answer."""

    def __init__(self, image: bytes) -> None:
        """CorruptImage if it is none."""
        self.index = ImageIndex(Watched(image))
        self.refusals = 0
        self.answers = 0
        self.names = 0
        self._image = image
        self._device_bytes = self.index._device_bytes
        devices = len(self.index.layer_digests) + len(self.index.sparse_layers)
        expect_same(devices, len(self._device_bytes), "devices")
        seen: set[Nid] = set()
        pending = [self.index.root]
        while pending and len(seen) < MAX_INODES:
            nid = pending.pop()
            if nid not in seen:
                seen.add(nid)
                pending += self._ask(nid)

    def _ask(self, nid: Nid) -> list[Nid]:
        inode = self._answer(lambda: self.index.inode(nid))
        if inode is not None:
            self._judge(inode)
            if stat.S_ISLNK(inode.mode):
                target = self._answer(lambda: self.index.target(nid))
                expect(target is None or len(target) == inode.size <= 4096, "a target's length")
        xattrs = self._answer(lambda: self.index.xattrs(nid)) or {}
        for name, value in xattrs.items():
            expect(name and len(name) < 300 and len(value) <= 1 << 18, "an xattr's length")
        if inode is None:
            return []
        if not stat.S_ISDIR(inode.mode):
            self._refused(lambda: next(self.index.list(nid), None))
            self._refused(lambda: self.index.lookup(nid, b"a"))
            return []
        return self._folder(nid)

    def _folder(self, nid: Nid) -> list[Nid]:
        listed = self._answer(lambda: list(self.index.list(nid)))
        self._answer(lambda: self.index.lookup(nid, b"\xff" * 300))
        if listed is None:
            return []
        names = [entry.name for _, entry in listed]
        expect(len(names) <= len(self._image) // erofs.DIRENT.size, "more names than fit")
        self.names += len(names)
        for (position, _), (following, _) in itertools.pairwise(listed):
            expect(position < following, "positions do not ascend")
        if listed:
            middle = len(listed) // 2
            rest = self._answer(lambda: list(self.index.list(nid, listed[middle][0])))
            expect_same(rest, listed[middle + 1 :], "listed from a position on")
        if all(one < other for one, other in itertools.pairwise(names)):
            for _, entry in listed[:8] + listed[-8:]:
                found = self._answer(lambda name=entry.name: self.index.lookup(nid, name))  # type: ignore[misc] # bound
                expect_same(found, entry.nid, f"{entry.name!r} is listed, and looked up")
        return [entry.nid for _, entry in reversed(listed)]

    def _judge(self, inode: Inode) -> None:
        expect(stat.S_IFMT(inode.mode) in erofs.FILE_TYPES, "no file type")
        expect(-(1 << 63) * 10**9 <= inode.mtime_ns < (1 << 63) * 10**9, "a time out of range")
        expect(0 <= inode.uid < 1 << 32 and 0 <= inode.gid < 1 << 32, "an owner out of range")
        expect(0 <= inode.rdev < 1 << 64 and inode.size >= 0, "a device or size out of range")
        seconds_ns = int.from_bytes(self._at(inode.nid)[40:44], "little")
        expect_same(inode.mtime_ns % 10**9, seconds_ns, "nanoseconds")
        if stat.S_ISREG(inode.mode):
            self._judge_content(inode)

    def _judge_content(self, inode: Inode) -> None:
        start = max(0, inode.size - MAX_CONTENT_BYTES)
        pieces = self._answer(lambda: self.index.pieces(inode, start, inode.size - start))
        if pieces is None:
            return
        expect_same(sum(piece.length for piece in pieces), inode.size - start, "content")
        for piece in pieces:
            if piece.device is not None:
                expect(0 <= piece.device < len(self._device_bytes), "no such device")
                end = piece.offset + piece.length
                expect(end <= self._device_bytes[piece.device], "content beyond its device")

    def _at(self, nid: Nid) -> bytes:
        """The inode's own bytes."""
        meta = int.from_bytes(self._image[1064:1068], "little") * erofs.BLOCK
        at = meta + nid * erofs.SLOT
        return self._image[at : at + erofs.INODE.size]

    def _answer(self, question: Callable[[], T]) -> T | None:
        try:
            answer = question()
        except errors.CorruptImage as error:
            expect_plain(error)
            self.refusals += 1
            return None
        self.answers += 1
        return answer

    def _refused(self, question: Callable[[], object]) -> None:
        try:
            question()
        except errors.CorruptImage:
            return
        broken("what is no folder was read as one")
