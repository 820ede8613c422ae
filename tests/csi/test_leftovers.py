"""What the kill tests look for is found where it is: else they would pass for nothing."""

import subprocess
from pathlib import Path

import pytest

from tests.support.leftovers import diff_ids, litter, unverified


@pytest.fixture
def root(tmp_path: Path, layout: Path) -> Path:
    """A root that holds the image's one payload."""
    for folder in ("cache", "partial", "index", "run/counters"):
        (tmp_path / "root" / folder).mkdir(parents=True)
    (key,) = diff_ids(layout)
    (tmp_path / "root/cache" / key).write_bytes((layout.parent / "1.tar").read_bytes())
    return tmp_path / "root"


def test_the_right_payload_is_verified_and_no_other(root: Path, layout: Path) -> None:
    expected = diff_ids(layout)
    (payload,) = (root / "cache").iterdir()
    assert unverified(root, expected) == []
    content = payload.read_bytes()
    for wrong in (content[:-1], content[:-1] + bytes([content[-1] ^ 1]), b""):
        payload.write_bytes(wrong)
        assert len(unverified(root, expected)) == 1
    payload.write_bytes(content)
    payload.with_name("sha256_other").write_bytes(content)
    assert len(unverified(root, expected)) == 1


@pytest.mark.parametrize(
    "name",
    ["index/x.v1.toc.1.2.ab.tmp", "run/volumes/x.json.1.2.ab.tmp", "run/x.fill", "run/x.use",
     "run/x.proof", "run/mounts/x.json", "run/volumes/x.json", "run/images/x", "run/counters/1.2",
     "run/made/x.json", "run/left/x.json",
     "partial/x.first"],
)  # fmt: skip # one to a kind
def test_what_a_dead_process_leaves_is_litter(name: str, root: Path) -> None:
    assert litter(root, driver=0) == []
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_bytes(b"")
    assert name in litter(root, driver=0)


def test_a_partial_payload_is_litter_once_the_layer_is_whole(root: Path, layout: Path) -> None:
    (key,) = diff_ids(layout)
    for name in (key, f"{key}.chunks", "sha256_of-another", "sha256_of-another.chunks"):
        (root / "partial" / name).write_bytes(b"")
    assert litter(root, driver=0) == [f"partial/{key}", f"partial/{key}.chunks"]


def test_a_process_with_a_file_of_the_root_open_is_found(root: Path) -> None:
    with (
        (root / "run/held").open("wb") as held,
        subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=held) as process,
    ):
        assert litter(root, driver=0) == [f"process {process.pid}"]
        assert litter(root, driver=process.pid) == []
        process.kill()
