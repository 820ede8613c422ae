"""One volume's question, one caller: pull policy, proof, and what holds if nobody answers.

    image = await Admission(...).image(pinned)

| pullPolicy | a tag is |
|---|---|
| Always | what the registry says now |
| IfNotPresent | what it was here before, if that image is still on this node; else as Always |
| Never | what it was here before; what nobody here has asked for is looked up, to prove access |

A digest is itself. In each case the registry is asked whether this caller may have it.

Not here: whether an image is whole on the node, which Never asks for (`csi.trees`).
Source: Kubernetes, "Image pull policy".
"""

from contextlib import suppress
from dataclasses import dataclass

from clipfs import errors
from clipfs.image.digest import Digest
from clipfs.image.model import Image
from clipfs.image.registry import Registry
from clipfs.layer.layout import Layout
from clipfs.log import log
from csi.access.known import Known, is_indexed
from csi.access.proofs import Caller, Proofs
from csi.volume import Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """grace_s  how long a proof holds while the registry cannot be asked."""

    volume: Volume
    registry: Registry
    caller: Caller
    known: Known
    proofs: Proofs
    layout: Layout
    grace_s: float

    async def image(self, pinned: Digest | None) -> Image:
        """The image that the volume may show; any ClipError that says why there is none.

        pinned  what the tag was when this volume was published first
        """
        try:
            digest = pinned or self.volume.image.digest
            if digest is not None:
                return await self._of_digest(digest)
            return await self._of_tag()
        except (errors.Unauthenticated, errors.AccessDenied):
            self.proofs.take_back_all(self.caller)
            raise

    async def _of_digest(self, digest: Digest) -> Image:
        image = self.known.image(self.volume.image, digest, self.volume.platform)
        if image is None:
            return await self._resolved(digest)
        return await self._proved(digest, image)

    async def _of_tag(self) -> Image:
        reference, platform = self.volume.image, self.volume.platform
        digest = self.known.tag(reference, platform)
        image = self.known.image(reference, digest, platform) if digest is not None else None
        if digest is None or image is None:
            return await self._resolved()
        if self.volume.pull_policy == "Never":
            with suppress(errors.CorruptImage):  # which tells the digest
                return await self._proved(digest, image)
            return await self._resolved()
        if self.volume.pull_policy == "IfNotPresent" and is_indexed(self.layout, image):
            # the tag may be another image's by now; what is no answer tells the digest
            with suppress(errors.ImageNotFound, errors.CorruptImage):
                return await self._proved(digest, image)
            return await self._resolved()
        try:
            return await self._current(digest, image)
        except errors.RegistryUnavailable as error:
            return self._by_grace(digest, image, error)

    async def _current(self, digest: Digest, image: Image) -> Image:
        """What the tag is now; its documents are only fetched if it is another digest by now."""
        if await self.registry.prove(self.volume.image) != digest:
            return await self._resolved()
        self.proofs.add(self.caller, digest)
        return image

    async def _proved(self, digest: Digest, image: Image) -> Image:
        """image, if the registry lets this caller have its digest."""
        if self.proofs.is_fresh(self.caller, digest):
            return image
        try:
            await self.registry.prove(self.volume.image, digest)
        except errors.RegistryUnavailable as error:
            return self._by_grace(digest, image, error)
        except errors.ImageNotFound:
            self.proofs.take_back(self.caller, digest)
            raise
        self.proofs.add(self.caller, digest)
        return image

    async def _resolved(self, digest: Digest | None = None) -> Image:
        """What the registry says, documents and all: who gets them may read the image."""
        reference, platform = self.volume.image, self.volume.platform
        named, image = await self.registry.resolve_named(reference, platform, digest)
        self.known.add_image(image, named, platform)
        if digest is None:
            self.known.add_tag(reference, named, platform)
        self.proofs.add(self.caller, named)
        return image

    def _by_grace(self, digest: Digest, image: Image, error: errors.RegistryUnavailable) -> Image:
        about = {"image": str(self.volume.image), "volume": self.volume.volume_id}
        if not self.proofs.is_within(self.grace_s, self.caller, digest):
            log.info("access was not proved here in time", grace_s=self.grace_s, **about)
            raise error
        log.warning(
            "registry cannot be asked; access was proved here before", error=str(error), **about
        )
        return image
