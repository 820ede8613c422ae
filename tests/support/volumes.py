"""Volumes and their pods, as the kubelet's request says them, and a cluster's secrets in memory."""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clipfs.image.platform import host_platform
from clipfs.layer.layout import Layout
from csi.cluster.errors import ApiUnavailable
from csi.credentials.asking import Asking
from csi.credentials.given import TOKENS_KEY
from csi.credentials.handing import SOCKET, Handing
from csi.credentials.lending import Lending
from csi.credentials.sources import GivenSecret, Sources
from csi.pod import KUBELET_PREFIX, Pod
from csi.proto import csi_pb2 as pb
from csi.volume import Volume, VolumeRules, parse_publish

POD = Pod(namespace="team-a", name="web", uid="u-1", service_account="builder")


@dataclass(slots=True)
class Secrets:
    """A cluster in which each pod has these pull secrets; `asked` are the pods it was asked of.

    is_away  its API server does not answer
    """

    by_pod: dict[str, list[bytes]] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    asked: list[Pod] = field(default_factory=list)
    is_away: bool = False
    lacks: list[str] = field(default_factory=list)

    def pull_secrets(self, pod: Pod, *, on_lack: Callable[[str], None]) -> list[bytes]:
        self._ask(pod)
        for one in self.lacks:
            on_lack(one)
        return self.by_pod.get(str(pod), [])

    def service_account_annotations(self, pod: Pod) -> Mapping[str, str]:
        self._ask(pod)
        return self.annotations

    def _ask(self, pod: Pod) -> None:
        self.asked.append(pod)
        if self.is_away:
            raise ApiUnavailable("the API server does not answer")


def docker_config_of(passwords: Mapping[str, str]) -> bytes:
    """A config.json with a password for each place; the user is always `user`."""
    auths = {
        place: {"auth": base64.b64encode(f"user:{one}".encode()).decode()}
        for place, one in passwords.items()
    }
    return json.dumps({"auths": auths}).encode()


def volume_of(
    image: str,
    *,
    pod: Pod | None = POD,
    secrets: Mapping[str, str] | None = None,
    tokens: Mapping[str, str] | None = None,
    expires: str = "2099-01-01T00:00:00Z",
    token_requests: bool = True,
    name: str = "v",
) -> Volume:
    """A volume as a publish describes it; tokens by audience, all of which end at expires."""
    context = {"image": image}
    if pod is not None:
        said = {"pod.name": pod.name, "pod.namespace": pod.namespace, "pod.uid": pod.uid,
                "serviceAccount.name": pod.service_account}  # fmt: skip  # words in a row
        context |= {KUBELET_PREFIX + key: value for key, value in said.items()}
    if tokens is not None:
        by_audience = {
            audience: {"token": token, "expirationTimestamp": expires}
            for audience, token in tokens.items()
        }
        context[TOKENS_KEY] = json.dumps(by_audience)
    rules = VolumeRules(
        kubelet_root=Path("/kubelet"),
        platform=host_platform(),
        front="auto",
        token_requests=token_requests,
    )
    return parse_publish(request_of(name, context, secrets or {}), rules)


def request_of(
    name: str, context: Mapping[str, str], secrets: Mapping[str, str]
) -> pb.NodePublishVolumeRequest:
    return pb.NodePublishVolumeRequest(
        volume_id=f"csi-{name}",
        target_path=f"/kubelet/pods/{name}/mount",
        volume_capability=pb.VolumeCapability(mount=pb.VolumeCapability.MountVolume()),
        volume_context=context,
        secrets=secrets,
    )


def asking_nobody(layout: Layout) -> tuple[Asking, Handing]:
    """Volumes have the credentials that they come with; no server asks for any."""
    sources = Sources([GivenSecret()], hosts_of=lambda registry: [registry])
    return Asking(sources, namespaces=()), Handing(layout.run / SOCKET, Lending(sources))
