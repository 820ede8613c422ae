"""The sparse members of one archive: their maps as they are read, and those that were.

    stored = members.begin(entry, reader, body_bytes, offset)   # None: its map comes in blocks
    stored = members.take(block, offset)                        # until it is whole

Not here: how formats write maps (`sparse_formats`); the stream (`tar`).
"""

from typing import NamedTuple

import msgspec

from clipfs import errors
from clipfs.layer.archive.names import naming_member, shown
from clipfs.layer.archive.sparse_formats import SparseReader
from clipfs.layer.index import Entry, EntryKind
from clipfs.layer.limits import MAX_LAYER_EXTENTS, MAX_SPARSE_MEMBERS
from clipfs.layer.sparse import RunsBuilder, SparseMap


class Stored(NamedTuple):
    """A member whose map is whole; packed_bytes of data follow."""

    entry: Entry
    packed_bytes: int


class _Begun(NamedTuple):
    """A member whose map is being read; body_bytes of its body follow the header."""

    entry: Entry
    reader: SparseReader
    body_bytes: int
    body_offset: int


class SparseMembers:
    """`maps`, of those that hold data, grow in archive order."""

    def __init__(self) -> None:
        self.maps: list[SparseMap] = []
        self._extents = 0  # of all of them
        self._begun: _Begun | None = None

    @property
    def wants_block(self) -> bool:
        """Whether a member's map has begun and is not whole."""
        return self._begun is not None

    def begin(
        self, entry: Entry | None, found: RunsBuilder | SparseReader, body_bytes: int, offset: int
    ) -> Stored | None:
        """A member whose body, of body_bytes, is at offset of the payload; None: `take` its map."""
        if entry is None or entry.kind != EntryKind.FILE:
            name = shown(entry.path if entry else b"")
            raise errors.CorruptImage(f"tar: {name}: a sparse map of what is no file")
        if isinstance(found, RunsBuilder):
            return self._stored(entry, found, body_bytes, offset)
        self._begun = _Begun(entry, found, body_bytes, offset)
        return None

    def take(self, block: bytes, offset: int) -> Stored | None:
        """The next block of the map, which ends at offset of the payload; None: one more."""
        assert self._begun is not None
        entry, reader, body_bytes, body_offset = self._begun
        taken = offset - body_offset if reader.in_data else 0
        with naming_member(entry.path):
            if taken > body_bytes:
                raise errors.CorruptImage("a sparse map that is longer than its member")
            reader.take(block)
        if not reader.is_whole:
            return None
        self._begun = None
        return self._stored(entry, reader.runs, body_bytes - taken, offset)

    def _stored(self, entry: Entry, runs: RunsBuilder, packed_bytes: int, offset: int) -> Stored:
        """The map is whole, the data begins at offset."""
        with naming_member(entry.path):
            if packed_bytes != runs.data_bytes:
                raise errors.CorruptImage(
                    f"a sparse map of {runs.data_bytes} bytes for {packed_bytes} bytes of data"
                )
        found = None if runs.is_whole else runs.map(offset)
        if found is not None:
            self._extents += found.run_count
            self.maps.append(found)
            if self._extents > MAX_LAYER_EXTENTS or len(self.maps) > MAX_SPARSE_MEMBERS:
                raise errors.CorruptImage(
                    f"tar: more than {MAX_SPARSE_MEMBERS} sparse members, or of more than "
                    f"{MAX_LAYER_EXTENTS} runs together"
                )
        return Stored(
            msgspec.structs.replace(
                entry,
                size=runs.size,
                payload_offset=offset if packed_bytes else 0,
                kind=EntryKind.FILE if runs.is_whole else EntryKind.SPARSE,
            ),
            packed_bytes,
        )
