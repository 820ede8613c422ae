"""Node A pays, node B reads ranges: the whole way, with the installed commands."""

import json
import os
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import images
from tests.support.image_indexes import image_indexes
from tests.support.images import Packed
from tests.support.machine import needs_fuse
from tests.support.node import Node, alive, content_cache
from tests.support.registry import RegistryServer
from tests.support.trees import compare
from tests.support.wait import wait_for

pytestmark = needs_fuse

MISS = "ContentCache miss - will decompress from OCI"
HIT = "CONTENT CACHE HIT - range read from remote"


@dataclass(frozen=True)
class Built:
    layers: list[Packed]
    layout: Path
    reference: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Three layers of this machine's own Python files: whiteouts, links across layers."""
    home = tmp_path_factory.mktemp("image")
    one, two, three = home / "1", home / "2", home / "3"
    shutil.copytree(os.path.dirname(os.__file__) + "/json", one / "lib/json")
    shutil.copytree(os.path.dirname(os.__file__) + "/encodings", one / "lib/encodings")
    (one / "big").write_bytes(os.urandom(20 << 20))
    (one / "lib/empty").touch()
    os.symlink("json/decoder.py", one / "lib/link")
    os.link(one / "lib/json/decoder.py", one / "lib/same")
    os.setxattr(one / "lib/empty", "user.note", b"kept \0 as it is")
    os.chmod(one / "lib/empty", 0o4755)
    os.chown(one / "lib/same", 12, 34)
    (one / "gone").mkdir()
    (one / "gone/file").write_text("hidden by layer 2")
    (one / "opaque").mkdir()
    (one / "opaque/file").write_text("hidden by layer 3")
    packed = [images.layer(one, home / "1.tar")]
    two.mkdir()
    (two / ".wh.gone").touch()
    (two / "name-\udcff").write_text("not UTF-8")
    (two / ("long" * 60)).mkdir()
    packed.append(images.layer(two, home / "2.tar"))
    (three / "opaque").mkdir(parents=True)
    (three / "opaque/.wh..wh..opq").touch()
    (three / "opaque/new").write_text("from layer 3")
    packed.append(images.layer(three, home / "3.tar"))
    packed.append(_link_layer(home))
    images.write_layout(home / "oci", packed)
    return Built(packed, home / "oci", images.unpack(home / "oci", home / "bundle"))


def _link_layer(home: Path) -> Packed:
    """A hard link to a file of the first layer, which GNU tar would not write."""
    with tarfile.open(home / "4.tar", "w") as tar:
        info = tarfile.TarInfo("lib/across")
        info.type, info.linkname = tarfile.LNKTYPE, "lib/json/decoder.py"
        tar.addfile(info)
    return Packed(home / "4.tar")


@pytest.fixture
def nodes(tmp_path: Path, registry: RegistryServer) -> Iterator[dict[str, Any]]:
    """A content cache and two nodes with separate roots and one key."""
    (tmp_path / "key").write_text("the cluster's key\n")
    with content_cache(tmp_path / "cc") as (url, token_file, log):
        options = ["--content-cache", url, "--content-cache-token-file", str(token_file),
                   "--index-key-file", str(tmp_path / "key"),
                   "--plain-http", registry.address]  # fmt: skip
        a, b = Node(tmp_path / "A", options), Node(tmp_path / "B", options)
        try:
            yield {"a": a, "b": b, "log": log}
        finally:
            a.close()
            b.close()


@pytest.mark.parametrize("codec", ["gzip", "zstd", "plain"])
def test_both_nodes_show_what_umoci_unpacks(
    codec: str, built: Built, nodes: dict[str, Any], registry: RegistryServer, tmp_path: Path
) -> None:
    layout = tmp_path / "oci"
    images.write_layout(layout, built.layers, codec=codec)
    image = images.push(layout, registry.address, f"two-nodes-{codec}:1")
    for name in ("a", "b"):
        node: Node = nodes[name]
        mounted = node.mount(image, tmp_path / f"m{name}")
        result = compare(str(built.reference), str(tmp_path / f"m{name}"))
        assert not result.differences, str(result)
        assert result.entries == mounted["entries"] + 1
        assert result.bytes >= mounted["bytes"]
        wait_for(lambda node=node: not node.json("stats")["storing"])  # type: ignore[misc]
    assert image_indexes(nodes["a"]) == image_indexes(nodes["b"])


def test_node_b_asks_the_registry_for_no_layer_and_moves_what_it_reads(
    built: Built, nodes: dict[str, Any], registry: RegistryServer, tmp_path: Path
) -> None:
    image = images.push(built.layout, registry.address, "lazy:1")
    a, b = nodes["a"], nodes["b"]
    mounted = a.mount(image, tmp_path / "ma")
    wait_for(lambda: not a.json("stats")["storing"])
    before = registry.blob_reads()
    layers = {row["digest"] for row in mounted["layers"]}
    other = b.mount(image, tmp_path / "mb")
    assert {row["complete"] for row in other["layers"]} == {False}
    data = (tmp_path / "mb/lib/json/decoder.py").read_bytes()
    assert data == (built.reference / "lib/json/decoder.py").read_bytes()
    asked = [
        path for path in registry.blob_reads()[len(before) :] if path.rpartition("/")[2] in layers
    ]
    assert asked == []
    payload = sum(row["payload_size"] for row in mounted["layers"])
    on_disk = sum(path.stat().st_blocks * 512 for path in (tmp_path / "B/partial").iterdir())
    assert on_disk < payload / 10
    stats = b.json("stats")
    assert len(data) <= stats["content_cache"]["bytes"] < payload / 10
    assert stats["registry"] == {"reads": 0, "bytes": 0}
    events = [line["event"] for line in b.log(other["pid"])]
    assert "Read called" in events
    assert HIT in events
    assert MISS not in events


def test_the_log_tells_the_cache_flow_of_node_a(
    built: Built, nodes: dict[str, Any], registry: RegistryServer, tmp_path: Path
) -> None:
    image = images.push(built.layout, registry.address, "flow:1")
    a: Node = nodes["a"]
    done = a.run("mount", image, str(tmp_path / "ma"), "--root", str(a.root), *a.options,
                 "--front", "fuse", "--json", "--log-format", "json",
                 "--log-level", "debug")  # fmt: skip
    a.mounted.append(tmp_path / "ma")
    pid = json.loads(done.stdout)["pid"]
    wait_for(lambda: not a.json("stats")["storing"])
    (tmp_path / "ma/lib/json/decoder.py").read_bytes()
    lines = [json.loads(line) for line in done.stderr.splitlines()] + a.log(pid)
    keys = {path.name for path in (a.root / "cache").iterdir()}
    assert len(keys) == len(built.layers)
    for key in keys:
        events = [line["event"] for line in lines if line.get("cache_key") == key]
        flow = [event for event in events if not event.startswith("DISK")]
        assert flow == [
            "Trying ContentCache range read",
            MISS,
            "OCI CACHE MISS - downloading and decompressing layer from registry",
            "Layer decompressed and cached to disk",
            "Storing decompressed layer in ContentCache (async)",
            "Successfully stored decompressed layer in ContentCache",
        ]
        stored = next(
            x for x in lines if x["event"].startswith("Success") and x["cache_key"] == key
        )
        assert stored["stored_hash"] == key
    assert any(line["event"].startswith("DISK CACHE HIT") for line in lines)
    server = nodes["log"].read_text()
    assert all(f"Store[OK] - [{key}.v1.toc]" in server for key in keys)
    assert "Store[ACK] (" in server


def test_unmount_leaves_no_mount_and_no_process(
    built: Built, nodes: dict[str, Any], registry: RegistryServer, tmp_path: Path
) -> None:
    image = images.push(built.layout, registry.address, "unmount:1")
    a: Node = nodes["a"]
    mounted = a.mount(image, tmp_path / "ma", "--front", "fuse")
    assert a.json("stats")["mounts"][0]["pid"] == mounted["pid"]
    a.unmount(tmp_path / "ma")
    a.unmount(tmp_path / "ma")
    wait_for(lambda: not alive(mounted["pid"]))
    assert str(tmp_path / "ma") not in Path("/proc/self/mountinfo").read_text()
    assert list((a.root / "run/mounts").iterdir()) == []
    assert a.json("stats")["mounts"] == []


def test_a_killed_server_does_not_hang_unmount(
    built: Built, nodes: dict[str, Any], registry: RegistryServer, tmp_path: Path
) -> None:
    image = images.push(built.layout, registry.address, "killed:1")
    a: Node = nodes["a"]
    os.kill(a.mount(image, tmp_path / "ma", "--front", "fuse")["pid"], 9)
    a.unmount(tmp_path / "ma")
    assert a.json("stats")["mounts"] == []
    assert list((a.root / "run/mounts").iterdir()) == []
    a.mount(image, tmp_path / "ma")
    assert (tmp_path / "ma/opaque/new").read_text() == "from layer 3"


def test_a_frozen_server_does_not_hang_unmount_or_mount(
    built: Built, nodes: dict[str, Any], registry: RegistryServer, tmp_path: Path
) -> None:
    image = images.push(built.layout, registry.address, "frozen:1")
    a: Node = nodes["a"]
    pid = a.mount(image, tmp_path / "ma", "--front", "fuse")["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        words = ["mount", image, str(tmp_path / "ma"), "--root", str(a.root), *a.options]
        assert "mount already" in a.run(*words, check=False).stderr
        a.unmount(tmp_path / "ma")
        assert str(tmp_path / "ma") not in Path("/proc/self/mountinfo").read_text()
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: not alive(pid))


def test_a_layer_without_a_byte_changes_nothing(
    built: Built, nodes: dict[str, Any], registry: RegistryServer, tmp_path: Path
) -> None:
    (tmp_path / "empty.tar").touch()
    layout = tmp_path / "oci"
    images.write_layout(layout, [Packed(tmp_path / "empty.tar"), built.layers[1]], codec="plain")
    image = images.push(layout, registry.address, "empty-layer:1")
    mounted = nodes["a"].mount(image, tmp_path / "ma")
    assert mounted["layers"][0]["payload_size"] == 0
    assert b"name-\xff" in os.listdir(os.fsencode(tmp_path / "ma"))


def test_writing_is_refused_as_on_a_read_only_file_system(
    built: Built, nodes: dict[str, Any], registry: RegistryServer, tmp_path: Path
) -> None:
    image = images.push(built.layout, registry.address, "read-only:1")
    nodes["a"].mount(image, tmp_path / "ma")
    for change in (
        lambda: (tmp_path / "ma/new").touch(),
        lambda: (tmp_path / "ma/new").mkdir(),
        lambda: (tmp_path / "ma/big").unlink(),
        lambda: (tmp_path / "ma/big").open("r+b"),
        lambda: os.setxattr(tmp_path / "ma/big", "user.x", b"1"),
        lambda: os.chmod(tmp_path / "ma/big", 0o600),
        lambda: os.rename(tmp_path / "ma/big", tmp_path / "ma/small"),
    ):
        with pytest.raises(OSError, match=r"\[Errno 30\]"):
            change()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        pytest.param(["mount", "UPPER", "/tmp/x"], "invalid_input", "UPPER", id="reference"),
        pytest.param(["mount", "REG/none:1", "/tmp/x"], "image_not_found", "none:1", id="no-tag"),
        pytest.param(["mount", "127.0.0.1:1/x", "/tmp/x"], "registry_unavailable", "127.0.0.1:1",
                     id="no-registry"),
        pytest.param(["mount", "REG/none:1", "/etc"], "invalid_input", "not empty", id="not-empty"),
        pytest.param(["mount", "REG/x:1", "/proc"], "invalid_input", "mount already", id="mount"),
        pytest.param(["unmount", "/proc"], "invalid_input", "not one of clipfs", id="not-ours"),
    ],
)  # fmt: skip
def test_a_failure_names_the_thing_and_leaves_nothing(
    words: list[str], code: str, message: str, registry: RegistryServer, tmp_path: Path
) -> None:
    where = [
        word.replace("REG", registry.address).replace("/tmp/x", f"{tmp_path}/x") for word in words
    ]
    options = ["--root", str(tmp_path / "root")]
    if words[0] == "mount":
        options += ["--plain-http", registry.address, "--plain-http", "127.0.0.1:1"]
    done = Node(tmp_path).run(*where, *options, "--json", check=False)
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert error["code"] == code
    assert message in error["message"]
    assert not (tmp_path / "x").exists()


def test_an_unknown_option_is_a_usage_error(tmp_path: Path) -> None:
    assert Node(tmp_path).run("mount", "--keeper", "x", "y", "z", check=False).returncode == 2


def test_the_comparer_sees_one_flipped_byte_one_xattr_and_one_mtime(
    built: Built, tmp_path: Path
) -> None:
    plants: list[Callable[[Path], object]] = [
        lambda tree: _flip(tree / "lib/json/decoder.py"),
        lambda tree: os.setxattr(tree / "lib/empty", "user.note", b"other"),
        lambda tree: os.utime(tree / "lib/empty", ns=(0, 1)),
        lambda tree: (tree / "lib/empty").unlink(),
        lambda tree: os.chmod(tree / "big", 0o600),
        lambda tree: os.link(tree / "big", tree / "big2"),
    ]
    for number, plant in enumerate(plants):
        copy = tmp_path / str(number)
        subprocess.run(["cp", "-a", str(built.reference), str(copy)], check=True)
        assert not compare(str(built.reference), str(copy)).differences
        plant(copy)
        assert compare(str(built.reference), str(copy)).differences


def _flip(path: Path) -> None:
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
