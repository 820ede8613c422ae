"""The pod's imagePullSecrets and then its service account's, where the administrator allows it.

None is asked for unless `--pod-pull-secrets` names the pod's namespace: reading secrets is a
right that one node should not have over a whole cluster.

An API server that is away ends the search: another source's would be shown in place of the pod's.
One that does not let the driver read them, or does not know the pod (a static one has another uid
there), does not.

Not here: the API server (`csi.cluster`).
Source: Kubernetes, "Pull an Image from a Private Registry".
"""

from collections.abc import Collection
from typing import Protocol

from clipfs.image.credentials import RegistryConfig
from csi.asker import PATIENT, Asker
from csi.cluster.errors import ApiRefused, ApiRejected
from csi.credentials.sources import Found, SourceFailed
from csi.pod import Pod
from csi.volume import Volume

PULL_SECRETS = "imagePullSecrets"
EVERY_NAMESPACE = "*"


class PodSecrets(Protocol):
    def pull_secrets(self, pod: Pod) -> list[bytes]:
        """The docker configs of the pod's imagePullSecrets and then its service account's.

        One that is not there, or is of another type, is left out.
        Raises  ClipError if the cluster does not say
        """


class PullSecrets:
    name = PULL_SECRETS

    def __init__(self, secrets: PodSecrets, namespaces: Collection[str]) -> None:
        """namespaces  whose pods' secrets may be asked for; EVERY_NAMESPACE is all"""
        self._secrets = secrets
        self._namespaces = frozenset(namespaces)

    def credentials(
        self, volume: Volume, *, anew: bool = False, asker: Asker = PATIENT
    ) -> Found | None:
        if volume.pod is None or not may_ask(volume.pod, self._namespaces):
            return None
        asker.waits_for(f"asking the API server for the pull secrets of pod {volume.pod}")
        configs = [
            RegistryConfig.from_json(data, source=f"imagePullSecret {number} of pod {volume.pod}")
            for number, data in enumerate(self._asked(volume.pod), start=1)
        ]
        if not configs:
            return None
        return Found(config=configs[0], further=tuple(configs[1:]), can_be_asked_again=True)

    def _asked(self, pod: Pod) -> list[bytes]:
        try:
            return self._secrets.pull_secrets(pod)
        except (ApiRefused, ApiRejected) as error:
            raise SourceFailed(str(error)) from error


def may_ask(pod: Pod, namespaces: Collection[str]) -> bool:
    """Whether the administrator lets the driver read the secrets of this pod."""
    return EVERY_NAMESPACE in namespaces or pod.namespace in namespaces
