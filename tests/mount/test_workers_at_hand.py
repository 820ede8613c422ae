"""What a mount has ready for an image that may have to be indexed."""

from pathlib import Path

import pytest

from clipfs.image.digest import Digest, cache_key
from clipfs.image.reference import parse_reference
from clipfs.layer.layout import Layout
from clipfs.mount.prepare import workers_at_hand
from tests.support.processes import children, short_name
from tests.support.wait import wait_for

DIGEST = Digest("sha256:" + 64 * "a")


@pytest.mark.parametrize(
    ("reference", "indexed", "names"),
    [
        ("host/app:1", True, ["fork server"]),
        (f"host/app:1@{DIGEST}", False, ["fork server"]),
        (f"host/app:1@{DIGEST}", True, []),
    ],
    ids=["tag", "new", "indexed"],
)
def test_a_fork_server_unless_the_image_is_known_to_be_indexed(
    reference: str, indexed: bool, names: list[str], tmp_path: Path
) -> None:
    path = Layout(tmp_path).image_index(cache_key(DIGEST))
    if indexed:
        path.parent.mkdir()
        path.touch()
    before = set(children("self"))
    with workers_at_hand(tmp_path, parse_reference(reference)):
        started = set(children("self")) - before
        wait_for(lambda: [short_name(pid) for pid in started] == names)
    assert set(children("self")) == before


def test_a_root_of_which_nothing_can_be_said_is_not_this_ones_to_refuse() -> None:
    with workers_at_hand(Path("/" + "x" * 5000), parse_reference(f"host/app@{DIGEST}")):
        pass
