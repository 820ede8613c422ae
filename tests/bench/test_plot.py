"""The plot of a bench shows each figure, in proportion, and can be read as XML."""

from xml.etree import ElementTree

import pytest

from bench.plot import bars_of

SVG = "{http://www.w3.org/2000/svg}"
SECONDS = {
    ("first node", "ours"): [2.0, 1.0, 9.0],
    ("first node", "theirs & others"): [8.0],
    ("warm", "ours"): [0.5],
    ("warm", "theirs & others"): [1.0],
}


@pytest.fixture
def drawn() -> ElementTree.Element:
    return ElementTree.fromstring(bars_of("Seconds <to Ready>", SECONDS))


def test_a_bar_is_as_long_as_its_median(drawn: ElementTree.Element) -> None:
    bars = [one for one in drawn.iter(f"{SVG}rect") if one.get("class") == "bar"]
    lengths = [float(one.get("width", "")) for one in bars]
    assert [length / lengths[0] for length in lengths] == pytest.approx([1, 4, 0.25, 0.5])
    assert len({one.get("fill") for one in bars}) == 2


def test_each_round_is_a_dot_on_the_scale_of_the_bars(drawn: ElementTree.Element) -> None:
    bars = [one for one in drawn.iter(f"{SVG}rect") if one.get("class") == "bar"]
    begin, length = (float(bars[0].get(name, "")) for name in ("x", "width"))
    dots = [float(one.get("cx", "")) for one in drawn.iter(f"{SVG}circle")]
    assert len(dots) == 6
    assert dots[:3] == pytest.approx([begin + length * s / 2 for s in (2.0, 1.0, 9.0)])


def test_all_of_it_is_within_the_picture(drawn: ElementTree.Element) -> None:
    width, height = float(drawn.get("width", "")), float(drawn.get("height", ""))
    for one in drawn.iter(f"{SVG}rect"):
        assert float(one.get("x", "")) + float(one.get("width", "")) <= width
        assert float(one.get("y", "")) + float(one.get("height", "")) <= height
    assert all(float(one.get("cx", "")) < width for one in drawn.iter(f"{SVG}circle"))


def test_words_are_as_they_were_given_and_medians_in_figures(drawn: ElementTree.Element) -> None:
    words = [one.text for one in drawn.iter(f"{SVG}text")]
    assert words[0] == "Seconds <to Ready>"
    for word in ("first node", "warm", "ours", "theirs & others", "2.00 s", "8.00 s", "500.00 ms"):
        assert words.count(word) == 1, word
