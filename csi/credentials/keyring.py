"""What to ask for an image with, of one source's docker configs: all that fits, one after another.

A pod may have several secrets for one registry, an old one and its successor among them. As with
the kubelet each is tried: those of the longest place first, of the same place in the order of the
secrets. A place may be a glob: `*.example.com`, `*.example.com:5000/team`.

Source: Kubernetes, pkg/credentialprovider/keyring.go (BasicDockerKeyring.Lookup).
"""

from collections.abc import Sequence
from functools import reduce

from clipfs.image.credentials import Credentials, RegistryConfig
from csi.credentials.matching import matches


def configs_for(found: Sequence[RegistryConfig], names: Sequence[str]) -> list[RegistryConfig]:
    """All of found as one config, once for each of the image's own credentials; none if found
    has nothing for any of names.

    found  where several speak of one place, the first one's word holds
    names  `host[:port]/repository`: of the image, and then of its mirrors, each of which gets the
           first credentials that fit
    """
    fitting = [_fitting(found, name) for name in names]
    if not any(fitting):
        return []
    every = reduce(RegistryConfig.merged, reversed(found), RegistryConfig.empty())
    for name, some in zip(names[1:], fitting[1:], strict=True):
        every = _with(every, name, some[0]) if some else every
    return [_with(every, names[0], one) for one in fitting[0]] or [every]


def _fitting(found: Sequence[RegistryConfig], name: str) -> list[Credentials]:
    places = {place for one in found for place in one.by_place if matches(place, name)}
    return list(
        dict.fromkeys(
            one.by_place[place]
            for place in sorted(places, reverse=True)
            for one in found
            if place in one.by_place
        )
    )


def _with(config: RegistryConfig, name: str, mine: Credentials) -> RegistryConfig:
    """config, where name has just these."""
    if config.for_repository(*name.split("/", 1)) == mine:
        return config
    return config.merged(RegistryConfig({name: mine}))
