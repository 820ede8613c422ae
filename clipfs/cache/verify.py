"""Are the payloads in `cache/` still what their indexes say? A disk may fail in silence.

Each is read once, against the chunk digests and the diff_id of its layer index; the sparse files
that were rebuilt of it, against the payload. A wrong one is removed: the next mount fetches it, or
rebuilds it, again. Who has it open already reads on from it until its mount is made anew. What
is no regular file, or cannot be read, is wrong too, the layer's index included, and set aside.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clipfs.cache.inventory import Item, inventory
from clipfs.layer import index as layer_index
from clipfs.layer.index import CHUNK_BYTES, LayerIndex
from clipfs.layer.layout import Layout
from clipfs.layer.seal import KeyRing
from clipfs.layer.sealed_index import KIND
from clipfs.mount.rebuilt import first_wrong_byte
from clipfs.system.cached import Unreadable, discard, open_regular, read_regular, set_aside
from clipfs.system.locks import same_file
from clipfs.tiers.verify import first_wrong_chunk
from clipfs.tree.sparse import SparseLayout, layout_of

_PIECE_CHUNKS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of one payload, and of the sparse files that were rebuilt of it.

    right   its bytes are the layer's
    wrong   they are not: it was removed, or of the sparse files and the index, what is wrong
    unknown there is no index that one of our keys has signed: nobody can say, and it stays
    """

    item: Item
    is_: Literal["right", "wrong", "unknown"]
    why: str = ""


def verify(layout: Layout, keys: KeyRing) -> Iterator[Verdict]:
    """A verdict on each complete payload, as it comes."""
    for item in inventory(layout):
        if item.kind != "layer" or item.state != "complete":
            continue
        try:
            verdict = _verdict(layout, keys, item)
        except Unreadable as error:
            why = f"{error.filename}: {error.strerror}"
            set_aside(Path(error.filename), why)
            verdict = Verdict(item=item, is_="wrong", why=why)
        except FileNotFoundError:  # collected since we looked
            continue
        yield verdict


def _verdict(layout: Layout, keys: KeyRing, item: Item) -> Verdict:
    """Raises Unreadable that names the file; FileNotFoundError if there is no payload."""
    path, sparse = layout.payload(item.key), layout.sparse_file(item.key)
    fd = open_regular(path)
    try:
        index = _index(layout, keys, item.key)
        if index is None:
            why = "no index of it is signed with a key that we have"
            return Verdict(item=item, is_="unknown", why=why)
        wrong = _what_is_wrong(fd, index)
        if wrong is not None:
            _remove(path, fd)
            discard(sparse)
        else:
            wrong = _what_is_wrong_of_sparse(sparse, fd, index)
    finally:
        os.close(fd)
    return Verdict(item=item, is_="wrong" if wrong else "right", why=wrong or "")


def _index(layout: Layout, keys: KeyRing, key: str) -> LayerIndex | None:
    try:
        sealed = read_regular(layout.layer_index(key))
    except FileNotFoundError:
        return None
    opened = keys.open(sealed, kind=KIND, version=layer_index.VERSION, name=key)
    return layer_index.decode(opened.content) if opened else None


def _what_is_wrong(fd: int, index: LayerIndex) -> str | None:
    """What tells the file from the payload of index; None if nothing does."""
    size = os.fstat(fd).st_size
    if size != index.payload_bytes:
        return f"it has {size} bytes, not {index.payload_bytes}"
    whole = hashlib.sha256()
    for first in range(0, index.chunk_count, _PIECE_CHUNKS):
        chunks = range(first, min(first + _PIECE_CHUNKS, index.chunk_count))
        try:
            data = os.pread(fd, len(chunks) * CHUNK_BYTES, first * CHUNK_BYTES)
        except OSError as error:
            return f"it cannot be read from chunk {first} on: {error.strerror}"
        wrong = first_wrong_chunk(index, chunks, data)
        if wrong is not None:
            return f"chunk {wrong} differs from the layer's index"
        whole.update(data)
    if f"sha256:{whole.hexdigest()}" != index.diff_id:
        return f"its digest is not {index.diff_id}"
    return None


def _what_is_wrong_of_sparse(path: Path, payload_fd: int, index: LayerIndex) -> str | None:
    """What tells the rebuilt sparse files from the payload's; a wrong file is removed."""
    try:
        fd = open_regular(path)
    except FileNotFoundError:
        return None
    try:
        why = _what_differs(fd, payload_fd, layout_of(index.sparse))
        if why is not None:
            _remove(path, fd)
    finally:
        os.close(fd)
    return f"the sparse files rebuilt of it {why}" if why else None


def _what_differs(fd: int, payload_fd: int, sparse: SparseLayout | None) -> str | None:
    if sparse is None:
        return "are of another layer"
    try:
        at = first_wrong_byte(fd, payload_fd, sparse)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None if at is None else f"differ from it from byte {at} on"


def _remove(path: Path, fd: int) -> None:
    """Unless it was replaced while it was read."""
    if same_file(path, fd):
        path.unlink(missing_ok=True)
