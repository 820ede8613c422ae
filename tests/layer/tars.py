"""Archives by hand (`tests.support.raw_tar`), and what the product's parser makes of them."""

from collections.abc import Sequence
from typing import NamedTuple

from clipfs.layer.archive.tar import TarParser
from clipfs.layer.index import Entry
from clipfs.layer.sparse import SparseMap
from tests.support.raw_tar import BLOCK, END, base256, long_name, member, padded, record, records

__all__ = [
    "BLOCK",
    "END",
    "Parsed",
    "base256",
    "entries_of",
    "long_name",
    "member",
    "only",
    "padded",
    "parsed",
    "record",
    "records",
]


class Parsed(NamedTuple):
    """What a parser makes of an archive."""

    entries: list[Entry]
    sparse: Sequence[SparseMap]


def parsed(payload: bytes, piece_bytes: int | None = None) -> Parsed:
    """What a parser makes of payload, fed in pieces of that size, or at once."""
    entries: list[Entry] = []
    parser, step = TarParser(entries.append), piece_bytes or len(payload) or 1
    for at in range(0, len(payload), step):
        parser.feed(payload[at : at + step])
    parser.close()
    return Parsed(entries, parser.sparse)


def entries_of(payload: bytes, piece_bytes: int | None = None) -> list[Entry]:
    return parsed(payload, piece_bytes).entries


def only(payload: bytes) -> Entry:
    """The entry of an archive that has one."""
    (entry,) = entries_of(payload)
    return entry
