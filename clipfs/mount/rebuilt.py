"""The sparse files of a layer, rebuilt from its payload for the kernel.

    path = rebuilt(layout, layer, sparse)     # index/sha256_<layer>.v1.sparse

Derived from the verified payload in `cache/`, which is whole, and trusted as that one is: it has
its name only when it is whole and on the disk, and once it has it nobody writes to it. What tells
another one is its length, and its first block, which names the layout. `clipfs cache verify` reads
it against the payload.

Not here: where what stands in it (`clipfs.tree.sparse`).
"""

import errno
import os
from pathlib import Path
from typing import BinaryIO

from clipfs import errors
from clipfs.layer.layout import Layout
from clipfs.system.cached import is_unreadable, open_cached, open_regular, set_aside
from clipfs.system.durable import make_atomically, naming, write_all
from clipfs.tiers.tier import IndexedLayer
from clipfs.tree.erofs import BLOCK
from clipfs.tree.sparse import SparseLayout

_PIECE_BYTES = 1 << 20


def is_rebuilt(path: Path, sparse: SparseLayout) -> bool:
    """Whether path is a sparse file of just this layout, and whole."""
    fd = open_cached(path)
    if fd is None:
        return False
    with naming(path), open(fd, "rb") as file:
        whole = os.fstat(fd).st_size == sparse.size_bytes
        try:
            return whole and os.pread(file.fileno(), BLOCK, 0) == sparse.head
        except OSError as error:
            if not is_unreadable(error):
                raise
            set_aside(path, error.strerror or str(error))
            return False


def rebuilt(layout: Layout, layer: IndexedLayer, sparse: SparseLayout) -> Path:
    """The layer's sparse file, made from its complete payload if it is not there.

    Raises  DiskFull; NodeFault if the payload is not there, or not whole
    """
    path, source = layout.sparse_file(layer.cache_key), layout.payload(layer.cache_key)
    try:
        if not is_rebuilt(path, sparse):
            with naming(path), open(open_regular(source), "rb") as payload:
                if os.fstat(payload.fileno()).st_size != layer.index.payload_bytes:
                    raise _not_whole(source)
                make_atomically(path, lambda out: _write(out, payload, source, sparse))
    except OSError as error:
        raise errors.node_fault(error) from error
    return path


def first_wrong_byte(fd: int, payload_fd: int, sparse: SparseLayout) -> int | None:
    """Where a sparse file begins to differ from what the payload makes of it; None if nowhere."""
    if os.fstat(fd).st_size != sparse.size_bytes:
        return min(os.fstat(fd).st_size, sparse.size_bytes)
    at = BLOCK
    if os.pread(fd, BLOCK, 0) != sparse.head:
        return 0
    for run in sparse.runs():
        if (wrong := _first_other_than_zero(fd, at, run.offset)) is not None:
            return wrong
        for done in range(0, run.length, _PIECE_BYTES):
            size = min(run.length - done, _PIECE_BYTES)
            here = os.pread(fd, size, run.offset + done)
            if here != os.pread(payload_fd, size, run.payload_offset + done):
                return run.offset + done
        at = run.offset + run.length
    return _first_other_than_zero(fd, at, sparse.size_bytes)


def _write(fd: int, payload: BinaryIO, name: Path, sparse: SparseLayout) -> None:
    os.fchmod(fd, 0o400)
    os.ftruncate(fd, sparse.size_bytes)
    write_all(fd, sparse.head, 0)
    for run in sparse.runs():
        done = 0
        while done < run.length:
            source, target = run.payload_offset + done, run.offset + done
            step = os.copy_file_range(payload.fileno(), fd, run.length - done, source, target)
            if not step:
                raise _not_whole(name)
            done += step


def _not_whole(payload: Path) -> errors.NodeFault:
    return errors.NodeFault(
        f"{payload} is not as long as its index says; `clipfs cache verify` removes it"
    )


def _first_other_than_zero(fd: int, start: int, end: int) -> int | None:
    """Where data other than zeros begins between start and end; holes are passed over."""
    while start < end:
        try:
            data = os.lseek(fd, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return None
            raise
        if data >= end:
            return None
        piece = os.pread(fd, min(end - data, _PIECE_BYTES), data)
        if piece.count(0) != len(piece):
            return data
        start = data + len(piece)
    return None
