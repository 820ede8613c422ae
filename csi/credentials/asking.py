"""Asking a registry as a volume: with its credentials, its newest ones, or a way out.

    asking = Asking(sources, namespaces=...)
    image, chosen = asking.ask(volume, lambda config: resolve(volume, config))

A source may have answered from memory, a provider's plugin for hours; so what is refused is asked
once more where the source, asked anew, says something else.

Not here: the questions; what is said of a refusal (`advice`).
"""

from collections.abc import Callable, Collection
from typing import TypeVar

from clipfs import errors
from clipfs.image.credentials import RegistryConfig
from csi.asker import PATIENT, Asker
from csi.credentials.advice import with_advice
from csi.credentials.sources import Chosen, Sources
from csi.volume import Volume

T = TypeVar("T")


class Asking:
    def __init__(self, sources: Sources, *, namespaces: Collection[str]) -> None:
        """namespaces  whose pods' imagePullSecrets are read"""
        self._sources = sources
        self._namespaces = namespaces

    def ask(
        self, volume: Volume, question: Callable[[RegistryConfig], T], asker: Asker = PATIENT
    ) -> tuple[T, Chosen]:
        """The answer, and what it was asked with; for asker.

        Raises  question's ClipError; one of credentials says whose they were and what to do
        """
        chosen = self._sources.choose(volume, asker=asker)
        try:
            return question(chosen.config), chosen
        except (errors.Unauthenticated, errors.AccessDenied) as refusal:
            newest = self._sources.choose(volume, anew=True, asker=asker)
            if newest.config == chosen.config:
                raise self.explained(refusal, volume, chosen) from refusal
        try:
            return question(newest.config), newest
        except (errors.Unauthenticated, errors.AccessDenied) as refusal:
            raise self.explained(refusal, volume, newest) from refusal

    def explained(
        self, error: errors.ClipError, volume: Volume, chosen: Chosen
    ) -> errors.ClipError:
        """error with the way out, if it is a registry's refusal of chosen."""
        return with_advice(error, volume, chosen, namespaces=self._namespaces)
