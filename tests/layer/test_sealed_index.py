"""Sealed layer indexes: what was sealed comes back, packed for the network or not; else a miss."""

import zlib

import pytest

from clipfs.content import keys
from clipfs.image.digest import Digest
from clipfs.image.model import Layer
from clipfs.layer import index as layer_index
from clipfs.layer import limits, sealed_index
from clipfs.layer.index import CHUNK_BYTES, Entry, EntryKind, PackedEntries, make_index
from clipfs.layer.seal import KeyRing
from clipfs.layer.sealed_index import KIND, open_index, seal_index
from clipfs.tiers.content import store

KEYS = KeyRing((b"key",))
LAYER = Layer(digest=Digest("sha256:" + "1" * 64), media_type="", size=1, diff_id=None)
INDEX = make_index(
    payload_bytes=8 * CHUNK_BYTES,
    diff_id="sha256:" + "2" * 64,
    chunk_digests=bytes(range(256)),
    entries=PackedEntries(
        Entry(path=b"usr/lib/python3/module-%d.py" % n, kind=EntryKind.FILE, mode=0o644, size=n)
        for n in range(1000)
    ),
)
CONTENT = layer_index.encode(INDEX)


def test_an_index_comes_back_packed_or_not() -> None:
    plain, packed = seal_index(INDEX, LAYER, KEYS), seal_index(INDEX, LAYER, KEYS, packed=True)
    assert open_index(plain, LAYER, KEYS) == (INDEX, False)
    assert open_index(packed, LAYER, KEYS) == (INDEX, False)


def test_a_packed_index_is_a_fraction() -> None:
    plain, packed = seal_index(INDEX, LAYER, KEYS), seal_index(INDEX, LAYER, KEYS, packed=True)
    assert len(packed) < len(plain) / 4


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(zlib.compress(CONTENT)[:-1], id="cut-short"),
        pytest.param(zlib.compress(CONTENT) + b"x", id="longer"),
        pytest.param(zlib.compress(CONTENT)[:-4] + bytes(4), id="other-checksum"),
        pytest.param(zlib.compress(CONTENT[:-1]), id="no-index-inside"),
        pytest.param(b"\x78", id="no-stream"),
    ],
)
def test_what_does_not_unpack_to_an_index_is_a_miss(content: bytes) -> None:
    sealed = KEYS.seal(content, kind=KIND, version=layer_index.VERSION, name=LAYER.cache_key)
    assert open_index(sealed, LAYER, KEYS) is None


def test_an_index_that_unpacks_to_more_than_any_index_has_is_a_miss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packed = seal_index(INDEX, LAYER, KEYS, packed=True)
    monkeypatch.setattr(sealed_index, "MAX_INDEX_BYTES", len(CONTENT))
    assert open_index(packed, LAYER, KEYS) == (INDEX, False)
    monkeypatch.setattr(sealed_index, "MAX_INDEX_BYTES", len(CONTENT) - 1)
    assert open_index(packed, LAYER, KEYS) is None


def test_whoever_keeps_or_moves_an_index_has_the_same_bound_for_it() -> None:
    assert keys.limit_of(f"{LAYER.cache_key}.v1.toc") == limits.MAX_SHARED_INDEX_BYTES
    assert store.MAX_OBJECT_BYTES == limits.MAX_SHARED_INDEX_BYTES


def test_what_is_signed_is_unpacked_to_no_more_than_a_shared_index_has() -> None:
    at_its_limits = limits.MAX_SHARED_INDEX_BYTES + limits.MAX_ENTRY_BYTES
    at_its_limits += 16 * limits.MAX_LAYER_EXTENTS + 24 * limits.MAX_SPARSE_MEMBERS
    assert at_its_limits <= sealed_index.MAX_INDEX_BYTES <= 256 << 20
