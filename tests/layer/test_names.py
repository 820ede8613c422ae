"""Names of members: normalised once, the same however often, or refused."""

import posixpath

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from clipfs import errors
from clipfs.layer.archive.names import normalised, shown
from clipfs.layer.limits import MAX_COMPONENT_BYTES, MAX_DEPTH, MAX_PATH_BYTES

PARTS = st.sampled_from([b"", b".", b"..", b"a", b"...", b".b", b"\xff"]) | st.binary(
    min_size=1, max_size=5
)


@settings(deadline=None)
@given(st.lists(PARTS, max_size=8).map(b"/".join))
def test_a_name_is_what_posix_makes_of_it_below_the_root(name: bytes) -> None:
    assume(b"\0" not in name)
    expected = posixpath.normpath(b"./" + name.lstrip(b"/"))
    if expected == b".." or expected.startswith(b"../"):
        with pytest.raises(errors.CorruptImage, match="leaves the root"):
            normalised(name)
    else:
        assert normalised(name) == (b"" if expected == b"." else expected)
        assert normalised(normalised(name)) == normalised(name)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(b"n" * MAX_COMPONENT_BYTES, id="component"),
        pytest.param(b"/".join([b"d"] * MAX_DEPTH), id="depth"),
        pytest.param((b"n" * 127 + b"/") * 31 + b"n" * (MAX_PATH_BYTES - 31 * 128), id="path"),
    ],
)
def test_a_name_at_a_limit_is_read(name: bytes) -> None:
    assert normalised(name) == name
    assert normalised(b"./" + name + b"/") == name


def test_an_error_shows_a_name_short_and_printable() -> None:
    assert shown(b"caf\xe9\n" + b"n" * 1000) == ascii("caf\udce9\n" + "n" * 115)
