"""What people read of a volume, each on one line.

Not here: how far an image on its way is (`csi.progress`).
"""

from clipfs import errors
from clipfs.cli.sizes import human_bytes
from clipfs.image.model import Image
from csi.status.reporter import Mounted

LIMIT = 1000
"""Bytes of a message; the API takes 1,024 of an event's."""

WAY_OUT: dict[type[errors.ClipError], str] = {
    errors.CorruptImage: "push the image again, or look for a proxy that changes it",
    errors.UnsupportedImage: "convert the image, or push it again with a current tool",
}
"""Where the error itself cannot know: it has many causes, and one remedy. What to do about a
registry that refuses depends on whose credentials it were (`csi.credentials.advice`)."""

AGAIN = (
    "containers that ran before see it once they are started again, or at once with "
    "mountPropagation: HostToContainer"
)

_TIERS = {"disk": "disk", "content_cache": "content cache", "registry": "registry"}


def one_line(text: str) -> str:
    return " ".join(text.split()).encode()[:LIMIT].decode(errors="ignore")


def failure_text(error: errors.ClipError) -> str:
    """Cause and way out."""
    way_out = WAY_OUT.get(type(error))
    return one_line(f"{error}; {way_out}" if way_out else str(error))


def resolved_text(image: Image) -> str:
    count = len(image.layers)
    size = human_bytes(sum(layer.size for layer in image.layers))
    return one_line(f"{image.reference} is {image.digest}, {layers_text(count)}, {size}")


def mounted_text(image: Image, mounted: Mounted) -> str:
    read = ", ".join(
        f"{name} {human_bytes(mounted.bytes_by_tier[tier])}"
        for tier, name in _TIERS.items()
        if tier in mounted.bytes_by_tier
    )
    return one_line(
        f"{image.reference} mounted {'again ' if mounted.is_again else ''}with {mounted.front}"
        f"{_made_text(mounted)}, "
        f"{mounted.complete} of {layers_text(mounted.layers)} on this node"
        + (f"; read so far: {read}" if read else "")
        + (f"; {AGAIN}" if mounted.is_again else "")
    )


def _made_text(mounted: Mounted) -> str:
    took = f"in {time_text(mounted.seconds)}" if mounted.seconds else ""
    if mounted.is_shared:
        return ", sharing a mount that was there" + (f" (made {took})" if took else "")
    return f" {took}" if took else ""


def layers_text(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"


def time_text(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"
