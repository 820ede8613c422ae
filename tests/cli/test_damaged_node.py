"""What stands in the place of a cached file costs a mount a fetch, and nothing else."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import Small
from tests.support.damage import Damage, fifo, folder
from tests.support.machine import needs_fuse
from tests.support.node import Node


def cached(node: Node) -> dict[str, Path]:
    """Payload, layer index and image index of the one image on this node."""
    (payload,) = (node.root / "cache").iterdir()
    (toc,) = (node.root / "index").glob("*.toc")
    (erofs,) = (node.root / "index").glob("*.erofs")
    return {"payload": payload, "toc": toc, "erofs": erofs}


@needs_fuse
@pytest.mark.parametrize("front", ["erofs", "fuse"])
@pytest.mark.parametrize("names", [["payload"], ["toc", "erofs"], ["payload", "toc", "erofs"]],
                         ids="-".join)  # fmt: skip
@pytest.mark.parametrize("damage", [fifo, folder])
def test_a_mount_makes_what_was_damaged_again(
    damage: Damage, names: list[str], front: str, node: Node, small: Small, tmp_path: Path
) -> None:
    node.json("index", small.image)
    files = cached(node)
    for name in names:
        damage(files[name])
    assert node.mount(small.image, tmp_path / "m", "--front", front)["front"] == front
    assert (tmp_path / "m/usr/lib/x").read_bytes() == b"x" * 1536
    node.unmount(tmp_path / "m")
    assert all(path.is_file() for path in files.values())


def test_verify_names_what_is_no_file_and_goes_on(node: Node, small: Small) -> None:
    node.json("index", small.image)
    for name in ("toc", "payload"):
        folder(cached(node)[name])
        done = node.run("cache", "verify", "--root", str(node.root), "--json", check=False)
        (row,) = json.loads(done.stdout)["layers"]
        assert (done.returncode, row["is"]) == (1, "wrong")
        assert "no regular file" in row["why"]
        node.json("index", small.image)
    assert node.json("cache verify")["layers"] == []


def test_collect_takes_what_is_no_file_away(node: Node, small: Small) -> None:
    node.json("index", small.image)
    for path in cached(node).values():
        folder(path)
    node.json("cache collect", "--max-bytes", "0")
    assert list((node.root / "cache").iterdir()) == []
    assert [path.name for path in (node.root / "index").iterdir()] == ["key"]
    assert len(list((node.root / "damaged").iterdir())) == 3


@needs_fuse
def test_a_read_only_root_answers_what_it_can(node: Node, small: Small) -> None:
    node.json("index", small.image)
    before, listed = node.json("stats"), node.json("ls", small.image)
    root = str(node.root)
    subprocess.run(["mount", "--bind", root, root], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", root], check=True)
        assert node.json("stats") == before
        assert node.json("ls", small.image) == listed
        assert len(node.json("cache list")["layers"]) == 1
    finally:
        subprocess.run(["umount", "--lazy", root], check=True)


def test_stats_of_a_root_without_run_make_nothing(node: Node) -> None:
    node.root.mkdir()
    assert node.json("stats")["mounts"] == []
    assert list(node.root.iterdir()) == []
