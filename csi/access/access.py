"""Access to images, for the publisher: a volume and its credentials in, its image out.

Not here: the decision (`csi.access.admission`); the policy's rules (`csi.access.policy`).
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

import trio

from clipfs import errors
from clipfs.image.credentials import RegistryConfig
from clipfs.image.digest import Digest
from clipfs.image.model import Image
from clipfs.layer.seal import KeyRing
from clipfs.tiers.settings import TierSettings
from csi.access.admission import Admission
from csi.access.known import Known
from csi.access.policy import Policy
from csi.access.proofs import Clock, Proofs, caller_of
from csi.asker import PATIENT, Asker
from csi.errors import CallerGone
from csi.joined import Joined
from csi.volume import Volume

RECHECK_S = 0.5
"""How often it is looked whether a question to a registry is still wanted."""


class Access:
    """One driver's; it keeps what it learns below `run/access`. Many threads may ask at once."""

    def __init__(
        self,
        settings: TierSettings,
        *,
        grace_s: float,
        policy: Policy | None = None,
        clock: Clock | None = None,
    ) -> None:
        """grace_s  how long a proof holds while the registry cannot be asked
        policy   None: every image is allowed
        """
        self._settings = settings
        self._grace_s = grace_s
        self._policy = policy
        self._keys = KeyRing.own(settings.layout.index / "key")
        self._joined = Joined[Image]()
        folder = settings.layout.run / "access"
        self._known = Known(folder, self._keys)
        self._proofs = Proofs(folder / "proofs", self._keys, clock or Clock())

    def admit(
        self,
        volume: Volume,
        credentials: RegistryConfig,
        *,
        pinned: Digest | None = None,
        asker: Asker = PATIENT,
    ) -> Image:
        """The image that volume may show now, to who holds credentials.

        pinned  what the volume's tag was found to be before: it does not move
        Raises  any ClipError that says why there is none; CallerGone once asker gives up
        """
        if self._policy is not None:
            self._policy.check(volume)
        asker.waits_for(f"asking registry {volume.image.registry} whether this pod may read it")
        return self._joined.call(
            (volume.image, volume.platform, volume.pull_policy, pinned, credentials.to_json()),
            lambda: trio.run(
                _while_wanted, asker, partial(self._admit, volume, credentials, pinned)
            ),
            asker,
        )

    async def _admit(
        self, volume: Volume, credentials: RegistryConfig, pinned: Digest | None
    ) -> Image:
        settings = replace(self._settings, registry_config=credentials)
        async with settings.open_registry() as registry:
            shown = registry.credentials_for(volume.image)
            admission = Admission(
                volume=volume,
                registry=registry,
                caller=caller_of(self._keys, volume.image, shown),
                known=self._known,
                proofs=self._proofs,
                layout=settings.layout,
                grace_s=self._grace_s,
            )
            return await admission.image(pinned)


async def _while_wanted(asker: Asker, ask: Callable[[], Awaitable[Image]]) -> Image:
    """What ask says, or CallerGone."""
    found: Image | errors.ClipError = CallerGone("nobody wants to know any more")

    async def watch() -> None:
        while asker.is_wanted():  # noqa: ASYNC110 # threads without trio say so
            await trio.sleep(RECHECK_S)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        try:
            found = await ask()
        except errors.ClipError as error:  # here: it would leave the block in a group
            found = error
        nursery.cancel_scope.cancel()
    if isinstance(found, errors.ClipError):
        raise found
    return found
