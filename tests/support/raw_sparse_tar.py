"""Sparse members by hand, in each of the four ways that archives write them.

Shares no code with the product, so that end-to-end tests can use it.
"""

from collections.abc import Callable, Sequence

from tests.support.raw_tar import (
    BLOCK,
    base256,
    member,
    padded,
    record,
    records,
    with_checksum,
)

GNU_MAGIC = b"ustar  \0"
_HEADER_RUNS, _BLOCK_RUNS = 4, 21

Runs = Sequence[tuple[int, int]]
"""Offset and length of each."""
Maker = Callable[[bytes, int, Runs, bytes], bytes]
"""name, real size, runs, the packed data -> a member."""


def old_gnu(name: bytes, size: int, runs: Runs, data: bytes) -> bytes:
    """GNU's S: runs in the header and in blocks behind it."""
    first, rest = runs[:_HEADER_RUNS], runs[_HEADER_RUNS:]
    head = bytearray(member(name, typeflag=b"S", magic=GNU_MAGIC, size=len(data)))
    head[386:482] = _fields(first).ljust(96, b"\0")
    head[482:495] = bytes([bool(rest)]) + _number(size)
    blocks = b""
    for at in range(0, len(rest), _BLOCK_RUNS):
        is_last = at + _BLOCK_RUNS >= len(rest)
        fields = _fields(rest[at : at + _BLOCK_RUNS]).ljust(504, b"\0")
        blocks += (fields + bytes([not is_last])).ljust(BLOCK, b"\0")
    return with_checksum(head) + blocks + padded(data)


def pax_00(name: bytes, size: int, runs: Runs, data: bytes) -> bytes:
    body = record(b"GNU.sparse.size", b"%d" % size)
    body += record(b"GNU.sparse.numblocks", b"%d" % len(runs))
    for offset, length in runs:
        body += record(b"GNU.sparse.offset", b"%d" % offset)
        body += record(b"GNU.sparse.numbytes", b"%d" % length)
    return member(b"pax", body, typeflag=b"x") + member(name, data)


def pax_01(name: bytes, size: int, runs: Runs, data: bytes) -> bytes:
    numbers = b",".join(b"%d,%d" % run for run in runs)
    stated = {b"size": b"%d" % size, b"numblocks": b"%d" % len(runs), b"map": numbers}
    return sparse_records(name=name, **{key.decode(): one for key, one in stated.items()}) + (
        member(b"GNUSparseFile.0/x", data)
    )


def pax_10(name: bytes, size: int, runs: Runs, data: bytes) -> bytes:
    lines = [len(runs), *(number for run in runs for number in run)]
    return in_data(name, size, padded(b"".join(b"%d\n" % number for number in lines)) + data)


def in_data(name: bytes, size: int, body: bytes) -> bytes:
    """PAX 1.0 with just this body."""
    head = sparse_records(major=b"1", minor=b"0", name=name, realsize=b"%d" % size)
    return head + member(b"GNUSparseFile.0/x", body)


def sparse_records(**values: bytes) -> bytes:
    return records({b"GNU.sparse." + key.encode(): value for key, value in values.items()})


MAKERS: dict[str, Maker] = {
    "old-gnu": old_gnu,
    "pax-0.0": pax_00,
    "pax-0.1": pax_01,
    "pax-1.0": pax_10,
}


def _fields(runs: Runs) -> bytes:
    return b"".join(_number(number) for run in runs for number in run)


def _number(value: int) -> bytes:
    """12 bytes: octal, or base 256 where that is too short."""
    octal = b"%011o\0" % value
    return octal if len(octal) == 12 else base256(value, 12)
