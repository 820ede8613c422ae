"""A path leads where it would lead a process whose root the image is."""

import pytest

from clipfs.tree.paths import resolve
from clipfs.tree.reader import ImageIndex
from tests.support.entries import file, folder, image_of, symlink

INDEX = ImageIndex(
    image_of(
        [
            file(b"usr/lib/x", size=1, offset=512),
            symlink(b"lib", b"usr/lib"),
            symlink(b"usr/abs", b"/usr/lib/x"),
            symlink(b"usr/up", b"../../../lib/x"),
            symlink(b"dangling", b"nowhere"),
            symlink(b"loop", b"loop"),
            symlink(b"chain-0", b"usr/lib/x"),
            *(symlink(b"chain-%d" % n, b"chain-%d" % (n - 1)) for n in range(1, 41)),
            folder(b"empty"),
        ]
    )
)


@pytest.mark.parametrize(
    ("path", "leads_to"),
    [
        pytest.param(b"usr/lib/x", b"usr/lib/x", id="plain"),
        pytest.param(b"/usr//./lib/x", b"usr/lib/x", id="untidy"),
        pytest.param(b"lib/x", b"usr/lib/x", id="symlink-on-the-way"),
        pytest.param(b"usr/abs", b"usr/lib/x", id="absolute-target"),
        pytest.param(b"usr/up", b"usr/lib/x", id="target-clamped-to-the-root"),
        pytest.param(b"lib/../abs", b"usr/lib/x", id="dotdot-behind-a-symlink"),
        pytest.param(b"../../usr", b"usr", id="path-clamped-to-the-root"),
        pytest.param(b"chain-39", b"usr/lib/x", id="40-symlinks"),
        pytest.param(b"", b"/", id="root"),
        pytest.param(b"chain-40", None, id="41-symlinks"),
        pytest.param(b"loop", None, id="loop"),
        pytest.param(b"dangling", None, id="dangling"),
        pytest.param(b"usr/lib/x/y", None, id="below-a-file"),
        pytest.param(b"usr/lib/x/..", None, id="dotdot-below-a-file"),
        pytest.param(b"empty/x", None, id="missing"),
    ],
)
def test_a_path_is_followed_inside_the_image(path: bytes, leads_to: bytes | None) -> None:
    found = resolve(INDEX, path)
    assert found == (None if leads_to is None else resolve(INDEX, leads_to))
    assert (found is None) == (leads_to is None)


def test_a_last_symlink_is_found_itself_on_request() -> None:
    for path in (b"dangling", b"usr/abs", b"lib"):
        nid = resolve(INDEX, path, follow_last=False)
        assert nid is not None
        assert INDEX.target(nid)
    assert resolve(INDEX, b"lib/x", follow_last=False) == resolve(INDEX, b"usr/lib/x")
