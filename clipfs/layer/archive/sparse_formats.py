"""How archives write the map of a sparse member; four ways, one answer: `RunsBuilder`.

    GNU old   typeflag S: four runs in the header, 21 in each block that follows it
    PAX 0.0   a record `GNU.sparse.offset`, then `GNU.sparse.numbytes`, again and again
    PAX 0.1   one record `GNU.sparse.map`, the same numbers with commas
    PAX 1.0   decimal lines at the start of the member's data, padded to whole blocks

A map in blocks is fed block by block, so that it costs memory for its runs only.

Source: GNU tar manual, "Storing Sparse Files"; src/sparse.c. Where the manual leaves it open, Go's
archive/tar, by which containerd unpacks.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from clipfs import errors
from clipfs.layer.archive import header, pax
from clipfs.layer.archive.header import Header
from clipfs.layer.limits import MAX_EXTENTS
from clipfs.layer.sparse import RunsBuilder

PREFIX = b"GNU.sparse."
NAME = PREFIX + b"name"
_OFFSET, _NUMBYTES = PREFIX + b"offset", PREFIX + b"numbytes"
_MAP, _NUMBLOCKS = PREFIX + b"map", PREFIX + b"numblocks"
_SIZE, _REALSIZE = PREFIX + b"size", PREFIX + b"realsize"
_MAJOR, _MINOR = PREFIX + b"major", PREFIX + b"minor"
_GNU_MAGIC = b"ustar  \0"
_HEADER_RUNS, _RUN_FIELD, _RUN_BYTES = range(386, 482, 24), 12, 24
_IS_EXTENDED, _REAL_SIZE = 482, slice(483, 495)
_BLOCK_RUNS, _BLOCK_IS_EXTENDED = range(0, 504, 24), 504
_MAX_DIGITS = 20  # of a number that fits 64 bits
_MAX_BLOCKS = MAX_EXTENTS // len(_BLOCK_RUNS) + 1


class SparseReader(Protocol):
    """Reads one member's map, block by block.

    runs      what is stated so far
    is_whole  whether the map has ended; until then `take` wants the next block
    in_data   whether its blocks are part of the member's data
    """

    runs: RunsBuilder
    is_whole: bool
    in_data: bool

    def take(self, block: bytes) -> None:
        """The map's next block; CorruptImage if it is malformed."""


class InHeaders:
    """GNU's old format: header blocks, which the member's size does not count."""

    in_data = False

    def __init__(self, head: Header, block: bytes) -> None:
        if head.magic != _GNU_MAGIC:
            raise errors.UnsupportedImage("a sparse member of a tar that is not GNU's")
        self.runs = RunsBuilder(header.number(block[_REAL_SIZE], "real size"))
        self._blocks = 0
        self.is_whole = False
        self._take(block, _HEADER_RUNS, _IS_EXTENDED)

    def take(self, block: bytes) -> None:
        self._blocks += 1
        if self._blocks > _MAX_BLOCKS:
            raise errors.CorruptImage(f"a sparse map of more than {_MAX_BLOCKS} blocks")
        self._take(block, _BLOCK_RUNS, _BLOCK_IS_EXTENDED)

    def _take(self, block: bytes, places: Iterable[int], is_extended: int) -> None:
        for at in places:
            offset, length = block[at : at + _RUN_FIELD], block[at + _RUN_FIELD : at + _RUN_BYTES]
            if not offset[0] or not length[0]:
                break
            self.runs.add(header.number(offset, "offset"), header.number(length, "length"))
        self.is_whole = not block[is_extended]


class InData:
    """PAX 1.0: "<count>\\n", then "<offset>\\n<length>\\n" so many times."""

    in_data = True

    def __init__(self, size: int) -> None:
        self.runs = RunsBuilder(size)
        self.is_whole = False
        self._line = b""
        self._left: int | None = None  # numbers still to come, once the first line was read
        self._offset: int | None = None

    def take(self, block: bytes) -> None:
        *lines, self._line = (self._line + block).split(b"\n")
        for line in lines:
            self._take(_number(line))
            if self._left == 0:
                self.is_whole = True
                return  # what is left of the block is padding
        if len(self._line) > _MAX_DIGITS:
            raise errors.CorruptImage(f"a sparse map with the number {self._line[:40]!r}")

    def _take(self, number: int) -> None:
        if self._left is None:
            if number > MAX_EXTENTS:
                raise errors.CorruptImage(f"a sparse map of {number} runs, over {MAX_EXTENTS}")
            self._left = 2 * number
            return
        self._left -= 1
        if self._offset is None:
            self._offset = number
        else:
            self.runs.add(self._offset, number)
            self._offset = None


def reader_of(
    head: Header, block: bytes, attributes: Mapping[bytes, bytes], repeated: Sequence[pax.Record]
) -> RunsBuilder | SparseReader | None:
    """The runs of the member whose header is block, or what reads its map, if that goes on in
    blocks behind it; None if it is not sparse.

    repeated  its own records of the keys that version 0.0 repeats, in their order
    Raises    UnsupportedImage for a version that is not known, CorruptImage
    """
    is_pax = repeated or any(key.startswith(PREFIX) for key in attributes)
    if head.typeflag == b"S":
        if is_pax:
            raise errors.CorruptImage("a sparse member of two formats at once")
        in_headers = InHeaders(head, block)
        return in_headers.runs if in_headers.is_whole else in_headers
    if not is_pax:
        return None
    version = _version(attributes)
    sizes = {pax.number_of(k, attributes[k]) for k in (_REALSIZE, _SIZE) if k in attributes}
    if len(sizes) != 1:
        raise errors.CorruptImage("a sparse member that does not state one real size")
    (size,) = sizes
    if version != (1, 0):
        return _runs(size, _numbers(attributes, repeated))
    if repeated or _MAP in attributes or _NUMBLOCKS in attributes:
        raise errors.CorruptImage("a sparse member with maps of two versions")
    return InData(size)


def is_repeated(record: pax.Record) -> bool:
    """Whether the order of such records, and each of them, says something."""
    return record[0] in (_OFFSET, _NUMBYTES)


def _version(attributes: Mapping[bytes, bytes]) -> tuple[int, int]:
    """Versions 0.0 and 0.1 need not say which they are."""
    stated = tuple(attributes.get(key, b"0") for key in (_MAJOR, _MINOR))
    known = {(b"0", b"0"): (0, 0), (b"0", b"1"): (0, 1), (b"1", b"0"): (1, 0)}
    if stated not in known or (_MAJOR in attributes) != (_MINOR in attributes):
        raise errors.UnsupportedImage(
            f"a sparse member of version {b'.'.join(stated)[:40]!r}; 0.0, 0.1 and 1.0 are read"
        )
    return known[stated]


def _runs(size: int, numbers: Sequence[bytes]) -> RunsBuilder:
    """Of PAX 0.0 and 0.1: whole before the data begins."""
    runs = RunsBuilder(size)
    for offset, length in zip(numbers[::2], numbers[1::2], strict=True):
        runs.add(_number(offset), _number(length))
    return runs


def _numbers(attributes: Mapping[bytes, bytes], repeated: Sequence[pax.Record]) -> list[bytes]:
    """Offset and length of each run, as versions 0.0 and 0.1 have them in records."""
    if repeated:
        keys = [key for key, _ in repeated]
        if _MAP in attributes or keys[::2] != [_OFFSET] * len(keys[::2]) or _OFFSET in keys[1::2]:
            raise errors.CorruptImage("a sparse map whose offsets and lengths do not alternate")
        numbers = [value for _, value in repeated]
    elif _MAP in attributes:
        numbers = attributes[_MAP].split(b",")
    else:
        numbers = []
    if _NUMBLOCKS not in attributes:
        raise errors.CorruptImage("a sparse member that does not state how many runs it has")
    stated = pax.number_of(_NUMBLOCKS, attributes[_NUMBLOCKS])
    if 2 * stated != len(numbers):
        raise errors.CorruptImage(f"a sparse map of {len(numbers)} numbers for {stated} runs")
    return numbers


def _number(text: bytes) -> int:
    if not text.isdigit() or len(text) > _MAX_DIGITS:
        raise errors.CorruptImage(f"a sparse map with the number {text[:40]!r}")
    return int(text)
