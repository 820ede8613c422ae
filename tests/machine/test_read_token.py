"""A node whose token may only read stores nothing, whatever makes it want to."""

import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import images
from tests.support.content import ContentServer, run_content_server
from tests.support.machine import needs_fuse
from tests.support.node import ROOM, Node
from tests.support.registry import RegistryServer
from tests.support.wait import wait_for

pytestmark = needs_fuse

BYTES = 17 << 20
"""Three pages."""

AT_MOST = 6
"""Refused of one process: for each of two layers its claim, its index, and a page or a release,
which are on their way side by side."""

PROCESSES = 2
"""Of a mount: the command, and who is left behind; each finds out for itself."""

_REQUESTS = re.compile(
    r'^clip_content_cache_requests_total\{method="(\w+)",status="(\w+)"\} (\S+)$', re.MULTILINE
)
NOT_STORED = "layer was not stored in ContentCache"


@pytest.fixture(scope="module")
def image(registry: RegistryServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two layers, so that a second one is left out once the first was refused."""
    home = tmp_path_factory.mktemp("image")
    packed = []
    for name, size in (("big", BYTES), ("small", 1 << 20)):
        (home / f"of {name}").mkdir()
        (home / f"of {name}" / name).write_bytes(random.Random(size).randbytes(size))
        packed.append(images.layer(home / f"of {name}", home / f"{name}.tar"))
    images.write_layout(home / "oci", packed)
    return images.push(home / "oci", registry.address, "read-token:1")


class Nodes:
    """Nodes of one cluster: writers, and readers, whose token may only read."""

    def __init__(self, home: Path, cache: ContentServer, registry: RegistryServer) -> None:
        self._home = home
        self._common = ["--index-key-file", str(home / "key"), "--plain-http", registry.address]
        self._made: list[Node] = []
        self.cache = cache

    def writer(self) -> Node:
        return self._node("token")

    def reader(self) -> Node:
        return self._node("read-token")

    def close(self) -> None:
        for node in self._made:
            node.close()

    def objects(self) -> dict[str, tuple[int, int]]:
        """Every file that the content cache keeps, with its inode and its time."""
        files = [path for path in self.cache.directory.rglob("*") if path.is_file()]
        kept = [path for path in files if path.is_relative_to(self.cache.objects)]
        return {
            str(path): (path.stat().st_ino, path.stat().st_mtime_ns)
            for path in (*kept, *(self.cache.directory / "claims").rglob("sha256_*"))
        }

    def writes(self) -> dict[str, int]:
        """How many writing requests, claims too, the content cache has answered, by status."""
        found: dict[str, int] = {}
        metrics = self.cache.ask("GET", "/metrics").body.decode()
        for method, status, count in _REQUESTS.findall(metrics):
            if method not in ("GET", "HEAD"):
                found[status] = found.get(status, 0) + int(float(count))
        return found

    def _node(self, token: str) -> Node:
        options = ["--content-cache", self.cache.url,
                   "--content-cache-token-file", str(self.cache.folder / token)]  # fmt: skip
        node = Node(self._home / f"node-{len(self._made)}", [*self._common, *options])
        self._made.append(node)
        return node


@pytest.fixture
def nodes(tmp_path: Path, registry: RegistryServer) -> Iterator[Nodes]:
    (tmp_path / "key").write_text("the cluster's key\n")
    with run_content_server(tmp_path / "cc") as cache:
        made = Nodes(tmp_path, cache, registry)
        try:
            yield made
        finally:
            made.close()


def logs(node: Node) -> str:
    """Of all processes that its mounts have left behind."""
    return "".join(path.read_text() for path in (node.root / "run").glob("log/*"))


def mounted(front: str) -> Callable[[Node, str, Path], str]:
    def run(node: Node, image: str, where: Path) -> str:
        done = node.run("mount", image, str(where), "--root", str(node.root), *node.options,
                        "--front", front)  # fmt: skip
        node.mounted.append(where)
        wait_for(lambda: NOT_STORED in logs(node) and not node.json("stats")["storing"])
        return done.stderr

    return run


def indexed(node: Node, image: str, where: Path) -> str:
    return node.run("index", image, "--root", str(node.root), *node.options).stderr


@pytest.mark.parametrize(
    "use", [mounted("erofs"), mounted("fuse"), indexed], ids=["mount-erofs", "mount-fuse", "index"]
)
def test_what_was_downloaded_is_not_stored_and_that_is_said_once(
    use: Callable[[Node, str, Path], str], nodes: Nodes, image: str, tmp_path: Path
) -> None:
    node = nodes.reader()
    said = use(node, image, tmp_path / "m") + logs(node)
    assert nodes.objects() == {}
    writes = nodes.writes()
    assert set(writes) == {"4xx"}
    assert writes["4xx"] <= AT_MOST * PROCESSES, "once refused, a process asks for nothing more"
    (told,) = (line for line in said.splitlines() if NOT_STORED in line)
    assert "may only read" in told
    assert list((node.root / "run").glob("storing/*")) == []


@pytest.mark.parametrize("fill", ["off", "touched", "all"])
@pytest.mark.parametrize("spoil", ["lost", "wrong"])
def test_a_page_that_is_lost_or_wrong_is_neither_stored_again_nor_removed(
    spoil: str, fill: str, nodes: Nodes, image: str, tmp_path: Path
) -> None:
    found = nodes.writer().json("index", image)
    key = found["layers"][0]["cache_key"]
    page = nodes.cache.objects / key / "000000"
    data = bytearray(page.read_bytes())
    page.unlink()
    if spoil == "wrong":
        for at in range(0, len(data), 64 << 10):
            data[at] ^= 1
        page.write_bytes(data)
    before, written = nodes.objects(), nodes.writes()
    assert len(before) == (9 if spoil == "wrong" else 8), "pages, indexes and origin records"
    node = nodes.reader()
    node.mount(image, tmp_path / "m", "--front", "fuse", "--background-fill", fill, *ROOM)
    with (tmp_path / "m/big").open("rb", buffering=0) as file:
        right = random.Random(BYTES).randbytes(BYTES)
        assert os.pread(file.fileno(), 53_248, 1 << 20) == right[1 << 20 :][:53_248]
    wait_for(lambda: key in os.listdir(node.root / "cache"))
    wait_for(lambda: nodes.writes().get("4xx") and not node.json("stats")["storing"])
    node.unmount(tmp_path / "m")
    wait_for(lambda: not node.json("stats")["mounts"])
    assert nodes.objects() == before
    assert {**nodes.writes(), "4xx": 0} == {**written, "4xx": 0}
