"""Archives by hand (`tests.support.raw_tar`), and what the product's parser makes of them."""

from clipfs.layer.index import Entry
from clipfs.layer.tar import TarParser
from tests.support.raw_tar import BLOCK, END, base256, long_name, member, padded, record, records

__all__ = [
    "BLOCK",
    "END",
    "base256",
    "entries_of",
    "long_name",
    "member",
    "only",
    "padded",
    "record",
    "records",
]


def entries_of(payload: bytes, piece_bytes: int | None = None) -> list[Entry]:
    """The entries of payload, fed in pieces of that size, or at once."""
    parser, step = TarParser(), piece_bytes or len(payload) or 1
    for at in range(0, len(payload), step):
        parser.feed(payload[at : at + step])
    parser.close()
    return parser.entries


def only(payload: bytes) -> Entry:
    """The entry of an archive that has one."""
    (entry,) = entries_of(payload)
    return entry
