"""The pod that a publish is for, as the kubelet says it (`podInfoOnMount: true`).

Source: Kubernetes, CSIDriver `podInfoOnMount`: the keys `csi.storage.k8s.io/...` of volume_context.
"""

from collections.abc import Mapping
from dataclasses import dataclass

KUBELET_PREFIX = "csi.storage.k8s.io/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """What events, ClipMounts, pull secrets and policies go by."""

    namespace: str
    name: str
    uid: str
    service_account: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def pod_of(context: Mapping[str, str]) -> Pod | None:
    """The pod of a volume_context; None where no kubelet asks, or one that does not say."""
    said = {key: context.get(KUBELET_PREFIX + key, "") for key in _KEYS}
    if not (said["pod.namespace"] and said["pod.name"]):
        return None
    return Pod(
        namespace=said["pod.namespace"],
        name=said["pod.name"],
        uid=said["pod.uid"],
        service_account=said["serviceAccount.name"],
    )


_KEYS = ("pod.namespace", "pod.name", "pod.uid", "serviceAccount.name")
