"""The layer index: bytes are none, or an index that is written back as it was.

Its entries may be anybody's (a seal says who wrote them, not that they are sound): they make
an image that can be read, or are refused.
"""

import copy
import re
from collections.abc import Iterable
from random import Random
from typing import Any

import msgspec

from clipfs import errors
from clipfs.layer import index as layer_index
from clipfs.layer.index import CHUNK_BYTES, Entry, EntryKind
from clipfs.layer.names import normalised
from clipfs.tree.merge import merge
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


def seeds() -> Iterable[bytes]:
    entries = [
        [],
        [file(b"a", size=5, offset=512), folder(b"d"), link(b"d/b", b"a"), symlink(b"s", b"d/b")],
        [folder(b"x", xattrs=_XATTRS), device(b"c", EntryKind.CHARACTER, 1, 3), file(b"x/y")],
        [folder(b""), opaque(b"d"), whiteout(b"d/gone"), file(b"s/x"), symlink(b"s", b"/../d")],
        [link(b"early", b"late"), file(b"late", size=1, mtime_s=-1, mtime_ns=5, uid=7, gid=8)],
        [file(b"d/%02d" % n) for n in range(40)],
    ]
    return [_index(one, payload) for one in entries for payload in (0, 4096, CHUNK_BYTES + 1)]


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
        entries=entries,
    )
    expect_same(made.entries(), entries, "entries, written and read back")
    if not all(_is_a_tars(entry, index.payload_bytes) for entry in entries):
        _survives(entries, index.payload_bytes)
        return Outcome.REFUSED
    return Outcome.READ if read_back(entries, index.payload_bytes) else Outcome.REFUSED


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


def _index(entries: list[Entry], payload_bytes: int) -> bytes:
    chunks = -(-payload_bytes // CHUNK_BYTES)
    return layer_index.encode(
        layer_index.make_index(
            payload_bytes=payload_bytes,
            diff_id="sha256:" + "0" * 64,
            chunk_digests=bytes(32 * chunks),
            entries=entries,
        )
    )


def _holds(entry: Entry) -> None:
    expect(0 <= entry.mode <= 0o7777, "a mode out of range")
    expect(0 <= entry.uid < 1 << 32 and 0 <= entry.gid < 1 << 32, "an owner out of range")
    expect(-(1 << 63) <= entry.mtime_s < 1 << 63, "a time out of range")
    expect(0 <= entry.mtime_ns < 10**9, "nanoseconds out of range")
    expect(entry.size >= 0 and entry.payload_offset >= 0, "a size or an offset below 0")


def _is_a_tars(entry: Entry, payload_bytes: int) -> bool:
    """Whether `clipfs.layer.tar` could have made it."""
    try:
        sound = normalised(entry.path) == entry.path
    except errors.CorruptImage:
        return False
    is_file = entry.kind == EntryKind.FILE
    is_link = entry.kind in (EntryKind.SYMLINK, EntryKind.HARDLINK)
    if entry.kind == EntryKind.SYMLINK:
        sound = sound and 0 < len(entry.target) < 4096 and b"\0" not in entry.target
    return (
        sound
        and (is_file or entry.size == 0)
        and (is_link or not entry.target)
        and entry.payload_offset % 512 == 0
        and entry.payload_offset + entry.size <= payload_bytes
        and entry.rdev_major < 1 << 12
        and entry.rdev_minor < 1 << 20
        and all(len(name) < 256 and _KEPT.fullmatch(name) for name, _ in entry.xattrs)
        and sum(len(name) + len(value) for name, value in entry.xattrs) < 65536
    )


def _survives(entries: list[Entry], payload_bytes: int) -> None:
    """No tar says it, so the image may be as odd: what matters is which error comes of it."""
    try:
        Walk(bytes(write_image(merge([entries]), devices_of(1, payload_bytes))))
    except errors.CorruptImage as error:
        expect_plain(error)


def _change(tree: list[Any], entries: list[Any], random: Random) -> None:
    """One step: a field of the index, an entry more or less or elsewhere, a field of one."""
    which = random.random()
    if which < 0.05:
        tree[random.randrange(len(tree) - 1)] = random.choice(_VALUES)
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
