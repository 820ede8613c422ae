"""The pod's imagePullSecrets and then its service account's, where the administrator allows it.

None is asked for unless `--pod-pull-secrets` names the pod's namespace: reading secrets is a
right that one node should not have over a whole cluster.

An API server that is away ends the search: another source's would be shown in place of the pod's.
One that does not let the driver read them, or does not know the pod (a static one has another uid
there), does not.

Not here: the API server (`csi.cluster`).
Source: Kubernetes, "Pull an Image from a Private Registry".
"""

from collections.abc import Callable, Collection
from typing import Protocol

from clipfs.image.credentials import RegistryConfig
from csi.asker import PATIENT, Asker
from csi.cluster.errors import ApiRefused, ApiRejected
from csi.credentials.sources import Found, SourceFailed
from csi.pod import Pod
from csi.volume import Volume

PULL_SECRETS = "imagePullSecrets"
EVERY_NAMESPACE = "*"


class SecretReader(Protocol):
    def pull_secrets(self, pod: Pod, *, on_lack: Callable[[str], None]) -> list[bytes]:
        """The docker configs of the pod's imagePullSecrets and then its service account's.

        One that is not there, or is none, is left out, and on_lack told which and why.
        Raises  ClipError if the cluster does not say
        """


class PullSecrets:
    name = PULL_SECRETS

    def __init__(self, secrets: SecretReader, namespaces: Collection[str]) -> None:
        """namespaces  whose pods' secrets may be asked for; EVERY_NAMESPACE is all"""
        self._secrets = secrets
        self._namespaces = frozenset(namespaces)

    def credentials(
        self, volume: Volume, *, anew: bool = False, asker: Asker = PATIENT
    ) -> Found | None:
        if volume.pod is None or not may_ask(volume.pod, self._namespaces):
            return None
        asker.waits_for(f"asking the API server for the pull secrets of pod {volume.pod}")
        lacks = list[str]()
        configs = [
            RegistryConfig.from_json(data, source=f"imagePullSecret {number} of pod {volume.pod}")
            for number, data in enumerate(self._asked(volume.pod, lacks.append), start=1)
        ]
        first, *further = configs or [RegistryConfig.empty()]
        return Found(
            config=first, further=tuple(further), can_be_asked_again=True, lacks=tuple(lacks)
        )

    def _asked(self, pod: Pod, on_lack: Callable[[str], None]) -> list[bytes]:
        try:
            return self._secrets.pull_secrets(pod, on_lack=on_lack)
        except (ApiRefused, ApiRejected) as error:
            raise SourceFailed(str(error)) from error


def may_ask(pod: Pod, namespaces: Collection[str]) -> bool:
    """Whether the administrator lets the driver read the secrets of this pod."""
    return EVERY_NAMESPACE in namespaces or pod.namespace in namespaces
