"""Who names a neighbour's private layer and does not have it gets nothing of it, wherever it is.

By the installed commands. The neighbour's image is in one real registry; the other host is another
one, behind a proxy that makes it hostile: it serves manifests that name the neighbour's layer, and
of its blob nothing, other bytes, or, if it has them, the right ones.

One module, though long: its tests share the two registries and what nobody may read.
"""

import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from blake3 import blake3

from tests.support import images
from tests.support.content import ContentServer, run_content_server
from tests.support.faulty_registry import (
    Fault,
    FaultyRegistry,
    Spoil,
    on_downloads,
    refused,
    wrong_at,
)
from tests.support.machine import CLIPFS, needs_fuse
from tests.support.node import Node
from tests.support.registry import RegistryServer, run_registry
from tests.support.two_nodes import nodes_of, options_of_server, stored
from tests.support.wait import wait_for
from tests.support.web import Asked, Reply, WebServer, run_web

pytestmark = needs_fuse

SECRET = "the-neighbours-secret"
CHUNK_BYTES = 128 << 10

NOTHING, OTHER_BYTES = refused(404), wrong_at(-1)
WITHOUT = pytest.mark.parametrize(
    ("answer", "code"),
    [
        pytest.param(NOTHING, "image_not_found", id="404"),
        pytest.param(OTHER_BYTES, "corrupt_image", id="other bytes"),
    ],
)
NAMED = pytest.mark.parametrize("name", ["same", "mixed"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Private:
    """The neighbour's image, of one layer; the other registry has what a test gives its proxy.

    image    at the neighbour's registry
    other    has two images with the layer: `same` is the neighbour's own, manifest and all; `mixed`
             is another one, with a layer of its own, too
    digests  of the images by their names
    words    what nobody may read who has not got the layer: names, and digests of chunks
    """

    image: str
    registry: RegistryServer
    other: RegistryServer
    layer: str
    layer_bytes: int
    digests: dict[str, str]
    words: tuple[str, ...]


@pytest.fixture(scope="module")
def private(
    tmp_path_factory: pytest.TempPathFactory, registry: RegistryServer
) -> Iterator[Private]:
    home = tmp_path_factory.mktemp("private")
    (home / "tree" / SECRET).mkdir(parents=True)
    (home / "tree" / SECRET / "key").write_bytes(os.urandom(300_000))
    (home / "own").mkdir()
    (home / "own/file").write_text("mine\n")
    layer = images.layer(home / "tree", home / "tree.tar")
    own = images.layer(home / "own", home / "own.tar")
    images.write_layout(home / "same", [layer])
    images.write_layout(home / "mixed", [own, layer])
    payload = layer.tar.read_bytes()
    chunks = [payload[at : at + CHUNK_BYTES] for at in range(0, len(payload), CHUNK_BYTES)]
    with run_registry(home / "other") as other:
        for name in ("same", "mixed"):
            images.push(home / name, other.address, f"app/{name}:1")
        digest, size = blob_of(home / "same")
        yield Private(
            image=images.push(home / "same", registry.address, "private/app:1"),
            registry=registry,
            other=other,
            layer=digest,
            layer_bytes=size,
            digests={name: manifest_digest(home / name) for name in ("same", "mixed")},
            words=(SECRET, *(blake3(chunk).hexdigest() for chunk in chunks)),
        )


def manifest_digest(layout: Path) -> str:
    digest: str = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
    return digest


def blob_of(layout: Path) -> tuple[str, int]:
    """Digest and size of an image's only layer."""
    name = manifest_digest(layout).partition(":")[2]
    (layer,) = json.loads((layout / "blobs/sha256" / name).read_text())["layers"]
    return layer["digest"], layer["size"]


@dataclass(frozen=True, slots=True)
class OtherHost:
    """`refusal` is what it does to who asks for the layer; None: it has that."""

    web: WebServer
    refusal: Fault | None

    def image(self, name: str) -> str:
        return f"{self.web.address}/app/{name}:1"


@contextmanager
def other_host(private: Private, answer: Spoil | None = None) -> Iterator[OtherHost]:
    proxy = FaultyRegistry(private.other.address)
    fault = None
    if answer is not None:

        def fits(asked: Asked) -> bool:
            is_layer = private.layer in asked.path
            return is_layer and (answer is NOTHING or on_downloads(asked))

        fault = proxy.add(Fault(fits, answer, times=1000))
    with run_web(proxy) as web:
        yield OtherHost(web, fault)


@pytest.fixture
def content_server(tmp_path: Path) -> Iterator[ContentServer]:
    with run_content_server(tmp_path / "cc") as server:
        yield server


def plain(*addresses: str) -> list[str]:
    return [word for address in addresses for word in ("--plain-http", address)]


def gets_nothing(
    node: Node, host: OtherHost, private: Private, name: str, code: str, *, mounts: int = 0
) -> None:
    """Each command fails by that code, naming the image, and nothing of the layer gets out.

    mounts  that the node has, before and after
    """
    image, place = host.image(name), node.root / "nowhere"
    node.mounted.append(place)  # should it be, after all
    by_digest = f"{image}@{private.digests[name]}"
    for words in (
        ["mount", image, str(place)],
        ["mount", by_digest, str(place), "--front", "erofs"],
        ["mount", by_digest, str(place), "--front", "fuse"],
        ["index", image],
        ["ls", image],
    ):
        asked = [*words, "--root", str(node.root), *node.options, "--json", "--log-level", "debug"]
        done = node.run(*asked, check=False)
        assert done.returncode == 1, words
        error = json.loads(done.stdout)["error"]
        assert error["code"] == code, error
        assert image.partition("@")[0] in error["message"]
        assert [word for word in private.words if word in done.stdout + done.stderr] == []
        assert not place.exists()
    assert host.refusal is not None
    assert host.refusal.met >= 5
    key = private.digests[name].replace(":", "_")
    assert name == "same" or not list((node.root / "index").glob(f"{key}*"))
    assert len(node.json("stats")["mounts"]) == mounts


@WITHOUT
@NAMED
def test_of_a_layer_on_the_disk(
    name: str, answer: Spoil, code: str, private: Private, tmp_path: Path
) -> None:
    """`same` is there as an image index, too."""
    with other_host(private, answer) as host:
        options = plain(private.registry.address, host.web.address)
        with nodes_of(tmp_path, "A", options) as (node,):
            assert [row["name"] for row in node.json("ls", private.image)["entries"]] == [SECRET]
            gets_nothing(node, host, private, name, code)


@WITHOUT
@NAMED
def test_of_a_layer_in_the_content_cache(
    name: str,
    answer: Spoil,
    code: str,
    private: Private,
    content_server: ContentServer,
    tmp_path: Path,
) -> None:
    options = options_of_server(content_server, tmp_path)
    with other_host(private, answer) as host:
        options += plain(private.registry.address, host.web.address)
        with nodes_of(tmp_path, "AB", options) as (a, b):
            a.json("index", private.image)
            gets_nothing(b, host, private, name, code)
            assert private.layer.replace(":", "_") not in cached(b)


@WITHOUT
def test_of_a_layer_that_is_mounted_for_the_neighbour(
    answer: Spoil, code: str, private: Private, tmp_path: Path
) -> None:
    with other_host(private, answer) as host:
        options = plain(private.registry.address, host.web.address)
        with nodes_of(tmp_path, "A", options) as (node,):
            node.mount(private.image, tmp_path / "m", "--front", "fuse")
            gets_nothing(node, host, private, "same", code, mounts=1)
            assert (tmp_path / "m" / SECRET / "key").stat().st_size == 300_000


def started(node: Node, *words: str) -> subprocess.Popen[str]:
    command = [CLIPFS, *words, "--root", str(node.root), *node.options, "--json"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )


@contextmanager
def held_back(private: Private, until: threading.Event) -> Iterator[WebServer]:
    """The neighbour's registry, whose layer comes when it may."""
    registry = FaultyRegistry(private.registry.address)

    def respond(asked: Asked) -> Reply:
        if on_downloads(asked) and private.layer in asked.path:
            assert until.wait(60)
        return registry(asked)

    with run_web(respond) as web:
        yield web


@WITHOUT
@pytest.mark.parametrize("nodes", ["A", "AB"], ids=["on this node", "on another node"])
def test_of_a_layer_that_is_being_indexed_right_now(
    nodes: str,
    answer: Spoil,
    code: str,
    private: Private,
    content_server: ContentServer,
    tmp_path: Path,
) -> None:
    """Another process brings it for the neighbour; who waits for that has still to show it."""
    may_come = threading.Event()
    options = options_of_server(content_server, tmp_path)
    with held_back(private, may_come) as at_neighbour, other_host(private, answer) as host:
        options += plain(at_neighbour.address, host.web.address)
        image = private.image.replace(private.registry.address, at_neighbour.address)
        with nodes_of(tmp_path, nodes, options) as made:
            first = started(made[0], "index", image)
            try:
                wait_for(lambda: any(map(on_downloads, layer_asked(at_neighbour, private))))
                second = started(made[-1], "index", host.image("mixed"))
                wait_for(lambda: any("/blobs/" in path for path in host.web.paths()))
            finally:
                may_come.set()
            ended = [one.communicate(timeout=60) for one in (first, second)]
        assert (first.returncode, second.returncode) == (0, 1), ended
        error = json.loads(ended[1][0])["error"]
        assert error["code"] == code, error
        assert host.image("mixed") in error["message"]
        assert [word for word in private.words if word in "".join(ended[1])] == []


def layer_asked(web: WebServer, private: Private) -> list[Asked]:
    return [one for one in web.asked if private.layer in one.path]


@pytest.mark.parametrize("place", ["on the disk", "in the content cache"])
def test_who_has_the_layer_shows_it_by_one_download(
    place: str, private: Private, content_server: ContentServer, tmp_path: Path
) -> None:
    """The second host costs that and stores nothing again; what comes then costs nothing."""
    options = options_of_server(content_server, tmp_path)
    with other_host(private) as host:
        options += plain(private.registry.address, host.web.address)
        with nodes_of(tmp_path, "ABC", options) as (a, b, c):
            a.json("index", private.image)
            stored(a)
            node = a if place == "on the disk" else b
            spent, spent_at_c = registry_bytes(node), registry_bytes(c)
            before = cached(node)
            if place == "on the disk":
                node.mount(host.image("same"), tmp_path / "first")
            node.json("index", host.image("same"))  # which returns when the record is shared
            assert spent() == private.layer_bytes
            assert cached(node) == before
            node.mount(host.image("same"), tmp_path / "second")
            c.mount(host.image("same"), tmp_path / "elsewhere")
            found = {(tmp_path / one / SECRET / "key").read_bytes()
                     for one in ("second", "elsewhere")}  # fmt: skip
            assert {len(one) for one in found} == {300_000}
            assert len(found) == 1
            assert (spent(), spent_at_c()) == (private.layer_bytes, 0)


def registry_bytes(node: Node) -> Callable[[], int]:
    """What the node has downloaded since."""
    node.root.mkdir(exist_ok=True)

    def total() -> int:
        found: int = node.json("stats")["registry"]["bytes"]
        return found

    before = total()
    return lambda: total() - before


def cached(node: Node) -> dict[str, tuple[int, int]]:
    found = {path.name: path.stat() for path in (node.root / "cache").glob("*")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found.items()}


def test_a_root_without_records_earns_them_by_one_download_of_each_layer(
    private: Private, tmp_path: Path
) -> None:
    """As one that an earlier version has filled."""
    node = Node(tmp_path / "A", plain(private.registry.address))
    node.json("index", private.image)
    for record in (node.root / "index").glob("*.origin.*"):
        record.unlink()
    spent = registry_bytes(node)
    for _ in range(2):
        node.json("index", private.image)
    assert spent() == private.layer_bytes
