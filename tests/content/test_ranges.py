"""The Range header, as a table and as a law."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipfs.content.ranges import Unsatisfiable, parse_range

SIZES = st.integers(0, 1 << 40)


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        pytest.param(None, None, id="no header"),
        pytest.param("bytes=0-9", range(10), id="the first ten"),
        pytest.param("bytes=90-", range(90, 100), id="open end"),
        pytest.param("bytes=-10", range(90, 100), id="the last ten"),
        pytest.param("bytes=95-1000", range(95, 100), id="over the end"),
        pytest.param("bytes=1 2-20", None, id="a blank within a number"),
        pytest.param("bytes = 0 - 9", None, id="blanks"),
        pytest.param("bytes=-1000", range(100), id="more than all"),
        pytest.param("bytes=-", None, id="nothing"),
        pytest.param("bytes=a-b", None, id="no numbers"),
        pytest.param("bytes=9-0", None, id="backwards"),
        pytest.param("bytes=0-1,3-4", None, id="two"),
        pytest.param("bytes=\u0661-\u0662", None, id="digits of another script"),
        pytest.param("bytes=" + "9" * 40 + "-", None, id="forty digits"),
        pytest.param("octets=0-1", None, id="another unit"),
    ],
)
def test_one_range_is_understood_and_everything_else_means_the_whole(
    header: str | None, wanted: range | None
) -> None:
    assert parse_range(header, 100) == wanted


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_a_range_without_a_byte_cannot_be_satisfied(header: str) -> None:
    with pytest.raises(Unsatisfiable):
        parse_range(header, 100)


@given(header=st.text() | st.from_regex(r"bytes=[0-9]{0,20}-[0-9]{0,20}"), size=SIZES)
def test_whatever_is_asked_the_answer_lies_within_the_object(header: str, size: int) -> None:
    try:
        part = parse_range(header, size)
    except Unsatisfiable:
        return
    assert part is None or (0 <= part.start < part.stop <= size)


@given(data=st.data(), size=st.integers(1, 1 << 40))
def test_a_range_within_the_object_is_taken_at_its_word(data: st.DataObject, size: int) -> None:
    first = data.draw(st.integers(0, size - 1))
    last = data.draw(st.integers(first, size - 1))
    assert parse_range(f"bytes={first}-{last}", size) == range(first, last + 1)
    assert parse_range(f"bytes={first}-", size) == range(first, size)
    assert parse_range(f"bytes=-{size - first}", size) == range(first, size)
