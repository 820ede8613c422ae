"""Follows the frames of a zstd blob without decompressing them: whether it ends where one does.

libzstd's reader says nothing of a blob that ends inside a frame; a layer that has no diff_id
would be taken for a shorter one. Nor does it mind blocks without number that hold nothing.

Source: RFC 8878, "Frames", "Zstandard Frame Header", "Blocks" and "Skippable Frames".
"""

from collections.abc import Callable

from clipfs import errors
from clipfs.layer.limits import MIN_ZSTD_BLOCK_BYTES, ZSTD_FREE_BLOCKS

MAGIC = b"\x28\xb5\x2f\xfd"
_DICTIONARY_ID_BYTES = (0, 1, 2, 4)
_CONTENT_SIZE_BYTES = (0, 2, 4, 8)
_CHECKSUM_BYTES = 4
_RLE = 1


def is_skippable(magic: bytes) -> bool:
    """Whether a frame with this magic number is passed over."""
    return len(magic) == len(MAGIC) and magic[1:] == b"\x2a\x4d\x18" and magic[0] & 0xF0 == 0x50


class Frames:
    """Give it all bytes of a blob, in order; what makes no sense is for libzstd to refuse."""

    def __init__(self) -> None:
        self._held = b""  # of a field that is not whole yet
        self._skip = 0
        self._checksum_bytes = 0
        self._blocks = 0
        self._bytes = 0
        self._expect(len(MAGIC), self._take_magic)

    @property
    def is_whole(self) -> bool:
        """Whether the bytes so far end where a frame does."""
        return not self._skip and not self._held and self._take == self._take_magic

    def feed(self, data: bytes) -> None:
        """The blob's next bytes; CorruptImage if its blocks are too many for its length."""
        self._bytes += len(data)
        at = 0
        while at < len(data):
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                continue
            part = data[at : at + self._want - len(self._held)]
            at += len(part)
            self._held += part
            if len(self._held) == self._want:
                field, self._held = self._held, b""
                self._take(field)

    def _expect(self, size: int, take: Callable[[bytes], None]) -> None:
        self._want, self._take = size, take

    def _take_magic(self, magic: bytes) -> None:
        if is_skippable(magic):
            self._expect(4, self._take_skippable)
        else:
            self._expect(1, self._take_descriptor)

    def _take_skippable(self, size: bytes) -> None:
        self._skip = int.from_bytes(size, "little")
        self._expect(len(MAGIC), self._take_magic)

    def _take_descriptor(self, field: bytes) -> None:
        flags = field[0]
        is_single_segment = flags >> 5 & 1
        content_size = _CONTENT_SIZE_BYTES[flags >> 6] or is_single_segment
        window = 1 - is_single_segment
        self._checksum_bytes = _CHECKSUM_BYTES * (flags >> 2 & 1)
        self._skip = window + _DICTIONARY_ID_BYTES[flags & 3] + content_size
        self._expect(3, self._take_block)

    def _take_block(self, field: bytes) -> None:
        self._blocks += 1
        if self._blocks > ZSTD_FREE_BLOCKS + self._bytes // MIN_ZSTD_BLOCK_BYTES:
            raise errors.CorruptImage(
                f"zstd: {self._blocks} blocks in {self._bytes} bytes, which are refused as too "
                f"many: over {ZSTD_FREE_BLOCKS}, and under {MIN_ZSTD_BLOCK_BYTES} bytes each"
            )
        head = int.from_bytes(field, "little")
        size = 1 if head >> 1 & 3 == _RLE else head >> 3
        if head & 1:  # the last one
            self._skip = size + self._checksum_bytes
            self._expect(len(MAGIC), self._take_magic)
        else:
            self._skip = size
            self._expect(3, self._take_block)
