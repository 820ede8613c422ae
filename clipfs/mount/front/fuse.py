"""The FUSE front: every operation answered from the image index, bytes through `Payloads`.

Handlers are adapters: one look-up, errors renamed. The tree never changes, so the kernel may
keep all that it is told: attributes, names, the absence of names, pages. Inode numbers and
file handles are the index's own, so that another process can serve on.

Not here: the connection (`clipfs.mount.device`); where bytes come from (`clipfs.tiers`).
"""

import errno
import functools
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar

import pyfuse3
import trio

from clipfs import errors
from clipfs.layer.limits import MAX_DEPTH
from clipfs.log import log
from clipfs.mount import device
from clipfs.mount.front.errno import errno_of
from clipfs.tree.chunk_table import Piece
from clipfs.tree.reader import ImageIndex, Inode, Nid

FOREVER_S = 10 * 365 * 86400
BLOCK_BYTES = 4096
NAME_MAX_BYTES = 255
PATHS_REMEMBERED = 1 << 16
"""Parents of looked-up inodes, kept for the paths of debug lines only."""

P = ParamSpec("P")
R = TypeVar("R")


class Payloads(Protocol):
    """The bytes of an image: its devices, as the image index numbers them from 0."""

    async def read(
        self, device: int, offset: int, length: int, *, follows: int
    ) -> bytes | bytearray:
        """Exactly length bytes of one file, which are on device from offset on, verified.

        follows  so many bytes of the file come behind them on device, as far as that is known
        """


def _guarded(handler: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Only FUSEError may leave a handler; what is not a ClipError is logged as a bug."""

    @functools.wraps(handler)
    async def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await handler(*args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except errors.ClipError as error:
            log.warning("a request failed", operation=handler.__name__, error=str(error))
            raise pyfuse3.FUSEError(errno_of(error)) from error
        except Exception as error:
            log.exception("a request failed, this is a bug", operation=handler.__name__)
            raise pyfuse3.FUSEError(errno_of(error)) from error

    return guarded


class FuseFront(pyfuse3.Operations):
    """One image's tree; the mount is read-only, so no change ever gets here."""

    enable_acl = False
    supports_dot_lookup = True

    def __init__(self, index: ImageIndex, payloads: Payloads) -> None:
        super().__init__()
        self._index = index
        self._payloads = payloads
        self._parents: OrderedDict[int, tuple[int, bytes]] = OrderedDict()

    @_guarded
    async def lookup(
        self, parent_inode: pyfuse3.InodeT, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        if name == b".":  # of an inode of any type: the kernel asks so for file handles
            return self._attributes(parent_inode)
        if len(name) > NAME_MAX_BYTES:
            raise pyfuse3.FUSEError(errno.ENAMETOOLONG)
        nid = self._index.lookup(Nid(parent_inode), name)
        if nid is None:
            return _absent()
        if log.is_enabled_for(logging.DEBUG):
            self._remember(nid, parent_inode, name)
        return self._attributes(nid)

    @_guarded
    async def getattr(
        self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return self._attributes(inode)

    @_guarded
    async def readlink(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> bytes:
        return self._index.target(Nid(inode))

    @_guarded
    async def open(
        self, inode: pyfuse3.InodeT, flags: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(inode), keep_cache=True)

    @_guarded
    async def read(  # type: ignore[override] # any buffer will do
        self, fh: pyfuse3.FileHandleT, off: int, size: int
    ) -> bytes | bytearray:
        inode = self._index.inode(Nid(fh))
        if log.is_enabled_for(logging.DEBUG):
            log.debug("Read called", path=self._path(inode.nid), offset=off, length=size)
        length = min(size, inode.size - off)
        if length <= 0:
            return b""
        pieces = self._index.pieces(inode, off, length)
        follows = inode.size - off - length if inode.device is not None else 0
        return await self._content(pieces, follows)

    @_guarded
    async def opendir(
        self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileHandleT:
        return pyfuse3.FileHandleT(inode)

    @_guarded
    async def readdir(
        self, fh: pyfuse3.FileHandleT, start_id: int, token: pyfuse3.ReaddirToken
    ) -> None:
        for position, entry in self._index.list(Nid(fh), start_id):
            attributes = self._attributes(entry.nid)
            if not pyfuse3.readdir_reply(token, entry.name, attributes, position):
                return
            if entry.name not in (b".", b"..") and log.is_enabled_for(logging.DEBUG):
                self._remember(entry.nid, pyfuse3.InodeT(fh), entry.name)

    @_guarded
    async def getxattr(
        self, inode: pyfuse3.InodeT, name: bytes, ctx: pyfuse3.RequestContext
    ) -> bytes:
        value = self._index.xattrs(Nid(inode)).get(name)
        if value is None:
            raise pyfuse3.FUSEError(pyfuse3.ENOATTR)
        return value

    @_guarded
    async def listxattr(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> list[bytes]:
        return list(self._index.xattrs(Nid(inode)))

    @_guarded
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = BLOCK_BYTES
        data.f_blocks = -(-self._index.total_bytes // BLOCK_BYTES)
        data.f_files = self._index.entry_count
        data.f_namemax = NAME_MAX_BYTES
        return data

    async def flush(self, fh: pyfuse3.FileHandleT) -> None:
        raise pyfuse3.FUSEError(errno.ENOSYS)  # once: the kernel does not ask again

    async def release(self, fh: pyfuse3.FileHandleT) -> None:
        pass

    async def releasedir(self, fh: pyfuse3.FileHandleT) -> None:
        pass

    async def forget(self, inode_list: object) -> None:
        pass

    async def _content(self, pieces: Sequence[Piece], follows: int) -> bytes | bytearray:
        """Their bytes together, holes as zeros."""
        parts = [await self._piece(piece, follows) for piece in pieces]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _piece(self, piece: Piece, follows: int) -> bytes | bytearray:
        if piece.device is None:
            return bytes(piece.length)
        return await self._payloads.read(piece.device, piece.offset, piece.length, follows=follows)

    def _attributes(self, number: int) -> pyfuse3.EntryAttributes:
        return _entry(self._index.inode(Nid(number)))

    def _remember(self, nid: int, parent: int, name: bytes) -> None:
        self._parents[nid] = (parent, name)
        self._parents.move_to_end(nid)
        if len(self._parents) > PATHS_REMEMBERED:
            self._parents.popitem(last=False)

    def _path(self, nid: int) -> str:
        parts: list[bytes] = []
        while nid in self._parents and len(parts) < MAX_DEPTH:
            nid, name = self._parents[nid]
            parts.append(name)
        start = "/" if nid == self._index.root else f"(inode {nid})/"
        return start + os.fsdecode(b"/".join(reversed(parts)))


def _entry(inode: Inode) -> pyfuse3.EntryAttributes:
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(inode.nid)
    entry.st_mode = pyfuse3.ModeT(inode.mode)
    entry.st_nlink = inode.nlink
    entry.st_uid, entry.st_gid = inode.uid, inode.gid
    entry.st_rdev = inode.rdev
    entry.st_size = inode.size
    entry.st_blksize = BLOCK_BYTES
    entry.st_blocks = -(-inode.size // 512)
    entry.st_atime_ns = entry.st_ctime_ns = entry.st_mtime_ns = inode.mtime_ns
    entry.generation = 0
    entry.entry_timeout = entry.attr_timeout = FOREVER_S
    return entry


def _absent() -> pyfuse3.EntryAttributes:
    """A name that is not there, and never will be."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(0)
    entry.entry_timeout = FOREVER_S
    return entry


async def serve_front(
    index: ImageIndex,
    payloads: Payloads,
    fd: int,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer the kernel on a mounted connection until the mount is gone."""
    front = FuseFront(index, payloads)
    init = await device.read_init(fd)
    served = await device.initialise(front, fd, init)
    await trio.lowlevel.wait_writable(served)  # trio must register the new description
    task_status.started()
    try:
        await pyfuse3.main()
    finally:
        pyfuse3.close(unmount=False)
