"""What a lazy mount on node B moves: some chunks for one read, and a file for all of it."""

import mmap
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import images
from tests.support.machine import needs_fuse
from tests.support.node import Node, content_cache
from tests.support.registry import RegistryServer
from tests.support.wait import wait_for

pytestmark = needs_fuse

READ_BYTES = 53_248
MOST_MOVED_BYTES = 512 << 10
FILE_BYTES, OTHER_BYTES = 40 << 20, 8 << 20
MIDDLE = (21 << 20) + 4096
CHUNK_BYTES = 128 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """An image in the content cache alone, as far as node B is concerned."""

    image: str
    content: bytes
    b: Node
    pages: Path


@pytest.fixture(scope="module")
def content() -> bytes:
    return os.urandom(FILE_BYTES)


@pytest.fixture
def place(content: bytes, tmp_path: Path, registry: RegistryServer) -> Iterator[Place]:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "big").write_bytes(content)
    (tree / "another").write_bytes(content[:OTHER_BYTES])
    images.write_layout(tmp_path / "oci", [images.layer(tree, tmp_path / "tar")], codec="plain")
    image = images.push(tmp_path / "oci", registry.address, "lazy-reads:1")
    (tmp_path / "key").write_text("the cluster's key\n")
    with content_cache(tmp_path / "cc") as (url, token_file, _):
        options = ["--content-cache", url, "--content-cache-token-file", str(token_file),
                   "--index-key-file", str(tmp_path / "key"),
                   "--plain-http", registry.address]  # fmt: skip
        Node(tmp_path / "A", options).json("index", image)
        b = Node(tmp_path / "B", options)
        try:
            objects = tmp_path / "cc/objects/objects"
            (pages,) = {path.parent for path in objects.glob("sha256_*/[0-9]*")}
            yield Place(image=image, content=content, b=b, pages=pages)
        finally:
            b.close()


def by_pread(file: Path) -> bytes:
    with file.open("rb", buffering=0) as raw:
        return os.pread(raw.fileno(), READ_BYTES, MIDDLE)


def by_pread_at_the_start(file: Path) -> bytes:
    with file.open("rb", buffering=0) as raw:
        return os.pread(raw.fileno(), READ_BYTES, 0)


def by_a_buffered_file(file: Path) -> bytes:
    with file.open("rb") as raw:
        raw.seek(MIDDLE)
        return raw.read(READ_BYTES)


def by_mmap(file: Path) -> bytes:
    with file.open("rb") as raw, mmap.mmap(raw.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        return mapped[MIDDLE : MIDDLE + READ_BYTES]


@pytest.mark.parametrize("read", [by_pread, by_pread_at_the_start, by_a_buffered_file, by_mmap])
def test_a_mount_and_one_read_move_half_a_megabyte_at_most(
    read: Callable[[Path], bytes], place: Place, tmp_path: Path
) -> None:
    place.b.mount(place.image, tmp_path / "mb", "--front", "fuse")
    start = 0 if read is by_pread_at_the_start else MIDDLE
    assert read(tmp_path / "mb/big") == place.content[start : start + READ_BYTES]
    stats = place.b.json("stats")
    assert READ_BYTES <= stats["content_cache"]["bytes"] <= MOST_MOVED_BYTES
    assert stats["registry"] == {"reads": 0, "bytes": 0}


def test_a_file_that_is_read_through_is_right_and_nothing_else_is_moved(
    place: Place, tmp_path: Path
) -> None:
    place.b.mount(place.image, tmp_path / "mb", "--front", "fuse")
    assert (tmp_path / "mb/big").read_bytes() == place.content
    stats = place.b.json("stats")["content_cache"]
    assert FILE_BYTES <= stats["bytes"] <= FILE_BYTES + 2 * CHUNK_BYTES
    assert stats["reads"] < FILE_BYTES / (512 << 10)  # far fewer than the kernel's requests


def test_a_layer_that_is_completed_moves_what_it_lacks_and_is_in_cache_then(
    place: Place, tmp_path: Path
) -> None:
    (layer,) = place.b.mount(place.image, tmp_path / "mb", "--front", "fuse")["layers"]
    (tmp_path / "mb/big").read_bytes()
    place.b.unmount(tmp_path / "mb")
    place.b.mount(place.image, tmp_path / "mb", "--front", "erofs")
    whole = tmp_path / "B/cache" / layer["cache_key"]
    assert whole.stat().st_size == layer["payload_size"]
    assert (tmp_path / "mb/another").read_bytes() == place.content[:OTHER_BYTES]
    stats = place.b.json("stats")
    assert stats["content_cache"]["bytes"] == layer["payload_size"]
    assert stats["registry"] == {"reads": 0, "bytes": 0}


def test_a_page_that_is_damaged_in_the_content_cache_is_counted_and_nobody_reads_it(
    place: Place, tmp_path: Path
) -> None:
    page = place.pages / f"{(OTHER_BYTES + MIDDLE) >> 23:06d}"  # the archive is sorted by name
    right = page.read_bytes()
    page.write_bytes(bytes(len(right)))
    place.b.mount(place.image, tmp_path / "mb", "--front", "fuse")
    assert place.b.json("stats")["content_cache"]["verify_failures"] == 0
    assert by_pread(tmp_path / "mb/big") == place.content[MIDDLE : MIDDLE + READ_BYTES]
    stats = place.b.json("stats")
    assert stats["content_cache"]["verify_failures"] == 1
    assert stats["registry"]["bytes"] > 0
    wait_for(lambda: page.exists() and page.read_bytes() == right)
    assert (
        "1 answers that did not verify" in place.b.run("stats", "--root", str(place.b.root)).stdout
    )
