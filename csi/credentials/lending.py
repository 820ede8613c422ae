"""Whose credentials an image's server may be shown: those of the volumes that show the image.

A server is one for all volumes of its image, and begins with the credentials of one. When these
are refused, or their volume is gone, the next are another volume's: each has proved that it may
read the image. Nothing is kept of a volume that is gone.

Not here: the servers (`handing`).
"""

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from clipfs import errors
from clipfs.image.credentials import RegistryConfig
from clipfs.image.digest import Digest
from clipfs.log import log
from csi.about import lines_about
from csi.credentials.sources import NOBODY, Chosen, Sources
from csi.volume import Volume, name_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Lent:
    """Credentials, and the name of the volume that they are of."""

    volume: str
    config: RegistryConfig


@dataclass(frozen=True, slots=True)
class _Here:
    """A volume that shows image; is_renewed: its own secret is not the one that it came with."""

    image: Digest
    volume: Volume
    is_renewed: bool


class Lending:
    """The volumes of a node; any thread may ask."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._guard = threading.Lock()
        self._volumes: dict[str, _Here] = {}  # by name, the latest last

    def add(self, image: Digest, volume: Volume) -> None:
        """volume shows image from now on: to be said before its server can ask, and again with
        what it has come to."""
        name = name_of(volume.target)
        with self._guard:
            before = self._volumes.get(name)
            is_renewed = before is not None and (
                before.is_renewed or before.volume.credentials != volume.credentials
            )
            self._volumes[name] = _Here(image, volume, is_renewed)

    def remove(self, volume: str) -> None:
        """By name; one that is not there is gone."""
        with self._guard:
            self._volumes.pop(volume, None)

    def is_here(self, volume: str) -> bool:
        with self._guard:
            return volume in self._volumes

    def another(
        self, image: str, *, held: str, tried: Sequence[RegistryConfig], anew: bool
    ) -> Lent | None:
        """Credentials for image that are not among tried, of the latest volume that has any.

        held  the volume whose credentials are there already, if it is still here
        anew  they have been refused, so that no source may answer from memory
        """
        with self._guard:
            found = list(reversed(self._volumes.items()))
        for name, here in found:
            volume = here.volume
            chosen = self._chosen(volume, anew=anew) if here.image == image else None
            if chosen is None or chosen.source == NOBODY:
                continue
            config = next((one.config for one in chosen.each() if one.config not in tried), None)
            if config is None:
                continue
            if name == held and not (chosen.can_be_asked_again or here.is_renewed):
                continue
            if self.is_here(name):  # a source may take a minute
                with _lines_about(volume):
                    log.info("credentials are lent", source=chosen.source)
                return Lent(volume=name, config=config)
        return None

    def _chosen(self, volume: Volume, *, anew: bool) -> Chosen | None:
        with _lines_about(volume):
            try:
                return self._sources.choose(volume, anew=anew)
            except errors.ClipError as error:
                log.warning("no credentials to lend", error=str(error))
                return None


def _lines_about(volume: Volume) -> AbstractContextManager[None]:
    return lines_about(volume.volume_id, pod=str(volume.pod or ""), image=str(volume.image))
