"""Publishes volumes as a kubelet does: gRPC on a node plugin's socket.

The few CSI messages that this takes are encoded here, field by field, from the specification's
numbers: the demo must not share a mistake with the product's own `csi.proto`.

Source: CSI 1.11, csi.proto; protobuf "Encoding"; pods' folders as in Kubernetes 1.37.
"""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc

from demo.stage import NotAsPromised

CALL_S = 120
"""The kubelet's own limit for a call."""

_MOUNT_CAPABILITY, _ACCESS_MODE = 2, 3
_SINGLE_NODE_WRITER = 1


def field(number: int, value: str | bytes | int) -> bytes:
    """One protobuf field: text and messages with their length, whole numbers as varint."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def publish_request(volume_id: str, target: Path, context: Mapping[str, str]) -> bytes:
    """NodePublishVolumeRequest for a mounted inline volume."""
    capability = field(_MOUNT_CAPABILITY, b"")
    capability += field(_ACCESS_MODE, field(1, _SINGLE_NODE_WRITER))
    pairs = b"".join(field(8, field(1, key) + field(2, value)) for key, value in context.items())
    return field(1, volume_id) + field(4, str(target)) + field(5, capability) + pairs


def unpublish_request(volume_id: str, target: Path) -> bytes:
    """NodeUnpublishVolumeRequest."""
    return field(1, volume_id) + field(2, str(target))


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A pod's volume at `path`, and the seconds that its publish call took."""

    volume_id: str
    path: Path
    seconds: float


class Kubelet:
    """The kubelet of one node: `folder` is its /var/lib/kubelet, `socket` the plugin's."""

    def __init__(self, folder: Path, socket: Path) -> None:
        self._folder = folder
        self._address = f"unix://{socket}"

    def publish(self, pod: str, attributes: Mapping[str, str]) -> Volume:
        """Publish a pod's inline CSI volume with these volume attributes."""
        uid = hashlib.sha256(pod.encode()).hexdigest()[:32]
        volume_id = f"csi-{hashlib.sha256(uid.encode()).hexdigest()}"
        target = self._folder / "pods" / uid / "volumes/kubernetes.io~csi/image/mount"
        target.parent.mkdir(parents=True, exist_ok=True)
        context = {
            "csi.storage.k8s.io/ephemeral": "true",
            "csi.storage.k8s.io/pod.name": pod,
            "csi.storage.k8s.io/pod.namespace": "default",
            "csi.storage.k8s.io/pod.uid": uid,
            "csi.storage.k8s.io/serviceAccount.name": "default",
            **attributes,
        }
        begin = time.perf_counter()
        self._call("NodePublishVolume", publish_request(volume_id, target, context))
        return Volume(volume_id=volume_id, path=target, seconds=time.perf_counter() - begin)

    def unpublish(self, volume: Volume) -> None:
        self._call("NodeUnpublishVolume", unpublish_request(volume.volume_id, volume.path))

    def _call(self, method: str, request: bytes) -> None:
        """Channels live for one call: a process that forks workers must hold no gRPC threads."""
        with grpc.insecure_channel(self._address) as channel:
            call = channel.unary_unary(f"/csi.v1.Node/{method}", None, None)
            try:
                call(request, timeout=CALL_S)
            except grpc.RpcError as error:
                raise NotAsPromised(f"{method}: {error.code().name}, {error.details()}") from error
