"""Figures as horizontal bars, an SVG: a group for each case, a bar for each side.

A bar is the median, each round a dot on it. White below, so that it can be read on any page.

Not here: what is measured, and where the picture goes (`bench.image_volumes`).
"""

from collections.abc import Mapping, Sequence
from statistics import median
from xml.etree import ElementTree

from bench.measure import human

WIDTH, LEFT, RIGHT = 720, 120, 90
"""Pixels; what is left of the bars for the names of cases, and right of them for figures."""

TOP, BAR, GAP = 76, 22, 18
"""Pixels above the first bar, of a bar, and between groups."""

COLOURS = ("#1f6feb", "#9a9a94")
INK = "#222222"

Seconds = Mapping[tuple[str, str], Sequence[float]]
"""(case, side) -> what each round took."""


def bars_of(title: str, seconds: Seconds) -> str:
    """The picture; at most as many sides as there are colours."""
    cases, sides = (list(dict.fromkeys(key[place] for key in seconds)) for place in (0, 1))
    pixels = (WIDTH - LEFT - RIGHT) / max(max(rounds) for rounds in seconds.values())
    height = TOP + len(cases) * (len(sides) * BAR + GAP)
    words = {"xmlns": "http://www.w3.org/2000/svg", "font-family": "sans-serif", "font-size": 14}
    picture = ElementTree.Element("svg")
    _set(picture, words | {"width": WIDTH, "height": height, "role": "img"})
    _add(picture, "rect", x=0, y=0, width=WIDTH, height=height, fill="#ffffff")
    _write(picture, title, x=16, y=28)
    _legend(picture, sides)
    for row, case in enumerate(cases):
        y = TOP + row * (len(sides) * BAR + GAP)
        _write(picture, case, x=16, y=y + len(sides) * BAR / 2 + 5)
        for number, side in enumerate(sides):
            place = (y + number * BAR, pixels, COLOURS[number])
            _bar(picture, seconds[case, side], *place)
    return ElementTree.tostring(picture, encoding="unicode") + "\n"


def _legend(picture: ElementTree.Element, sides: Sequence[str]) -> None:
    for number, side in enumerate(sides):
        x = LEFT + number * 180
        _add(picture, "rect", x=x, y=44, width=14, height=14, fill=COLOURS[number])
        _write(picture, side, x=x + 20, y=56)


def _bar(
    picture: ElementTree.Element, rounds: Sequence[float], y: float, pixels: float, colour: str
) -> None:
    """pixels: of a second."""
    length = median(rounds) * pixels
    bar = _add(picture, "rect", x=LEFT, y=y, width=length, height=BAR - 4, fill=colour)
    bar.set("class", "bar")
    for s in rounds:
        _add(picture, "circle", cx=LEFT + s * pixels, cy=y + BAR / 2 - 2, r=2.5, fill=INK)
    end = LEFT + max(rounds) * pixels
    _write(picture, human(median(rounds)), x=end + 8, y=y + BAR - 8)


def _write(picture: ElementTree.Element, text: str, *, x: float, y: float) -> None:
    _add(picture, "text", x=x, y=y, fill=INK).text = text


def _add(picture: ElementTree.Element, name: str, **words: object) -> ElementTree.Element:
    made = ElementTree.SubElement(picture, name)
    _set(made, words)
    return made


def _set(element: ElementTree.Element, words: Mapping[str, object]) -> None:
    for key, value in words.items():
        element.set(key, str(value))
