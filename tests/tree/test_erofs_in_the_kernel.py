"""The kernel is the judge: it mounts the image index and shows what the reader gives."""

import os
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipfs.layer.index import Entry
from clipfs.tree.reader import ImageIndex
from tests.support.entries import file, folder, link, symlink
from tests.support.machine import needs_fuse
from tests.support.tree_views import View, view_of_index, view_of_mount
from tests.tree.torture import Torture, erofs_mounted, torture

pytestmark = needs_fuse

PAYLOAD_BLOCKS = 64


def seen(view: View) -> View:
    """view as a mount can show it: where bytes lie is not seen."""
    return {path: facts._replace(where=None) for path, facts in view.items()}


def test_the_kernel_shows_the_torture_image_as_the_reader_does(tmp_path: Path) -> None:
    image, payloads = torture().image(), torture().payloads
    with erofs_mounted(image, payloads, tmp_path / "erofs") as mount:
        shown = view_of_mount(mount)
        assert shown == seen(view_of_index(ImageIndex(image)))
        assert mount.stat().st_ino == ImageIndex(image).root
    assert len(shown) > 10_000


def test_the_kernel_reads_every_byte_of_every_file(tmp_path: Path) -> None:
    made: Torture = torture()
    with erofs_mounted(made.image(), made.payloads, tmp_path / "erofs") as mount:
        compared = 0
        for entry in (one for layer in made.layers for one in layer):
            path = mount / os.fsdecode(entry.path)
            if entry.size and path.exists() and path.stat().st_size == entry.size:
                assert path.read_bytes() == made.content(entry)
                compared += entry.size
    assert compared > 1 << 20


FILES = st.builds(
    lambda path, block, size: file(path, offset=512 * block if size else 0, size=size),
    st.lists(st.sampled_from([b"a", b"b", b"c", b"n" * 200]), min_size=1, max_size=4).map(
        b"/".join
    ),
    st.integers(0, PAYLOAD_BLOCKS // 2),
    st.integers(0, 512 * PAYLOAD_BLOCKS // 2),
)
OTHERS = st.one_of(
    st.builds(folder, st.sampled_from([b"a", b"d", b"d/e"])),
    st.builds(
        symlink, st.sampled_from([b"s1", b"s2"]), st.integers(1, 600).map(lambda n: b"t" * n)
    ),
    st.builds(
        lambda name, value: file(b"x/" + name, xattrs=((b"user." + name, value),)),
        st.sampled_from([b"p", b"q"]),
        st.binary(max_size=1500),
    ),
)
LAYERS = st.lists(st.lists(FILES | OTHERS, max_size=10), min_size=1, max_size=3)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(LAYERS)
def test_the_kernel_agrees_with_the_reader_about_any_tree(
    tmp_path: Path, layers: list[list[Entry]]
) -> None:
    layers[0] += [file(b"linked"), link(b"link", b"linked")]
    payload = bytes(range(256)) * 2 * PAYLOAD_BLOCKS
    made = Torture(layers, [payload] * len(layers))
    number = len(list(tmp_path.iterdir()))
    with erofs_mounted(made.image(), made.payloads, tmp_path / str(number)) as mount:
        view = view_of_index(ImageIndex(made.image()))
        assert view_of_mount(mount) == seen(view)
        for path, facts in view.items():
            if facts.where is not None:
                _, offset = facts.where
                data = (mount / os.fsdecode(path)).read_bytes()
                assert data == payload[offset : offset + facts.size]
