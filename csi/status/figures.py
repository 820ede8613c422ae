"""How an image is mounted on this node now, and what was read for it, from its records.

What made a mount is no more once it is there: what it took is kept in `run/made`, by the name of
the mount's place, until the mount is taken away.

Not here: what the tiers of the whole node have served (`clipfs.mount.counters`).
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from clipfs.layer.layout import Layout
from clipfs.mount import counters, records
from clipfs.mount.figures import TIERS
from clipfs.mount.records import RecordStore
from csi.status.reporter import Mounted


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What the making of a mount took: seconds, and bytes by tier."""

    seconds: float = 0
    bytes_by_tier: dict[str, int] = {}


def made_records(layout: Layout) -> RecordStore[Made]:
    return RecordStore(layout.run / "made", Made, durable=False)


class NodeFigures:
    """The `Figures` of one root."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def __call__(self, digest: str) -> Mounted | None:
        """None if the image is not mounted."""
        living = [one for one in records.living(self._layout) if one.digest == digest]
        return mounted_by(self._layout, living) if living else None


def mounted_by(layout: Layout, living: Sequence[records.MountRecord]) -> Mounted:
    """What mounts of one image come to, one at least."""
    made = [made_records(layout).read(Path(one.mountpoint).name) or Made() for one in living]
    read: Counter[str] = Counter()
    for record, what in zip(living, made, strict=True):
        read.update(what.bytes_by_tier)
        read.update(_read_by(layout, record))
    layers = living[0].layers
    return Mounted(
        front=living[0].front,
        seconds=made[0].seconds,
        layers=len(layers),
        complete=sum(layout.payload(key).exists() for key in layers),
        bytes_by_tier=read,
        is_shared=True,
    )


def _read_by(layout: Layout, record: records.MountRecord) -> dict[str, int]:
    if not record.pid:
        return {}
    numbers = counters.of(layout, record.pid)
    return {tier: numbers[tier]["bytes"] for tier in TIERS}
