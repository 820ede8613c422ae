"""A pod's imagePullSecrets and its service account's, as the administrator lets the driver read.

What lets it is a Role in the pod's namespace (`manifests/examples/pull-secrets.yaml`); by
default there is none anywhere. Nothing is kept here, and nothing of a secret is ever told.

Source: Kubernetes, "Specifying imagePullSecrets on a Pod"; the admission plugin ServiceAccount
copies the service account's into a pod that names none, so mostly both are the same.
"""

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from clipfs.image.credentials import RegistryConfig
from clipfs.log import log
from csi.cluster.api import Json, PodApi
from csi.cluster.errors import ApiRefused, ApiRejected
from csi.pod import Pod

_KEYS = {
    "kubernetes.io/dockerconfigjson": ".dockerconfigjson",
    "kubernetes.io/dockercfg": ".dockercfg",
}
"""Type of a pull secret -> its key."""


class PodSecrets:
    """Asks at each call: what an administrator takes away is gone at once."""

    def __init__(self, api: PodApi) -> None:
        self._api = api

    def pull_secrets(self, pod: Pod, *, on_lack: Callable[[str], None]) -> list[bytes]:
        """The docker configs of pod's pull secrets, then of its service account's, in order.

        A `.dockercfg` is given as the docker config that means the same. One that is not there, or
        is no pull secret, is left out, and on_lack told which and why.

        Raises  InvalidInput, which names a secret that is no docker config;
                ApiRefused, which names the Role that is missing; ApiUnavailable; ApiRejected if
                the pod is not the one that the kubelet means
        """
        with _refusal_explained(pod):
            names = [*_names(self._spec(pod)), *_names(self._service_account(pod))]
            configs = [self._config(pod, name, on_lack) for name in dict.fromkeys(names)]
        return [config for config in configs if config is not None]

    def service_account_annotations(self, pod: Pod) -> Mapping[str, str]:
        """Those of pod's service account, for credential providers; errors as above."""
        with _refusal_explained(pod):
            metadata = self._service_account(pod).get("metadata", {})
        return dict(metadata.get("annotations") or {})

    def _spec(self, pod: Pod) -> Json:
        found = self._api.pod(pod.namespace, pod.name)
        uid = found["metadata"]["uid"] if found is not None else "absent"
        if found is None or uid != pod.uid:
            raise ApiRejected(
                f"pod {pod} is not the one that the kubelet means (uid {pod.uid or 'unknown'}; in "
                f"the API: {uid}), so its pull secrets are not used"
            )
        spec: Json = found["spec"]
        return spec

    def _service_account(self, pod: Pod) -> Json:
        name = pod.service_account or "default"
        found = self._api.service_account(pod.namespace, name)
        if found is None:
            log.warning("service account not found", pod=str(pod), service_account=name)
        return found or {}

    def _config(self, pod: Pod, name: str, on_lack: Callable[[str], None]) -> bytes | None:
        secret = self._api.secret(pod.namespace, name)
        if secret is None:
            on_lack(f"pull secret {name} of pod {pod} is not there")
            return None
        kind = secret.get("type", "")
        key = _KEYS.get(kind)
        if key is None:
            on_lack(f"secret {name} of pod {pod} is no pull secret: it has type {kind[:100]}")
            return None
        try:
            data = base64.b64decode(secret["data"][key], validate=True)
        except (KeyError, TypeError, binascii.Error):
            on_lack(f"pull secret {name} of pod {pod} has no {key}, or none in base64")
            return None
        config = data if key == ".dockerconfigjson" else b'{"auths":' + data + b"}"
        RegistryConfig.from_json(config, source=f"pull secret {name} of pod {pod}")
        return config


def _names(owner: Json) -> list[str]:
    return [one["name"] for one in owner.get("imagePullSecrets") or () if one.get("name")]


@contextmanager
def _refusal_explained(pod: Pod) -> Iterator[None]:
    try:
        yield
    except ApiRefused as error:
        raise ApiRefused(
            f"the driver may not read the pull secrets of namespace {pod.namespace}: bind the Role "
            "clip-pull-secrets there (podPullSecrets.namespaces in the chart), or name a secret in "
            "the volume's nodePublishSecretRef"
        ) from error
