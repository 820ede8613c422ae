"""The layer index: bytes are none, or an index that is written back as it was.

Its entries may be anybody's (a seal says who wrote them, not that they are sound): they make
an image that can be read, or are refused.
"""

import copy
import re
import struct
from collections.abc import Iterable
from random import Random
from typing import Any

import msgspec

from clipfs import errors
from clipfs.layer import index as layer_index
from clipfs.layer.archive.names import normalised
from clipfs.layer.index import CHUNK_BYTES, Entry, EntryKind, LayerIndex, PackedEntries
from clipfs.layer.sparse import SparseMap
from clipfs.tree.merge import merge
from clipfs.tree.sparse import layout_of
from clipfs.tree.superblock import Device
from clipfs.tree.writer import write_image
from tests.fuzz.downstream import read_back
from tests.fuzz.images import Walk
from tests.fuzz.judge import Mutate, Outcome, expect, expect_plain, expect_same
from tests.support.entries import device, devices_of, file, folder, link, opaque, symlink, whiteout

_XATTRS = ((b"user.a", b"v"), (b"security.capability", b"c" * 20))
_VALUES: list[Any] = [
    *(
        0,
        1,
        2,
        3,
        4,
        5,
        6,
        7,
        -1,
        511,
        512,
        0o7777,
        0o100644,
        1 << 31,
        1 << 32,
        1 << 63,
        -(1 << 63),
    ),
    *((1 << 64) - 1, 10**9, None, True, 1.5, "text", [], {}, [[b"user.a", b"v"]], [[b"x", b"y"]]),
    *([[b"user.", b""]], [[b"user.a" * 60, b"v"]], [[b"trusted.x", b"v" * 70000]]),
    *(b"", b"a", b"d/b", b"../x", b"/x", b"a//b", b"a/", b".wh.a", b"n" * 300, b"a\0b", b"."),
    *(b"d/" * 1100 + b"x", b"t" * 5000, b".wh..wh..opq"),
]

_PATHS = [b"a", b"d", b"d/b", b"s", b"s/x", b"x/y", b"", b".wh.a", b"d/.wh..wh..opq", b"late"]
_SOUND: list[list[Any]] = [
    *(_PATHS, [1, 2, 3, 4, 5, 6, 7], [0, 0o644, 0o7777], [0, 7], [0, (1 << 32) - 1]),
    *([0, -1, 1 << 40], [0, 999_999_999], [0, 1, 512, 600], [0, 512, 4096]),
    *([b"", b"d/b", b"../d", b"/", b"t" * 900, *_PATHS], [0, 5, 4095], [0, 1, (1 << 20) - 1]),
    [[], [[b"user.a", b"v" * 300]], [[b"security.capability", b"c" * 20], [b"user.b", b""]]],
]
"""Of each field of an entry, values that are right in themselves."""

_KEPT = re.compile(rb"user\..+|security\.capability|system\.posix_acl_(access|default)", re.DOTALL)

_MAPS = [
    SparseMap(9000, 512, struct.pack("<4Q", 0, 200, 8000, 1000)),
    SparseMap(1 << 40, 2048, struct.pack("<2Q", 1 << 39, 1)),
]
_SPARSE_FILES = [
    Entry(path=b"a", kind=EntryKind.SPARSE, mode=0o644, size=9000, payload_offset=512),
    Entry(path=b"d/b", kind=EntryKind.SPARSE, mode=0o644, size=1 << 40, payload_offset=2048),
    Entry(path=b"hole", kind=EntryKind.SPARSE, mode=0o644, size=1 << 40),
]
_RUNS = [0, 1, 5, 200, 512, 4096, 8000, 1 << 39, 1 << 44, 1 << 62, (1 << 64) - 1]


def seeds() -> Iterable[bytes]:
    entries = [
        [],
        [file(b"a", size=5, offset=512), folder(b"d"), link(b"d/b", b"a"), symlink(b"s", b"d/b")],
        [folder(b"x", xattrs=_XATTRS), device(b"c", EntryKind.CHARACTER, 1, 3), file(b"x/y")],
        [folder(b""), opaque(b"d"), whiteout(b"d/gone"), file(b"s/x"), symlink(b"s", b"/../d")],
        [link(b"early", b"late"), file(b"late", size=1, mtime_s=-1, mtime_ns=5, uid=7, gid=8)],
        [file(b"d/%02d" % n) for n in range(40)],
    ]
    plain = [_index(one, payload) for one in entries for payload in (0, 4096, CHUNK_BYTES + 1)]
    return [*plain, _index(_SPARSE_FILES, 4096, _MAPS), _index([], 4096, _MAPS[:1])]


def run(data: bytes) -> Outcome:
    index = layer_index.decode(data)
    if index is None:
        return Outcome.STOPPED
    again = layer_index.decode(layer_index.encode(index))
    expect_same(again, index, "written and read back")
    expect_same(index.chunk_count, -(-index.payload_bytes // CHUNK_BYTES), "chunks")
    for chunk in range(index.chunk_count):
        expect_same(len(index.chunk_digest(chunk)), 32, "a chunk's digest")
    try:
        entries = index.entries()
    except errors.CorruptImage as error:
        expect_plain(error)
        return Outcome.REFUSED
    for entry in entries:
        _holds(entry)
    made = layer_index.make_index(
        payload_bytes=index.payload_bytes,
        diff_id=index.diff_id,
        chunk_digests=index.chunk_digests,
        entries=PackedEntries(entries),
        sparse=index.sparse,
    )
    expect_same(made.entries(), entries, "entries, written and read back")
    if not all(_is_a_tars(entry, index) for entry in entries):
        _survives(entries, index)
        return Outcome.REFUSED
    is_read = read_back(entries, index.payload_bytes, index.sparse)
    return Outcome.READ if is_read else Outcome.REFUSED


def mutate(data: bytes, random: Random, blind: Mutate, max_bytes: int) -> bytes:
    if random.random() < 0.2:
        return blind(data, max_bytes)
    try:
        tree = msgspec.msgpack.decode(data, strict=False)
        entries = tree[4]
        assert isinstance(entries, list)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, LookupError, TypeError,
            AssertionError):  # fmt: skip
        return blind(data, max_bytes)
    for _ in range(random.choice((1, 1, 2, 3))):
        _change(tree, entries, random)
    try:
        return msgspec.msgpack.encode(tree)
    except (OverflowError, RecursionError):
        return data


def _index(entries: list[Entry], payload_bytes: int, maps: Iterable[SparseMap] = ()) -> bytes:
    chunks = -(-payload_bytes // CHUNK_BYTES)
    return layer_index.encode(
        layer_index.make_index(
            payload_bytes=payload_bytes,
            diff_id="sha256:" + "0" * 64,
            chunk_digests=bytes(32 * chunks),
            entries=PackedEntries(entries),
            sparse=maps,
        )
    )


def _holds(entry: Entry) -> None:
    expect(0 <= entry.mode <= 0o7777, "a mode out of range")
    expect(0 <= entry.uid < 1 << 32 and 0 <= entry.gid < 1 << 32, "an owner out of range")
    expect(-(1 << 63) <= entry.mtime_s < 1 << 63, "a time out of range")
    expect(0 <= entry.mtime_ns < 10**9, "nanoseconds out of range")
    expect(entry.size >= 0 and entry.payload_offset >= 0, "a size or an offset below 0")


def _is_a_tars(entry: Entry, index: LayerIndex) -> bool:
    """Whether `clipfs.layer.archive.tar` could have made it."""
    try:
        sound = normalised(entry.path) == entry.path
    except errors.CorruptImage:
        return False
    if entry.kind == EntryKind.SPARSE:
        has_map = any(
            (one.size, one.payload_offset) == (entry.size, entry.payload_offset)
            for one in index.sparse
        )
        stored_bytes, sound = 0, sound and (has_map or not entry.payload_offset)
    else:
        stored_bytes = entry.size
    is_file = entry.kind in (EntryKind.FILE, EntryKind.SPARSE)
    is_link = entry.kind in (EntryKind.SYMLINK, EntryKind.HARDLINK)
    if entry.kind == EntryKind.SYMLINK:
        sound = sound and 0 < len(entry.target) < 4096 and b"\0" not in entry.target
    return (
        sound
        and (is_file or entry.size == 0)
        and (is_link or not entry.target)
        and entry.payload_offset % 512 == 0
        and entry.payload_offset + stored_bytes <= index.payload_bytes
        and entry.rdev_major < 1 << 12
        and entry.rdev_minor < 1 << 20
        and all(len(name) < 256 and _KEPT.fullmatch(name) for name, _ in entry.xattrs)
        and sum(len(name) + len(value) for name, value in entry.xattrs) < 65536
    )


def _survives(entries: list[Entry], index: LayerIndex) -> None:
    """No tar says it, so the image may be as odd: what matters is which error comes of it."""
    (layer,) = devices_of(1, index.payload_bytes)
    try:
        device = Device(
            digest=layer.digest,
            payload_bytes=index.payload_bytes,
            sparse=layout_of(index.sparse),
        )
        Walk(bytes(write_image(merge([entries]), [device])))
    except errors.CorruptImage as error:
        expect_plain(error)


def _change_map(fields: Any, random: Random) -> None:
    """One step in the map of a sparse file: another size or place, other runs."""
    if not isinstance(fields, list) or len(fields) < 3:
        return
    at = random.randrange(3)
    numbers = random.choices(_RUNS, k=random.choice((0, 1, 2, 2, 4, 4)))
    fields[at] = struct.pack(f"<{len(numbers)}Q", *numbers) if at == 2 else random.choice(_RUNS)


def _change(tree: list[Any], entries: list[Any], random: Random) -> None:
    """One step: a field of the index, an entry more or less or elsewhere, a field of one."""
    which = random.random()
    if which < 0.05:
        tree[random.randrange(min(len(tree), 4))] = random.choice(_VALUES)
    elif which < 0.2 and len(tree) > 5 and isinstance(tree[5], list) and tree[5]:
        _change_map(random.choice(tree[5]), random)
    elif which < 0.1:
        chunks = random.choice((0, 1, 2, 50))
        tree[1] = chunks * CHUNK_BYTES
        tree[3] = bytes(32 * chunks)
    elif not entries or which < 0.2:
        path = random.choice([b"new", b"d", b"d/b", b"a", b".wh.d", b"s", b"s/x"])
        kind = random.choice(list(EntryKind))
        entries.append(list(msgspec.to_builtins(Entry(path=path, kind=kind, mode=0o644),
                                                builtin_types=(bytes,))))  # fmt: skip
    elif which < 0.3:
        entries.insert(random.randrange(len(entries)), copy.copy(random.choice(entries)))
    elif which < 0.4:
        entries.pop(random.randrange(len(entries)))
    else:
        entry = random.choice(entries)
        if isinstance(entry, list) and entry:
            at = random.randrange(len(entry))
            sound = _SOUND[at] if at < len(_SOUND) and random.random() < 0.8 else _VALUES
            entry[at] = random.choice(sound)
