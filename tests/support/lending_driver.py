"""The driver's end of the credentials' socket, for one image with one volume."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from clipfs.image.digest import Digest
from clipfs.image.driver import CredentialsSocket
from csi.credentials.handing import Handing
from csi.credentials.lending import Lending
from csi.credentials.pull_secrets import PullSecrets
from csi.credentials.sources import Sources
from csi.pod import Pod
from csi.volume import Volume, name_of
from tests.support.volumes import Secrets, docker_config_of, volume_of

POD = Pod(namespace="team", name="web", uid="u")


@dataclass(slots=True, kw_only=True)
class LendingDriver:
    """`socket` is where a mount of its image asks."""

    registry: str
    volume: Volume
    socket: CredentialsSocket
    handing: Handing
    secrets: Secrets = field(default_factory=Secrets)

    def rotate(self, password: str) -> None:
        """What the pod's pull secret says from now on."""
        self.secrets.by_pod[str(POD)] = [docker_config_of({self.registry: password})]

    def volume_gone(self) -> None:
        self.handing.volume_gone(self.volume.target)


@contextmanager
def run_lending_driver(path: Path, image: str) -> Iterator[LendingDriver]:
    """image  named by its digest; its volume's pod has no secret yet"""
    secrets = Secrets()
    volume = volume_of(image, pod=POD, name="web")
    digest = Digest(image.partition("@")[2])
    sources = Sources([PullSecrets(secrets, ["team"])], hosts_of=lambda registry: [registry])
    handing = Handing(path, Lending(sources))
    handing.volume_here(digest, volume)
    where = CredentialsSocket(path=path, image=digest, volume=name_of(volume.target))
    with handing.running():
        yield LendingDriver(
            registry=volume.image.registry,
            volume=volume,
            socket=where,
            handing=handing,
            secrets=secrets,
        )
