"""`clipfs cache`, with the installed command on a real image."""

import json
from dataclasses import replace
from pathlib import Path

import click
import pytest

from clipfs.cache.limits import Limits
from clipfs.cli.limits import byte_count, limits_of, min_free, words_of
from tests.cli.conftest import Small
from tests.support.machine import needs_fuse
from tests.support.node import Node, kill


def payload_of(node: Node) -> Path:
    (path,) = (node.root / "cache").iterdir()
    return path


@needs_fuse
def test_list_tells_layers_and_images_and_which_mounts_use_them(
    node: Node, small: Small, tmp_path: Path
) -> None:
    mounted = node.mount(small.image, tmp_path / "m")
    found = node.json("cache list")
    (layer,), (image,) = found["layers"], found["images"]
    assert found["bytes"] == layer["bytes"] + image["bytes"]
    assert layer["cache_key"] == mounted["layers"][0]["cache_key"]
    assert layer["state"] == "complete"
    assert image["cache_key"] == mounted["digest"].replace(":", "_")
    assert layer["in_use_by"] == image["in_use_by"] == [str(tmp_path / "m")]
    assert str(tmp_path / "m") in node.run("cache", "list", "--root", str(node.root)).stdout
    node.unmount(tmp_path / "m")
    (after,) = node.json("cache list")["layers"]
    assert after["in_use_by"] == []
    assert after["last_use_s"] > layer["last_use_s"]


def test_verify_of_right_payloads_is_exit_code_0(node: Node, small: Small) -> None:
    node.json("index", small.image)
    found = node.json("cache verify")
    assert found == {"layers": [{"cache_key": payload_of(node).name, "is": "right", "why": ""}]}
    said = node.run("cache", "verify", "--root", str(node.root)).stdout
    assert said == "1 payloads, none of them wrong\n"


@pytest.mark.parametrize("as_json", [False, True])
def test_a_wrong_payload_is_said_and_removed(as_json: bool, node: Node, small: Small) -> None:
    node.json("index", small.image)
    path = payload_of(node)
    right = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(right[:700] + b"\xff" + right[701:])
    words = ["cache", "verify", "--root", str(node.root), *(["--json"] if as_json else [])]
    done = node.run(*words, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "clipfs: 1 of 1 payloads, or what belongs to them, are wrong, and were removed\n"
    )
    if as_json:
        found = json.loads(done.stdout)
        assert found["error"]["code"] == "corrupt_image"
        assert found["layers"][0]["is"] == "wrong"
    else:
        assert done.stdout == f"{path.name} is wrong: chunk 0 differs from the layer's index\n"
    assert not path.exists()


@needs_fuse
def test_collect_takes_nothing_from_a_mount_and_all_once_it_is_gone(
    node: Node, small: Small, tmp_path: Path
) -> None:
    node.mount(small.image, tmp_path / "m")
    kept = node.json("cache collect", "--max-bytes", "0")
    assert (kept["removed"], kept["excess_bytes"]) == ([], kept["bytes"])
    assert (tmp_path / "m/usr/lib/x").read_bytes() == b"x" * 1536
    words = ["cache", "collect", "--max-bytes", "0", "--root", str(node.root)]
    assert "over the limit, but all of it is in use" in node.run(*words).stdout
    node.unmount(tmp_path / "m")
    gone = node.json("cache collect", "--max-bytes", "0")
    assert [row["kind"] for row in gone["removed"]] == ["image", "layer"]
    assert (gone["bytes"], gone["excess_bytes"]) == (0, 0)
    assert list((node.root / "cache").iterdir()) == []
    node.mount(small.image, tmp_path / "m")
    assert (tmp_path / "m/usr/lib/x").read_bytes() == b"x" * 1536


@needs_fuse
def test_a_mount_whose_server_was_killed_keeps_its_layers_until_it_is_unmounted(
    node: Node, small: Small, tmp_path: Path
) -> None:
    kill(node.mount(small.image, tmp_path / "m", "--front", "fuse")["pid"])
    assert node.json("cache collect", "--min-free", "99%")["removed"] == []
    node.unmount(tmp_path / "m")
    assert len(node.json("cache collect", "--min-free", "99%")["removed"]) == 2


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        pytest.param("0", Limits(min_free_bytes=0), id="nothing"),
        pytest.param("5000", Limits(min_free_bytes=5000), id="bytes"),
        pytest.param("20Gi", Limits(min_free_bytes=20 << 30), id="unit"),
        pytest.param("7.5%", Limits(min_free_percent=7.5), id="percent"),
    ],
)
def test_a_limit_is_bytes_or_a_percentage(text: str, limits: Limits) -> None:
    assert min_free(text) == limits
    assert limits_of(5, limits) == replace(limits, max_bytes=5)
    assert words_of(None, None) == []
    first, most, second, least = words_of(5, limits)
    assert (first, byte_count(most), second, min_free(least)) == (
        "--max-bytes", 5, "--min-free", limits
    )  # fmt: skip


@pytest.mark.parametrize(
    "text", ["", "-1", "x", "100%", "101%", "nan%", "-5%", "%", "5GB", "1e9", "½%", "5 %"]
)
def test_what_is_no_limit_is_refused(text: str) -> None:
    told = f"^{text!r} is no number of bytes and no percentage below 100; .*20Gi.*10%"
    with pytest.raises(click.BadParameter, match=told):
        min_free(text)
    with pytest.raises(click.BadParameter, match=r"is no number of bytes; write 1000000.*20Gi$"):
        byte_count(text)


@pytest.mark.parametrize("command", ["list", "verify", "collect"])
def test_a_root_that_does_not_exist_is_said_and_not_made(command: str, node: Node) -> None:
    done = node.run("cache", command, "--root", str(node.root), check=False)
    assert (done.returncode, "there is no such folder" in done.stderr) == (1, True)
    assert not node.root.exists()


@pytest.mark.parametrize("command", ["list", "verify", "collect"])
def test_a_folder_that_is_no_root_is_said_and_left_alone(command: str, node: Node) -> None:
    (node.root / "of-somebody").mkdir(parents=True)
    done = node.run("cache", command, "--root", str(node.root), check=False)
    assert (done.returncode, "has no cache/" in done.stderr) == (1, True)
    assert [path.name for path in node.root.iterdir()] == ["of-somebody"]
