"""The index of an image is merged once in a cluster: other nodes take it from the content cache."""

import hmac
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.support import images
from tests.support.content import READ_TOKEN, ContentServer, run_content_server
from tests.support.machine import needs_fuse
from tests.support.node import Node
from tests.support.registry import RegistryServer
from tests.support.two_nodes import options_of_server, stored
from tests.support.wait import wait_for

pytestmark = needs_fuse

KEY, OTHER_KEY = b"the cluster's key", b"somebody's key"
HEAD_BYTES = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Two images in a registry, an empty content cache, and nodes that have neither."""

    server: ContentServer
    image: str
    other: str
    node: Callable[[str], Node]

    def stored(self, index_key: str) -> bytes:
        answer = self.server.ask("GET", index_key)
        assert answer.status == 200
        return answer.body

    def replace(self, index_key: str, data: bytes) -> None:
        etag = self.server.ask("HEAD", index_key).headers["etag"]
        replaced = self.server.ask("PUT", index_key, data, headers={"If-Match": etag})
        assert replaced.status in (200, 201)

    def is_there(self, index_key: str) -> bool:
        return self.server.ask("HEAD", index_key).status == 200


@pytest.fixture
def place(tmp_path: Path, registry: RegistryServer) -> Iterator[Place]:
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    for folder, name in (lower, "known"), (upper, "upper"):
        folder.mkdir()
        (folder / name).write_bytes(os.urandom(1 << 20))
    layers = [images.layer(one, tmp_path / f"{one.name}.tar") for one in (lower, upper)]
    images.write_layout(tmp_path / "both", layers)
    images.write_layout(tmp_path / "one", layers[:1])
    nodes: list[Node] = []
    with run_content_server(tmp_path / "cc") as server:
        options = [*options_of_server(server, tmp_path), "--plain-http", registry.address]

        def node(name: str) -> Node:
            nodes.append(Node(tmp_path / name, options))
            return nodes[-1]

        try:
            yield Place(
                server=server,
                image=images.push(tmp_path / "both", registry.address, "merged-once:1"),
                other=images.push(tmp_path / "one", registry.address, "merged-once:other"),
                node=node,
            )
        finally:
            for one in nodes:
                one.close()


def index_key(mounted: dict[str, Any]) -> str:
    return str(mounted["digest"]).replace(":", "_") + ".v1.erofs"


def sealed(packed: bytes, name: str, key: bytes = KEY) -> bytes:
    """As the nodes seal it, by RFC 2104."""
    said = b"\0".join([b"erofs", b"1", name.removesuffix(".v1.erofs").encode(), packed])
    return b"CLIPSEAL" + hmac.digest(key, said, "sha256") + packed


def unpacked(stored: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(stored[HEAD_BYTES:])


def renamed(stored: bytes) -> bytes:
    """What was stored, with another file name in it; packed, not sealed."""
    image = unpacked(stored)
    assert image.count(b"known") == 1
    return zstandard.ZstdCompressor().compress(image.replace(b"known", b"knowo"))


@pytest.mark.parametrize("front", ["fuse", "erofs"])
def test_whoever_merges_an_image_for_a_mount_stores_its_index(
    place: Place, front: str, tmp_path: Path
) -> None:
    mounted = place.node("A").mount(place.image, tmp_path / "mnt", "--front", front)
    wait_for(lambda: place.is_there(index_key(mounted)))
    merged = (tmp_path / "A/index" / index_key(mounted)).read_bytes()
    assert unpacked(place.stored(index_key(mounted))) == merged


def test_a_kernel_mount_of_layers_that_are_stored_already_stores_the_index_alone(
    place: Place, tmp_path: Path
) -> None:
    key = index_key(place.node("A").json("index", place.image))
    etag = place.server.ask("HEAD", key).headers["etag"]
    assert place.server.ask("DELETE", key, headers={"If-Match": etag}).status == 204
    place.node("B").mount(place.image, tmp_path / "mnt")
    wait_for(lambda: place.is_there(key))


def test_indexing_once_more_puts_back_what_the_content_cache_has_lost(place: Place) -> None:
    a = place.node("A")
    key = index_key(a.json("index", place.image))
    etag = place.server.ask("HEAD", key).headers["etag"]
    assert place.server.ask("DELETE", key, headers={"If-Match": etag}).status == 204
    a.json("index", place.image)
    assert place.is_there(key)


def test_another_node_shows_what_was_merged_there(place: Place, tmp_path: Path) -> None:
    key = index_key(place.node("A").json("index", place.image))
    place.replace(key, sealed(renamed(place.stored(key)), key))
    place.node("B").mount(place.image, tmp_path / "mnt")
    assert sorted(os.listdir(tmp_path / "mnt")) == ["knowo", "upper"]


def test_the_kernel_is_shown_no_image_index_but_the_nodes_own(place: Place, tmp_path: Path) -> None:
    key = index_key(place.node("A").json("index", place.image))
    place.replace(key, sealed(renamed(place.stored(key)), key))
    b = place.node("B")
    b.mount(place.image, tmp_path / "server")
    assert sorted(os.listdir(tmp_path / "server")) == ["knowo", "upper"]
    assert b.mount(place.image, tmp_path / "whole", "--front", "erofs")["front"] == "erofs"
    assert sorted(os.listdir(tmp_path / "whole")) == ["known", "upper"]
    assert b.mount(place.image, tmp_path / "again")["front"] == "erofs"
    assert sorted(os.listdir(tmp_path / "again")) == ["known", "upper"]


@pytest.mark.parametrize(
    ("spoil", "failures"),
    [
        pytest.param(lambda data, name: sealed(renamed(data), name, OTHER_KEY), 1, id="forged"),
        pytest.param(lambda data, name: sealed(data[HEAD_BYTES:], "x" + name), 1, id="anothers"),
        pytest.param(lambda data, _: data[: len(data) // 2], 1, id="cut off"),
        pytest.param(lambda data, _: b"", 1, id="empty"),
        pytest.param(lambda data, _: data[:-1] + bytes([data[-1] ^ 1]), 1, id="one bit"),
        pytest.param(lambda _, name: sealed(b"no image", name), 0, id="signed rubbish"),
        pytest.param(lambda data, name: sealed(data[HEAD_BYTES:-9], name), 0, id="signed, short"),
    ],
)
def test_what_is_wrong_is_not_shown_and_is_put_right(
    place: Place, spoil: Callable[[bytes, str], bytes], failures: int, tmp_path: Path
) -> None:
    key = index_key(place.node("A").json("index", place.image))
    right = place.stored(key)
    place.replace(key, spoil(right, key))
    b = place.node("B")
    b.mount(place.image, tmp_path / "mnt")
    assert sorted(os.listdir(tmp_path / "mnt")) == ["known", "upper"]
    wait_for(lambda: place.stored(key) == right)
    assert b.json("stats")["content_cache"]["verify_failures"] == failures


def test_the_signed_index_of_another_image_is_not_shown(place: Place, tmp_path: Path) -> None:
    a = place.node("A")
    key, other = (index_key(a.json("index", one)) for one in (place.image, place.other))
    place.replace(key, sealed(place.stored(other)[HEAD_BYTES:], key))
    place.node("B").mount(place.image, tmp_path / "mnt")
    assert sorted(os.listdir(tmp_path / "mnt")) == ["known", "upper"]


def test_a_node_that_may_only_read_takes_it_and_stores_none(place: Place, tmp_path: Path) -> None:
    (tmp_path / "read-token").write_text(READ_TOKEN + "\n")
    a, reader = place.node("A"), place.node("R")
    reader.options = [
        str(tmp_path / "read-token") if one.endswith("/token") else one for one in reader.options
    ]
    mounted = reader.mount(place.other, tmp_path / "mnt")
    stored(reader)
    assert not place.is_there(index_key(mounted))
    key = index_key(a.json("index", place.image))
    place.replace(key, sealed(renamed(place.stored(key)), key))
    reader.mount(place.image, tmp_path / "again")
    assert sorted(os.listdir(tmp_path / "again")) == ["knowo", "upper"]
