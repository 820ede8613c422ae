"""Payloads against their indexes: the wrong one goes, the right and the unknown ones stay."""

import dataclasses
import errno
import os
import struct
from pathlib import Path

import msgspec
import pytest

from clipfs.cache.verify import Verdict, verify
from clipfs.layer.layout import Layout
from clipfs.layer.seal import KeyRing
from clipfs.layer.sealed_index import seal_index
from clipfs.layer.sparse import SparseMap
from clipfs.mount.rebuilt import rebuilt
from clipfs.tiers.origins import OriginRecords
from clipfs.tree.sparse import layout_of
from tests.support.damage import DAMAGES, Damage, refusing
from tests.support.samples import Sample
from tests.support.tier_stack import KEYS


def only(layout: Layout, keys: KeyRing = KEYS) -> Verdict:
    (verdict,) = verify(layout, keys)
    return verdict


def test_a_payload_as_its_index_says_is_right(cached: Layout, sample: Sample) -> None:
    assert only(cached).is_ == "right"
    assert cached.payload(sample.key).read_bytes() == sample.payload


@pytest.mark.parametrize("offset", [0, 131_071, 131_072, -1])
def test_one_wrong_bit_is_found_wherever_it_is_and_the_payload_goes(
    offset: int, cached: Layout, sample: Sample
) -> None:
    spoilt = bytearray(sample.payload)
    spoilt[offset] ^= 1
    cached.payload(sample.key).write_bytes(spoilt)
    verdict = only(cached)
    chunk = range(len(spoilt))[offset] // 131_072
    assert (verdict.is_, f"chunk {chunk} differs" in verdict.why) == ("wrong", True)
    assert not cached.payload(sample.key).exists()
    assert cached.layer_index(sample.key).exists()


def test_a_wrong_payload_takes_nothing_from_the_proof_that_its_blob_was_right(
    cached: Layout, sample: Sample
) -> None:
    records = OriginRecords(cached, KEYS)
    records.add(sample.layer, "registry.example")
    cached.payload(sample.key).write_bytes(bytes(len(sample.payload)))
    assert only(cached).is_ == "wrong"
    assert records.has(sample.layer, "registry.example")


@pytest.mark.parametrize("change", [-1, 1, -131_072])
def test_a_payload_of_another_length_is_wrong(change: int, cached: Layout, sample: Sample) -> None:
    os.truncate(cached.payload(sample.key), len(sample.payload) + change)
    assert only(cached).is_ == "wrong"


def test_a_payload_whose_chunks_agree_but_not_its_diff_id_is_wrong(
    cached: Layout, sample: Sample
) -> None:
    index = msgspec.structs.replace(sample.indexed.index, diff_id="sha256:" + "0" * 64)
    cached.layer_index(sample.key).write_bytes(seal_index(index, sample.layer, KEYS))
    verdict = only(cached)
    assert (verdict.is_, "digest" in verdict.why) == ("wrong", True)


@pytest.mark.parametrize("keys", [KeyRing((b"another key",)), KeyRing(())])
def test_without_a_key_that_signed_its_index_a_payload_is_unknown_and_stays(
    keys: KeyRing, cached: Layout, sample: Sample
) -> None:
    cached.payload(sample.key).write_bytes(b"wrong")
    assert only(cached, keys).is_ == "unknown"
    assert cached.payload(sample.key).exists()


def test_a_payload_without_an_index_is_unknown(cached: Layout, sample: Sample) -> None:
    cached.layer_index(sample.key).unlink()
    assert only(cached).is_ == "unknown"


SPARSE_MAP = SparseMap(1 << 30, 512, struct.pack("<QQQQ", 5000, 100, 1 << 29, 60_000))


@pytest.fixture
def rebuilt_file(cached: Layout, sample: Sample) -> Path:
    """Sparse files of the sample, as if its payload held such a member."""
    index = msgspec.structs.replace(sample.indexed.index, sparse=(SPARSE_MAP,))
    cached.layer_index(sample.key).write_bytes(seal_index(index, sample.layer, KEYS))
    sparse = layout_of(index.sparse)
    assert sparse is not None
    path = rebuilt(cached, dataclasses.replace(sample.indexed, index=index), sparse)
    path.chmod(0o600)
    return path


def test_sparse_files_as_the_payload_makes_them_are_right(
    cached: Layout, rebuilt_file: Path
) -> None:
    assert only(cached).is_ == "right"
    assert rebuilt_file.exists()


@pytest.mark.parametrize("offset", [0, 512 + 5000, -1, -30_000])
def test_one_wrong_bit_in_sparse_files_is_found_and_they_alone_go(
    offset: int, cached: Layout, sample: Sample, rebuilt_file: Path
) -> None:
    with rebuilt_file.open("r+b") as file:
        place = range(rebuilt_file.stat().st_size)[offset]
        (right,) = os.pread(file.fileno(), 1, place)
        os.pwrite(file.fileno(), bytes([right ^ 1]), place)
    verdict = only(cached)
    assert (verdict.is_, "sparse files rebuilt of it differ" in verdict.why) == ("wrong", True)
    assert not rebuilt_file.exists()
    assert cached.payload(sample.key).exists()
    assert only(cached).is_ == "right"


def test_sparse_files_go_with_a_wrong_payload_and_with_an_index_that_knows_none(
    cached: Layout, sample: Sample, rebuilt_file: Path
) -> None:
    rebuilt_file.rename(kept := rebuilt_file.with_name("kept"))
    os.link(kept, rebuilt_file)
    payload = cached.payload(sample.key).read_bytes()
    cached.payload(sample.key).write_bytes(payload[:-1])
    assert only(cached).is_ == "wrong"
    assert not rebuilt_file.exists()
    cached.payload(sample.key).write_bytes(payload)
    os.link(kept, rebuilt_file)
    sealed = seal_index(sample.indexed.index, sample.layer, KEYS)
    cached.layer_index(sample.key).write_bytes(sealed)
    assert "of another layer" in only(cached).why
    assert not rebuilt_file.exists()


def test_a_layer_that_is_not_complete_is_not_judged(cached: Layout, sample: Sample) -> None:
    cached.payload(sample.key).unlink()
    assert list(verify(cached, KEYS)) == []


@pytest.mark.parametrize("which", ["payload", "layer_index", "sparse_file"])
@pytest.mark.parametrize("damage", [*DAMAGES.values(), None], ids=[*DAMAGES, "EIO"])
def test_what_is_no_file_or_cannot_be_read_is_wrong_and_the_others_are_judged(
    damage: Damage | None,
    which: str,
    cached: Layout,
    sample: Sample,
    rebuilt_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = "sha256_" + "f" * 64
    cached.payload(other).touch()
    path: Path = getattr(cached, which)(sample.key)
    if damage:
        damage(path)
    else:
        refusing(monkeypatch, path, errno.EIO)
    first, second = verify(cached, KEYS)
    assert (first.is_, second.is_) == ("wrong", "unknown")
    assert str(path) in first.why
    assert not os.path.lexists(path)
    assert cached.payload(sample.key).exists() is (which != "payload")
