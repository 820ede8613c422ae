"""What is here: all that bears a layer's key is one item, and nothing else is one."""

import os
from pathlib import Path

import pytest

from clipfs.cache.inventory import Item, inventory
from clipfs.layer.index import CHUNK_BYTES
from clipfs.layer.layout import Layout
from clipfs.layer.partial import Partial
from clipfs.layer.use import touch
from clipfs.mount import records
from clipfs.tiers.storing import mark_failed, mark_storing
from tests.support.samples import Sample

KEY = "sha256_" + "a" * 64


def only(layout: Layout) -> Item:
    (item,) = inventory(layout)
    return item


def test_a_root_that_was_never_used_holds_nothing(tmp_path: Path) -> None:
    assert inventory(Layout(tmp_path / "nowhere")) == []


def test_a_layers_payload_and_index_are_one_item(cached: Layout, sample: Sample) -> None:
    item = only(cached)
    assert (item.kind, item.key, item.state, item.users) == ("layer", sample.key, "complete", ())
    assert len(sample.payload) <= item.bytes < len(sample.payload) + 32_768


@pytest.mark.parametrize(
    ("names", "state"),
    [
        pytest.param([f"cache/{KEY}.raw", f"partial/{KEY}.raw"], "complete", id="raw"),
        pytest.param([f"partial/{KEY}", f"partial/{KEY}.chunks"], "partial", id="partial"),
        pytest.param([f"partial/{KEY}.first", f"index/{KEY}.v1.toc"], "partial", id="first-pass"),
        pytest.param([f"index/{KEY}.v1.toc", f"index/{KEY}.v1.sparse"], "index", id="index"),
        pytest.param([f"index/{KEY}.v0.toc"], "index", id="an-older-version"),
        pytest.param([f"index/{KEY}.v1.origin.{'d' * 64}"], "index", id="origin-record"),
    ],
)
def test_how_much_of_a_layer_is_here(names: list[str], state: str, layout: Layout) -> None:
    for name in names:
        (layout.root / name).write_bytes(b"")
    assert only(layout).state == state


@pytest.mark.parametrize(
    "name",
    ["cache/lost+found", "cache/sha256_ab", f"cache/{KEY}.bak", "index/key", "partial/x.chunks",
     f"index/{KEY}.v1.toc.1.ab.tmp"],
)  # fmt: skip
def test_what_is_not_named_as_ours_is_no_item(name: str, layout: Layout) -> None:
    (layout.root / name).write_bytes(b"x")
    assert inventory(layout) == []


def test_a_partial_payload_is_as_big_as_what_of_it_is_here(layout: Layout) -> None:
    with Partial(layout, KEY, payload_bytes=1 << 40) as partial:
        partial.write(range(7, 8), bytes(range(256)) * (CHUNK_BYTES // 256))
        partial.sync()
    assert CHUNK_BYTES <= only(layout).bytes < 64 << 20  # the map has a byte a chunk


def test_last_use_is_when_a_mount_touched_it_however_old_its_payload(
    cached: Layout, sample: Sample
) -> None:
    for path in (cached.payload(sample.key), cached.layer_index(sample.key)):
        os.utime(path, ns=(5, 5))
    assert only(cached).last_use_ns == 5
    touch(cached, layers=[sample.key, KEY], image=KEY)
    assert only(cached).last_use_ns > 5


def test_a_layer_is_used_by_the_mounts_whose_records_name_it_and_by_the_store(
    cached: Layout, sample: Sample
) -> None:
    record = records.new_mount(  # of this very process, which is alive
        image="r/i:1",
        digest="sha256:0",
        mountpoint=Path("/m"),
        layers=(sample.key,),
        index_key="sha256_0",
    )
    records.mounts(cached).write(record.id, record)
    assert only(cached).users == ("/m",)
    mark_storing(cached, sample.key)
    assert only(cached).users == ("/m", "the content cache's store")
    mark_failed(cached, sample.key)
    records.mounts(cached).remove(record.id)
    assert only(cached).users == ()


def test_an_image_index_that_cannot_be_read_is_an_item_too(layout: Layout) -> None:
    layout.image_index(KEY).write_bytes(b"no image")
    item = only(layout)
    assert (item.kind, item.needs) == ("image", None)
