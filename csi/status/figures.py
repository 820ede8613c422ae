"""How an image is mounted on this node now, and what was read for it, from its records.

Not here: what the tiers of the whole node have served (`clipfs.mount.counters`).
"""

from clipfs.layer.layout import Layout
from clipfs.mount import counters, records
from csi.status.reporter import Mounted


class NodeFigures:
    """The `Figures` of one root."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def __call__(self, digest: str) -> Mounted | None:
        """None if the image is not mounted; no bytes where the kernel serves it alone."""
        return self.mounted(digest, seconds=0)

    def mounted(self, digest: str, *, seconds: float) -> Mounted | None:
        """The same; seconds is what the caller says that the mount took."""
        living = [one for one in records.living(self._layout) if one.digest == digest]
        if not living:
            return None
        layers = living[0].layers
        read: dict[str, int] = {}
        for record in living:
            for tier, count in _read_by(self._layout, record).items():
                read[tier] = read.get(tier, 0) + count
        return Mounted(
            front=living[0].front,
            seconds=seconds,
            layers=len(layers),
            complete=sum(self._layout.payload(key).exists() for key in layers),
            bytes_by_tier=read,
        )


def _read_by(layout: Layout, record: records.MountRecord) -> dict[str, int]:
    if not record.pid:
        return {}
    return {tier: numbers["bytes"] for tier, numbers in counters.of(layout, record.pid).items()}
