"""Asking a registry as a volume: with its credentials, its newest ones, or a way out.

    asking = Asking(sources, namespaces=...)
    image, chosen = asking.ask(volume, lambda config: resolve(volume, config))

A source may have several for one registry: each is tried. It may have answered from memory, a
provider's plugin for hours; so what is refused is asked once more where the source, asked anew,
says something else.

Not here: the questions; what is said of a refusal (`advice`).
"""

from collections.abc import Callable, Collection, Iterator
from typing import TypeVar

from clipfs import errors
from clipfs.image.credentials import RegistryConfig
from csi.asker import PATIENT, Asker
from csi.credentials.advice import with_advice
from csi.credentials.sources import NOBODY, Chosen, Sources
from csi.volume import Volume

T = TypeVar("T")


class Asking:
    def __init__(self, sources: Sources, *, namespaces: Collection[str]) -> None:
        """namespaces  whose pods' imagePullSecrets are read"""
        self._sources = sources
        self._namespaces = namespaces

    def ask(
        self,
        volume: Volume,
        question: Callable[[RegistryConfig], T],
        asker: Asker = PATIENT,
        *,
        first: Chosen | None = None,
    ) -> tuple[T, Chosen]:
        """The answer, and what it was asked with; for asker.

        first   what a source said for volume before, if it is to be shown first
        Raises  question's ClipError; one of credentials says whose they were and what to do
        """
        refused: list[tuple[errors.ClipError, Chosen]] = []
        for one in self._each(volume, asker, first):
            if any(one.config == before.config for _, before in refused):
                continue
            try:
                return question(one.config), one
            except (errors.Unauthenticated, errors.AccessDenied) as error:
                refused.append((error, one))
            except errors.ImageNotFound as error:
                if one.unasked is None:
                    raise
                raise self.explained(error, volume, one) from error
        refusal, shown = refused[-1]
        raise self.explained(refusal, volume, shown) from refusal

    def _each(self, volume: Volume, asker: Asker, first: Chosen | None) -> Iterator[Chosen]:
        """What may be shown for volume, and then what its source says anew."""
        chosen = first or self._sources.choose(volume, asker=asker)
        yield from chosen.each()
        if chosen.source != NOBODY or not (chosen.failed or chosen.unasked):  # else in vain
            yield from self._sources.choose(volume, anew=True, asker=asker).each()

    def explained(
        self, error: errors.ClipError, volume: Volume, chosen: Chosen
    ) -> errors.ClipError:
        """error with the way out, if it may be for chosen that the registry says so."""
        return with_advice(error, volume, chosen, namespaces=self._namespaces)
