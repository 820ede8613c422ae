"""`clipfs index` killed in the middle: nothing is visible of the layer, and the next succeeds."""

import hashlib
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import images
from tests.support.machine import CLIPFS
from tests.support.node import Node
from tests.support.scripted_registry import ScriptedRegistry, run_scripted_registry
from tests.support.wait import wait_for


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[ScriptedRegistry]:
    """It has an image of one layer."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/noise").write_bytes(random.Random(1).randbytes(8 << 20))
    packed = images.layer(tmp_path / "folder", tmp_path / "tar")
    images.write_layout(tmp_path / "oci", [packed])
    with run_scripted_registry(tmp_path / "oci") as script:
        yield script


def node(tmp_path: Path, registry: ScriptedRegistry) -> Node:
    return Node(tmp_path / "root", ["--plain-http", registry.address])


def visible(root: Path) -> list[str]:
    """Names in the folders whose content others believe."""
    return sorted(path.name for folder in ("cache", "index") for path in (root / folder).iterdir())


def workers_of(root: Path) -> list[int]:
    """Processes that hold a file of root's `partial/` open."""
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            target = link.readlink()
        except OSError:
            continue
        if target.is_relative_to(root / "partial"):
            found.append(int(link.parts[2]))
    return found


def test_a_filler_killed_in_the_middle_leaves_nothing_that_is_believed(
    tmp_path: Path, registry: ScriptedRegistry
) -> None:
    image, a_node = f"{registry.address}/image:x", node(tmp_path, registry)
    registry.close_gate()
    command = [CLIPFS, "index", image, "--root", str(a_node.root), *a_node.options]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as filler:
        assert registry.at_gate.wait(60)
        wait_for(lambda: any(path.stat().st_size for path in a_node.root.glob("partial/*")))
        assert workers_of(a_node.root)
        filler.send_signal(signal.SIGKILL)
    wait_for(lambda: not workers_of(a_node.root))
    assert [name for name in visible(a_node.root) if name != "key"] == []

    registry.open_gate()
    found = a_node.json("index", image)
    (layer,) = found["layers"]
    payload = (a_node.root / "cache" / layer["cache_key"]).read_bytes()
    assert (
        hashlib.sha256(payload).digest() == hashlib.sha256((tmp_path / "tar").read_bytes()).digest()
    )
    assert list((a_node.root / "partial").iterdir()) == []


def test_a_wrong_blob_leaves_nothing_and_the_right_one_is_then_read(
    tmp_path: Path, registry: ScriptedRegistry
) -> None:
    image, a_node = f"{registry.address}/image:x", node(tmp_path, registry)
    registry.spoil = True
    words = ["index", image, "--root", str(a_node.root), *a_node.options]
    refused = a_node.run(*words, "--json", check=False)
    assert refused.returncode == 1
    assert '"corrupt_image"' in refused.stdout
    assert [name for name in visible(a_node.root) if name != "key"] == []
    assert list((a_node.root / "partial").iterdir()) == []

    registry.spoil = False
    a_node.run(*words)
    assert len(list((a_node.root / "cache").iterdir())) == 1
