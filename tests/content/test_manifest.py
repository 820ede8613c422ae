"""The plain manifest of the content cache: the server takes its words, and keeps to the disk."""

import re
from pathlib import Path

from clipfs.cli.limits import byte_count
from tests.support.content import failed_start

MANIFEST = Path(__file__).parents[2] / "manifests/plain/content-cache.yaml"
_ARGUMENT = re.compile(r"^ +- (--[a-z-]+=\S+)", re.MULTILINE)
_SIZE_LIMIT = re.compile(r"^ +sizeLimit: (\S+)", re.MULTILINE)


def arguments() -> dict[str, str]:
    pairs = (one.partition("=") for one in _ARGUMENT.findall(MANIFEST.read_text()))
    return {name: value for name, _, value in pairs}


def test_the_server_makes_room_before_the_kubelet_evicts_its_pod() -> None:
    volume = _SIZE_LIMIT.search(MANIFEST.read_text())
    assert volume
    assert byte_count(arguments()["--max-bytes"]) < byte_count(volume[1])


def test_the_server_knows_every_argument(tmp_path: Path) -> None:
    said = arguments() | {
        "--token-file": str(tmp_path / "none"),
        "--dir": str(tmp_path / "objects"),
    }
    words = [f"{name}={value}" for name, value in said.items()]
    status, error = failed_start(*words, cwd=tmp_path)
    assert status == 1, error  # not 2: it is only the token that it lacks
    assert "none" in error
