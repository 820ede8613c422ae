"""Where images are mounted on this node, below `run/images/`: what lives there, what is free.

An image is at `<cache key>`, whatever its front. The next mount of it, with the other front, or by
a server for another name of the image, is at `<cache key>.2`, and so on. A server asks the registry
that it was started for, whose owner may take the image away from it.

Not here: mounting (`csi.mounter`).
"""

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipfs.image.digest import Digest, cache_key
from clipfs.image.model import Image
from clipfs.image.reference import Reference, parse_reference
from clipfs.layer.layout import Layout
from clipfs.mount import records
from clipfs.mount.mountinfo import mounts_at
from clipfs.mount.records import MountRecord


class Places:
    """Those of one driver; any thread may ask."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._folder = layout.run / "images"
        self._guard = threading.Lock()
        self._taken: set[Path] = set()  # where a mount is being made

    def living(self, image: Image, front: str) -> tuple[Path, MountRecord] | None:
        """A mount of image with that front: not one that is still being made.

        One that the kernel serves alone, or else a server that asks the image's own registry.
        """
        for place in self.of(image.digest):
            with self._guard:
                found = None if place in self._taken else self._record_at(place)
            if found is None or front not in ("auto", found.front):
                continue
            if found.front == "erofs" or _name(parse_reference(found.image)) == _name(
                image.reference
            ):
                return place, found
        return None

    @contextmanager
    def free(self, digest: Digest) -> Iterator[Path]:
        """Where no mount of digest lives or is being made; nobody else's for the block."""
        first = self._folder / cache_key(digest)
        others = (first.with_name(f"{first.name}.{number}") for number in itertools.count(2))
        place = next(filter(self._is_mine_now, itertools.chain([first], others)))
        try:
            yield place
        finally:
            self._taken.discard(place)

    def of(self, digest: Digest) -> list[Path]:
        """Those of digest that are there, with whatever is mounted at them."""
        return [place for place in self._all() if _digest_at(place) == digest]

    def digests(self) -> list[Digest]:
        """The images that are there."""
        return list(dict.fromkeys(_digest_at(place) for place in self._all()))

    def _is_mine_now(self, place: Path) -> bool:
        with self._guard:
            if place in self._taken or self._record_at(place) is not None:
                return False
            self._taken.add(place)
            return True

    def _all(self) -> list[Path]:
        return sorted(self._folder.iterdir()) if self._folder.exists() else []

    def _record_at(self, place: Path) -> MountRecord | None:
        """Of the living mount at place; None if there is none."""
        for mount in mounts_at(place)[-1:]:
            for record in records.mounts(self._layout).all().values():
                if records.is_answered(record) and records.is_mount_of(record, mount):
                    return record
        return None


def _name(reference: Reference) -> tuple[str, str]:
    return reference.registry.lower(), reference.repository


def _digest_at(place: Path) -> Digest:
    return Digest(place.name.partition(".")[0].replace("_", ":", 1))
