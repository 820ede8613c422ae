"""What the numbers of a process's counters mean, each by its place: pure.

Places are for ever: a version that counts more adds its numbers behind those there are. A file of
an earlier version is then a shorter one, and what it lacks is zero.

Not here: the files, and who writes them (`clipfs.mount.counters`).
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from clipfs.tiers.tier import FillState, TierName, Trouble

TIERS: tuple[TierName, ...] = ("disk", "content_cache", "registry")
TROUBLES: tuple[Trouble, ...] = ("errors", "verify_failures")  # of the content cache
STATES: tuple[FillState, ...] = get_args(FillState)

BOUNDS_S = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
"""Upper ends of the classes by which reads are told apart; the last class has none. From what the
page cache answers to what a reader who waits for a first pass has to bear."""

READS = {tier: 2 * place for place, tier in enumerate(TIERS)}
"""How many a tier has answered; behind it, the bytes."""

_TROUBLES = 2 * len(TIERS)
TROUBLE = {trouble: _TROUBLES + place for place, trouble in enumerate(TROUBLES)}

FILL_LAYERS = _TROUBLES + len(TROUBLES)
FILL_BYTES = FILL_LAYERS + 1
FILL_STATE = FILL_LAYERS + 2

_TIMES = FILL_STATE + 1
_TIMES_EACH = len(BOUNDS_S) + 2
TIMES = {tier: _TIMES + place * _TIMES_EACH for place, tier in enumerate(TIERS)}
"""How many reads there are in each class; behind them, the nanoseconds of all."""

INDEXED = _TIMES + len(TIERS) * _TIMES_EACH
EVICTED = INDEXED + 1
FAILED = EVICTED + 1
"""Reads that no tier could answer: an error to whoever read."""

_ALL = struct.Struct(f"={FAILED + 1}Q")
SIZE_BYTES = _ALL.size

Numbers = Sequence[int]
Figures = dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """How long the reads of a tier took: how many in each class of BOUNDS_S, and all together."""

    counts: Sequence[int]
    seconds: float


def unpacked(data: bytes) -> Numbers:
    """The numbers of a file of this version or another, whole or cut short."""
    return _ALL.unpack(data[:SIZE_BYTES].ljust(SIZE_BYTES, b"\0"))


def packed(numbers: Numbers) -> bytes:
    return _ALL.pack(*numbers)


def added(one: Numbers, other: Numbers) -> Numbers:
    return [a + b for a, b in zip(one, other, strict=True)]


def figures_of(numbers: Numbers) -> Figures:
    """Reads and bytes by tier, and the content cache's troubles."""
    figures: Figures = {
        tier: {"reads": numbers[place], "bytes": numbers[place + 1]}
        for tier, place in READS.items()
    }
    figures["content_cache"] |= {trouble: numbers[place] for trouble, place in TROUBLE.items()}
    return figures


def times_of(numbers: Numbers, tier: TierName) -> Times:
    """Of the tier's reads; those that a version counted which took no times are not among them."""
    first = TIMES[tier]
    end = first + len(BOUNDS_S) + 1
    return Times(counts=numbers[first:end], seconds=numbers[end] / 1e9)


def fill_of(numbers: Numbers) -> dict[str, Any]:
    """What the background fill of one process does and has done."""
    state = STATES[numbers[FILL_STATE]]
    return {"state": state, "layers": numbers[FILL_LAYERS], "bytes": numbers[FILL_BYTES]}
