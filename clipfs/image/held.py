"""The credentials that a caller holds now, and who may give others in the middle of its life.

    held = HeldCredentials(config, giver)
    config = held.config                  what to show
    await held.renewed(refused=config)    the registry refuses that: is there another one to show?

Not here: what a registry is shown (`clipfs.image.session`); a giver (`clipfs.image.driver`).
"""

import math
from typing import Protocol

import trio

from clipfs.image.credentials import RegistryConfig

ASK_AGAIN_S = 5.0
"""After a question to a giver that has nothing: each read of bytes that are not there asks."""


class Giver(Protocol):
    async def others(self) -> RegistryConfig | None:
        """Credentials other than those that are refused; None: it has none, or is away."""


class HeldCredentials:
    """A config that may be replaced at any time: compare it by identity."""

    def __init__(self, config: RegistryConfig, giver: Giver | None = None) -> None:
        self._config = config
        self._giver = giver
        self._asking = trio.Lock()
        self._not_before = -math.inf  # on trio's clock

    @property
    def config(self) -> RegistryConfig:
        return self._config

    def replace(self, config: RegistryConfig) -> None:
        """Show this from now on, and nothing of what was held before."""
        self._config = config

    async def renewed(self, *, refused: RegistryConfig) -> bool:
        """Whether something else than refused is held now, after the giver was asked perhaps.

        One question at a time, and none soon after one that brought nothing: who waits gets the
        answer too.
        """
        if self._giver is None:
            return self._config is not refused
        async with self._asking:
            if self._config is refused and trio.current_time() >= self._not_before:
                found = await self._giver.others()
                if found == refused:  # it cannot know what its caller began with
                    found = await self._giver.others()
                if found is None or found == refused:
                    self._not_before = trio.current_time() + ASK_AGAIN_S
                else:
                    self._config = found
            return self._config is not refused
