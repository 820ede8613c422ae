"""The layer index file: the same bytes for the same payload, read back whole or not at all."""

import hashlib
import os
import struct
import subprocess
import sys

import msgspec
import pytest

from clipfs import errors
from clipfs.layer import index as layer_index
from clipfs.layer import sparse
from clipfs.layer.index import (
    CHUNK_BYTES,
    VERSION,
    Entry,
    EntryKind,
    LayerIndex,
    PackedEntries,
    make_index,
)
from clipfs.layer.sparse import SparseMap
from tests.layer.tars import END, entries_of, member, records

PAYLOAD = (
    records({b"SCHILY.xattr.user.b": b"2", b"SCHILY.xattr.user.a": b"1", b"mtime": b"-1.5"})
    + member(b"caf\xe9", b"x" * 700)
    + member(b"d/", typeflag=b"5")
    + member(b"s", typeflag=b"2", link=b"d")
    + member(b"h", typeflag=b"1", link=b"caf\xe9")
    + member(b"c", typeflag=b"3", devmajor=1, devminor=3)
    + member(b"p", typeflag=b"6")
    + END
)

RUNS = struct.pack("<4Q", 0, 200, 4096, 300)


def an_index(payload_bytes: int = len(PAYLOAD), chunks: int = 1) -> LayerIndex:
    return make_index(
        payload_bytes=payload_bytes,
        diff_id="sha256:" + hashlib.sha256(PAYLOAD).hexdigest(),
        chunk_digests=bytes(range(32)) * chunks,
        entries=PackedEntries(entries_of(PAYLOAD)),
    )


def test_an_index_is_read_back_as_it_was_made() -> None:
    made = an_index()
    found = layer_index.decode(layer_index.encode(made))
    assert found is not None
    assert (found.payload_bytes, found.diff_id) == (made.payload_bytes, made.diff_id)
    assert (found.chunk_count, found.chunk_digest(0)) == (1, bytes(range(32)))
    assert found.entries() == entries_of(PAYLOAD)
    assert layer_index.encode(found) == layer_index.encode(made)


def test_the_bytes_of_this_version_never_change() -> None:
    """Nodes of two releases share a content cache: other bytes need another version."""
    assert VERSION == 1
    found = hashlib.sha256(layer_index.encode(an_index())).hexdigest()
    assert found == "93ec54aac5f35e0c61d96ee7dfc1ab77abe9822739b3f37a76da443bd70ee9ac"


def test_maps_of_sparse_members_are_read_back_and_cost_an_index_without_them_no_byte() -> None:
    made = an_index()
    maps = (SparseMap(1 << 40, 512, struct.pack("<QQ", 1 << 39, 1)),)
    found = layer_index.decode(layer_index.encode(msgspec.structs.replace(made, sparse=maps)))
    assert found is not None
    assert found.sparse == maps
    assert [tuple(run) for run in found.sparse[0].extents()] == [(1 << 39, 1, 512)]
    fields = msgspec.msgpack.decode(layer_index.encode(made))
    assert len(fields) == 5
    assert layer_index.decode(layer_index.encode(made)) == made


@pytest.mark.parametrize(
    "maps",
    [
        pytest.param([(100, 512, b"abc")], id="no-pairs"),
        pytest.param([(100, 512, b"")], id="no-run"),
        pytest.param([(100, -512, (0, 5))], id="negative-offset"),
        pytest.param([(100, 0, (0, 5))], id="at-the-first-header"),
        pytest.param([(-1, 512, (0, 5))], id="negative-size"),
        pytest.param([(1 << 63, 512, (0, 5))], id="size-beyond-the-limit"),
        pytest.param([(100, 1 << 62, (0, 5))], id="offset-beyond-the-limit"),
        pytest.param([(100, 512, (96, 5))], id="beyond-its-size"),
        pytest.param([(1 << 44, 512, (0, 1 << 62))], id="a-run-of-2-to-the-62"),
        pytest.param([(1 << 44, 512, (0, 4096))], id="more-data-than-the-payload"),
        pytest.param([(100, 512, (0, 0))], id="empty-run"),
        pytest.param([(100, 512, (0, 5, 5, 5))], id="runs-that-touch"),
        pytest.param([(100, 512, (9, 5, 2, 5))], id="descending"),
        pytest.param([(100, 512, (0, 5, (1 << 64) - 1, 5))], id="beyond-64-bits"),
        pytest.param([(100, 512, (0, 5)), (100, 512, (0, 5))], id="two-at-one-place"),
        pytest.param([(100, 1024, (0, 5)), (100, 512, (0, 5))], id="not-in-archive-order"),
        pytest.param([(9000, 512, (0, 600)), (100, 1024, (0, 5))], id="two-that-overlap"),
    ],
)
def test_maps_that_no_tar_makes_are_no_index(
    maps: list[tuple[int, int, bytes | tuple[int, ...]]],
) -> None:
    packed = [
        (size, at, runs if isinstance(runs, bytes) else struct.pack(f"<{len(runs)}Q", *runs))
        for size, at, runs in maps
    ]
    sound = msgspec.structs.replace(an_index(4096), sparse=(SparseMap(9000, 512, RUNS),))
    assert layer_index.decode(layer_index.encode(sound)) is not None
    fields = msgspec.structs.asdict(sound) | {"sparse": packed}
    assert layer_index.decode(msgspec.msgpack.encode(list(fields.values()))) is None


@pytest.mark.parametrize("limit", ["MAX_SPARSE_MEMBERS", "MAX_LAYER_EXTENTS"])
def test_maps_beyond_a_layers_limits_are_no_index(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = tuple(SparseMap(9000, 512 + 512 * n, RUNS) for n in range(3))
    content = layer_index.encode(msgspec.structs.replace(an_index(4096), sparse=maps))
    monkeypatch.setattr(sparse, limit, 3 if limit == "MAX_SPARSE_MEMBERS" else 6)
    assert layer_index.decode(content) is not None
    monkeypatch.setattr(sparse, limit, 2 if limit == "MAX_SPARSE_MEMBERS" else 5)
    assert layer_index.decode(content) is None


def test_the_bytes_are_the_same_in_every_process() -> None:
    code = (
        "import hashlib; from clipfs.layer.index import encode;"
        "from tests.layer.test_index import an_index;"
        "print(hashlib.sha256(encode(an_index())).hexdigest())"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "TZ": zone},
            capture_output=True,
            check=True,
        ).stdout
        for seed, zone in (("1", "UTC"), ("2", "Asia/Tokyo"))
    }
    assert said == {hashlib.sha256(layer_index.encode(an_index())).hexdigest().encode() + b"\n"}


@pytest.mark.parametrize(
    "index",
    [
        pytest.param(an_index(payload_bytes=0, chunks=0), id="nothing"),
        pytest.param(an_index(payload_bytes=1), id="one-byte"),
        pytest.param(an_index(payload_bytes=CHUNK_BYTES), id="one-chunk"),
        pytest.param(an_index(payload_bytes=CHUNK_BYTES + 1, chunks=2), id="and-a-byte"),
    ],
)
def test_every_chunk_has_one_digest(index: LayerIndex) -> None:
    assert layer_index.decode(layer_index.encode(index)) is not None


def changed(**fields: object) -> bytes:
    return layer_index.encode(msgspec.structs.replace(an_index(), **fields))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"junk", id="junk"),
        pytest.param(changed(version=VERSION + 1), id="a-later-version"),
        pytest.param(changed(version=0), id="an-earlier-version"),
        pytest.param(msgspec.msgpack.encode([2, {"other": "fields"}]), id="a-later-format"),
        pytest.param(layer_index.encode(an_index())[:-1], id="cut-short"),
        pytest.param(layer_index.encode(an_index()) + b"\0", id="too-long"),
        pytest.param(changed(payload_bytes=-1, chunk_digests=b""), id="negative-size"),
        pytest.param(changed(chunk_digests=b""), id="too-few-digests"),
        pytest.param(changed(chunk_digests=bytes(64)), id="too-many-digests"),
        pytest.param(changed(chunk_digests=bytes(31)), id="half-a-digest"),
        pytest.param(
            layer_index.encode(an_index()).replace(b"sha256:", b"\xffha256:"), id="not-utf-8"
        ),
        pytest.param(changed(raw_entries=msgspec.Raw(b"\x91" * 100_000)), id="nested-too-deep"),
    ],
)
def test_what_is_no_index_of_this_version_is_none(content: bytes) -> None:
    assert layer_index.decode(content) is None


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param([b"a", 1, -1], id="negative-mode"),
        pytest.param([b"a", 1, 0o100644], id="mode-with-a-file-type"),
        pytest.param([b"a", 9, 0], id="unknown-kind"),
        pytest.param([b"a", 1, 0, 1 << 32], id="owner"),
        pytest.param([b"a", 1, 0, 0, 0, 1 << 63], id="seconds"),
        pytest.param([b"a", 1, 0, 0, 0, 0, 10**9], id="nanoseconds"),
        pytest.param([b"a", 1, 0, 0, 0, 0, 0, -1], id="negative-size"),
        pytest.param([b"a", 1, 0, 0, 0, 0, 0, 1, 1 << 60], id="offset"),
        pytest.param([b"a" * 5000, 1, 0], id="long-path"),
        pytest.param({}, id="no-list"),
    ],
)
def test_entries_that_no_tar_makes_are_corrupt_not_another_error(entry: object) -> None:
    """Found by tests.fuzz: a seal says who wrote an index, not that it is sound."""
    index = layer_index.decode(changed(raw_entries=msgspec.Raw(msgspec.msgpack.encode([entry]))))
    assert index is not None
    with pytest.raises(errors.CorruptImage, match="layer index: malformed entries"):
        index.entries()


@pytest.mark.parametrize("count", [0, 1, 15, 16, (1 << 16) - 1, 1 << 16])
def test_entries_packed_one_by_one_are_the_bytes_of_their_list(count: int) -> None:
    entries = [Entry(path=b"%d" % n, kind=EntryKind.FILE, mode=0o644) for n in range(count)]
    packed = PackedEntries()
    for entry in entries:
        packed.append(entry)
    index = make_index(payload_bytes=0, diff_id="", chunk_digests=b"", entries=packed)
    assert bytes(index.raw_entries) == msgspec.msgpack.encode(entries)
    assert layer_index.decode(layer_index.encode(index)) == index
    assert index.entry_count == count
    assert index.entries() == entries


def test_entries_are_bounded_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_index, "MAX_ENTRY_BYTES", 1000)
    packed, long = PackedEntries(), Entry(path=b"n" * 300, kind=EntryKind.FILE, mode=0)
    for _ in range(3):
        packed.append(long)
    with pytest.raises(errors.CorruptImage, match="xattrs of 4 members take over"):
        packed.append(long)


def test_kinds_have_fixed_numbers() -> None:
    assert [(kind.name, kind.value) for kind in EntryKind] == [
        ("FILE", 1),
        ("DIRECTORY", 2),
        ("SYMLINK", 3),
        ("HARDLINK", 4),
        ("CHARACTER", 5),
        ("BLOCK", 6),
        ("FIFO", 7),
        ("SPARSE", 8),
    ]
    assert Entry(path=b"", kind=EntryKind.FILE, mode=0).xattrs == ()
