"""Compressions that other tools make and clipfs does not read, told by their magic bytes.

A tar may begin with any bytes, the name of its first member: what has a tar's header is one.

Source: bzip2 and xz file formats; LZ4 frame format; RFC 1950 (zlib).
"""

import re
import struct

from clipfs import errors
from clipfs.layer.archive import header

_MAGIC = {
    "bzip2": re.compile(rb"BZh[1-9]"),
    "xz": re.compile(rb"\xfd7zXZ\x00"),
    "lz4": re.compile(rb"\x04\x22\x4d\x18"),
    "zlib": re.compile(rb"\x78[\x01\x5e\x9c\xda]"),
}


def refuse_unread(start: bytes) -> None:
    """UnsupportedImage if a blob that begins with start is compressed so.

    start  its first block, or all of it if it is shorter
    """
    codec = next((name for name, magic in _MAGIC.items() if magic.match(start)), None)
    if codec is not None and not _is_tar(start):
        raise errors.UnsupportedImage(
            f"compressed by {codec}, which is not supported; push it again with gzip or zstd"
        )


def _is_tar(start: bytes) -> bool:
    try:
        return bool(header.parse(start, 0))
    except (errors.CorruptImage, struct.error):  # fewer bytes than a header has
        return False
