"""Whose credentials a volume's image is asked for with: one source a volume, in a fixed order.

    sources = Sources([GivenSecret(), PullSecrets(...), Providers(...), NodeConfig(path)], ...)
    chosen = sources.choose(volume)

The first source that has credentials for the image is the volume's; where none has any, it is
asked for by nobody. All of a source's credentials come along, so that a mirror gets its own.

Not here: the sources that ask others (`pull_secrets`, `providers`); what becomes of credentials
that the registry refuses (`advice`, `lending`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol
from urllib.parse import urlsplit

from clipfs import errors
from clipfs.image.credentials import RegistryConfig
from clipfs.image.mirrors import Mirrors
from clipfs.image.reference import Reference
from clipfs.log import log
from csi.asker import PATIENT, Asker
from csi.cluster.errors import ApiUnavailable
from csi.credentials.keyring import configs_for
from csi.volume import Volume

NOBODY = "nobody"
GIVEN_SECRET = "nodePublishSecretRef"


class SourceFailed(Exception):
    """A source that should have known does not answer; its text may go into an event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Credentials, for the image's registry and perhaps others.

    further             more of them, which come after those of config
    can_be_asked_again  whether the source may have others later, for the same volume
    lacks               what is wrong where there might have been more, for who misses them
    """

    config: RegistryConfig
    further: tuple[RegistryConfig, ...] = ()
    can_be_asked_again: bool = False
    lacks: tuple[str, ...] = ()


class Source(Protocol):
    @property
    def name(self) -> str:
        """For log lines."""

    def credentials(
        self, volume: Volume, *, anew: bool = False, asker: Asker = PATIENT
    ) -> Found | None:
        """What this source has for volume's image, if anything.

        anew    the registry refuses what was given last: remembered answers do not count
        asker   is told who is asked, where that may take a while
        Raises  SourceFailed, so that the next source is asked; any ClipError, so that none is:
                ApiUnavailable if it may know later
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What a volume's image is asked for with.

    source   its name; NOBODY: without credentials
    further  of the same source, in case that config is refused
    failed   sources that should have known, and do not answer, or have no credentials but else
    unasked  the source that could not be asked just now, whose would have come first; NOBODY's
             are shown then, which may do, and those of no later source
    """

    source: str
    config: RegistryConfig
    further: tuple[RegistryConfig, ...] = ()
    can_be_asked_again: bool
    failed: tuple[str, ...] = ()
    unasked: str | None = None

    def each(self) -> Iterator["Chosen"]:
        """One for each config, in the order in which they are tried."""
        for config in (self.config, *self.further):
            yield replace(self, config=config, further=())


class Sources:
    """The sources of a node, in their order."""

    def __init__(
        self, sources: Sequence[Source], *, hosts_of: Callable[[str], Sequence[str]]
    ) -> None:
        """hosts_of  of a registry: all hosts that may want credentials for its images"""
        self._sources = sources
        self._hosts_of = hosts_of

    def choose(self, volume: Volume, *, anew: bool = False, asker: Asker = PATIENT) -> Chosen:
        """Raises  the ClipError of a source that nobody may pass by

        The API server away is none: whoever may read an image without credentials needs none.
        """
        hosts = self._hosts_of(volume.image.registry)
        names = [f"{host}/{volume.image.repository}" for host in hosts]
        failed: list[str] = []
        for source in self._sources:
            try:
                found = source.credentials(volume, anew=anew, asker=asker)
            except SourceFailed as error:
                log.warning("source of credentials failed", source=source.name, error=str(error))
                failed.append(str(error))
                continue
            except ApiUnavailable as error:
                log.warning("source of credentials is away", source=source.name, error=str(error))
                return _nobody(failed, unasked=f"{source.name}: {error}")
            if found is None:
                continue
            if configs := configs_for((found.config, *found.further), names):
                return _chosen(source.name, found, configs, failed)
            lacks = [*found.lacks, *_unused(found, volume.image, hosts)]
            for one in lacks:
                log.warning("source of credentials has none", source=source.name, why=one)
            failed += lacks
        return _nobody(failed)


def _nobody(failed: Sequence[str], *, unasked: str | None = None) -> Chosen:
    nothing = Found(config=RegistryConfig.empty())
    return replace(_chosen(NOBODY, nothing, [nothing.config], failed), unasked=unasked)


def _chosen(
    name: str, found: Found, configs: Sequence[RegistryConfig], failed: Sequence[str]
) -> Chosen:
    return Chosen(
        source=name,
        config=configs[0],
        further=tuple(configs[1:]),
        can_be_asked_again=found.can_be_asked_again,
        failed=tuple(failed),
    )


@dataclass(frozen=True, slots=True)
class GivenSecret:
    """The volume's own, as it came with its last publish: there is nobody to ask."""

    name: str = GIVEN_SECRET

    def credentials(
        self, volume: Volume, *, anew: bool = False, asker: Asker = PATIENT
    ) -> Found | None:
        """InvalidInput if it cannot be read: it was meant to count, so no other source does."""
        if volume.secret_fault:
            raise errors.InvalidInput(volume.secret_fault)
        return Found(config=volume.credentials)


def hosts_by(mirrors: Mirrors) -> Callable[[str], Sequence[str]]:
    """Of a registry: its own name, and its mirrors', as credentials are kept for them."""

    def hosts_of(registry: str) -> Sequence[str]:
        bases = [host.base for host in mirrors.hosts_of(registry) if host.base is not None]
        return [registry, *(urlsplit(base).netloc for base in bases)]

    return hosts_of


def _unused(found: Found, image: Reference, hosts: Sequence[str]) -> list[str]:
    """What there is for the image that is no credentials."""
    said = [
        config.unused_for(host, image.repository)
        for config in (found.config, *found.further)
        for host in hosts
    ]
    return [one for one in dict.fromkeys(said) if one is not None]
