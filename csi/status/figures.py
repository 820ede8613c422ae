"""How an image is mounted on this node now, and what was read for it, from its records.

Not here: what the tiers of the whole node have served (`clipfs.mount.counters`).
"""

from collections import Counter
from collections.abc import Sequence

from clipfs.layer.layout import Layout
from clipfs.mount import counters, records
from csi.status.reporter import Mounted


class NodeFigures:
    """The `Figures` of one root."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def __call__(self, digest: str) -> Mounted | None:
        """None if the image is not mounted; no bytes where the kernel serves it alone."""
        living = [one for one in records.living(self._layout) if one.digest == digest]
        return mounted_by(self._layout, living) if living else None


def mounted_by(layout: Layout, living: Sequence[records.MountRecord]) -> Mounted:
    """What mounts of one image come to, one at least."""
    read: Counter[str] = Counter()
    for record in living:
        read.update(_read_by(layout, record))
    layers = living[0].layers
    return Mounted(
        front=living[0].front,
        seconds=0,
        layers=len(layers),
        complete=sum(layout.payload(key).exists() for key in layers),
        bytes_by_tier=read,
    )


def _read_by(layout: Layout, record: records.MountRecord) -> dict[str, int]:
    if not record.pid:
        return {}
    return {tier: numbers["bytes"] for tier, numbers in counters.of(layout, record.pid).items()}
