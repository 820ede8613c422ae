"""Figures and their spread, bars and whether they are met; as tables and as a JSON file."""

import json
import math
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.support.real_image import CACHE


@dataclass(slots=True)
class Figure:
    """What one thing took, once a round."""

    name: str
    seconds: list[float] = field(default_factory=list)

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)

    def row(self) -> list[str]:
        """Name, median, least and most."""
        return [self.name, *map(human, (self.median_s, min(self.seconds), max(self.seconds)))]


@dataclass(frozen=True, slots=True)
class Bar:
    """A promise about a figure, which must not be under `least` and must be under `most`."""

    words: str
    found: float
    shown: str
    least: float = 0
    most: float = math.inf

    @property
    def is_met(self) -> bool:
        return self.least <= self.found < self.most

    def row(self) -> list[str]:
        return [self.words, self.shown, "met" if self.is_met else "MISSED"]


def ratio(words: str, found: float, *, least: float = 0, most: float = math.inf) -> Bar:
    """A bar for how many times one figure is another."""
    return Bar(words, found, f"{found:.3g} times", least, most)


def human(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need to be; the first one to the left, figures to the right."""
    widths = [max(len(row[n]) for row in [head, *rows]) for n in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if n else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, ["-" * width for width in widths], *rows]
    )


def version(*command: str) -> str:
    """What a program says of itself, on one line."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return (done.stdout or done.stderr).strip().splitlines()[0]


def save(name: str, figures: Iterable[Figure], bars: Iterable[Bar], **more: object) -> None:
    """Keep the figures for whoever compares runs."""
    found = {
        "seconds": {figure.name: figure.seconds for figure in figures},
        "bars": {bar.words: {"found": bar.found, "met": bar.is_met} for bar in bars},
        **more,
    }
    path = CACHE / "bench" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(f"figures: {path}\n")
