"""A folder's blocks: in each its records, then the names that they point at, sorted by bytes.

The writer packs blocks, the reader looks into them; a malformed block is CorruptImage.
"""

import struct
from collections.abc import Sequence
from itertools import accumulate, repeat
from typing import NamedTuple

from clipfs import errors
from clipfs.tree import erofs


class Record(NamedTuple):
    """One name; kind is a value of `erofs.FILE_TYPES`."""

    name: bytes
    nid: int
    kind: int


_MOST_IN_A_BLOCK = erofs.BLOCK // (erofs.DIRENT.size + 1)

RecordLike = tuple[bytes, int, int]
"""A `Record`, or what takes half the time to make."""


def in_blocks(records: Sequence[RecordLike]) -> bytes:
    """The blocks of a folder with these records, the last one unpadded."""
    if len(records) < _MOST_IN_A_BLOCK and len(block := packed(records)) <= erofs.BLOCK:
        return block
    blocks: list[bytes] = []
    start = used = 0
    for at, (name, _, _) in enumerate(records):
        used += erofs.DIRENT.size + len(name)
        if used > erofs.BLOCK:
            blocks.append(packed(records[start:at]).ljust(erofs.BLOCK, b"\0"))
            start, used = at, erofs.DIRENT.size + len(name)
    blocks.append(packed(records[start:]))
    return b"".join(blocks)


def packed(records: Sequence[RecordLike]) -> bytes:
    """The block of records, unpadded."""
    names, nids, kinds = zip(*records, strict=True)
    offsets = accumulate(map(len, names), initial=len(names) * erofs.DIRENT.size)
    return b"".join([*map(erofs.DIRENT.pack, nids, offsets, kinds, repeat(0)), *names])


def count(block: bytes) -> int:
    """How many records block has: the first name follows the last record."""
    try:
        offset: int = erofs.DIRENT.unpack_from(block)[1]
    except struct.error as error:
        raise errors.CorruptImage("image index: a folder's block is cut off") from error
    number, rest = divmod(offset, erofs.DIRENT.size)
    if rest or not number or offset > len(block):
        raise errors.CorruptImage("image index: a folder's block is malformed")
    return number


def record(block: bytes, place: int, number: int) -> Record:
    """The record at place, of number."""
    nid, start, kind, _ = erofs.DIRENT.unpack_from(block, place * erofs.DIRENT.size)
    if place + 1 < number:
        end: int = erofs.DIRENT.unpack_from(block, (place + 1) * erofs.DIRENT.size)[1]
        name = block[start:end]
    else:
        name = block[start:].rstrip(b"\0")
    return Record(name, nid, kind)


def first_name(block: bytes) -> bytes:
    return record(block, 0, count(block)).name


def find(block: bytes, name: bytes) -> int | None:
    """The nid of name; None if block does not hold it."""
    number = count(block)
    low, high = 0, number - 1
    while low <= high:
        middle = (low + high) // 2
        found = record(block, middle, number)
        if found.name == name:
            return found.nid
        if found.name < name:
            low = middle + 1
        else:
            high = middle - 1
    return None
