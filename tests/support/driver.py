"""A running `clip-csi node`, spoken to as the kubelet does: gRPC on its socket.

The messages are this file's own: the few fields that the tests use, encoded by protobuf's
descriptors built here, so that nothing of the product is imported.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tests.support.wait import wait_for

CLIP_CSI = str(Path(sys.executable).with_name("clip-csi"))
_STRING, _BOOL, _INT64, _ENUM, _MESSAGE = 9, 8, 3, 14, 11
_MESSAGES: dict[str, list[tuple[str, int, int, str]]] = {
    "Empty": [],
    "Pair": [("key", 1, _STRING, ""), ("value", 2, _STRING, "")],
    "Mode": [("mode", 1, _INT64, "")],
    "Capability": [("block", 1, _MESSAGE, "Empty"), ("mount", 2, _MESSAGE, "Empty"),
                   ("access_mode", 3, _MESSAGE, "Mode")],
    "Publish": [("volume_id", 1, _STRING, ""), ("target_path", 4, _STRING, ""),
                ("volume_capability", 5, _MESSAGE, "Capability"), ("readonly", 6, _BOOL, ""),
                ("secrets", 7, _MESSAGE, "*Pair"), ("volume_context", 8, _MESSAGE, "*Pair")],
    "Unpublish": [("volume_id", 1, _STRING, ""), ("target_path", 2, _STRING, "")],
    "Stats": [("volume_id", 1, _STRING, ""), ("volume_path", 2, _STRING, "")],
    "Usage": [("available", 1, _INT64, ""), ("total", 2, _INT64, ""), ("used", 3, _INT64, ""),
              ("unit", 4, _INT64, "")],
    "Usages": [("usage", 1, _MESSAGE, "*Usage")],
    "Info": [("name", 1, _STRING, ""), ("vendor_version", 2, _STRING, "")],
    "NodeInfo": [("node_id", 1, _STRING, "")],
    "PluginInfo": [("type", 1, _STRING, ""), ("name", 2, _STRING, ""),
                   ("endpoint", 3, _STRING, ""), ("supported_versions", 4, _STRING, "*")],
    "Status": [("plugin_registered", 1, _BOOL, ""), ("error", 2, _STRING, "")],
}  # fmt: skip


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="kubelet.proto", package="t", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, of in fields:
            repeated = of.startswith("*")
            message.field.add(
                name=field,
                number=number,
                type=kind,
                label=3 if repeated else 1,
                type_name=f".t.{of.lstrip('*')}" if kind == _MESSAGE else None,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file) if hasattr(pool, "Add") else pool.AddSerializedFile(file.SerializeToString())
    found = message_factory.GetMessageClassesForFiles(["kubelet.proto"], pool)
    return {name.partition(".")[2]: kind for name, kind in found.items()}


M = _classes()


@dataclass(slots=True)
class Driver:
    """One node plugin process."""

    process: subprocess.Popen[bytes]
    channel: grpc.Channel
    kubelet_root: Path
    log: Path

    def call(self, method: str, request: Any, answer: str = "Empty") -> Any:
        return self.channel.unary_unary(
            f"/csi.v1.{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=M[answer].FromString,
        )(request, timeout=120)

    def target(self, name: str) -> Path:
        """Where the kubelet wants the volume of pod name."""
        return self.kubelet_root / "pods" / name / "volumes/kubernetes.io~csi/image/mount"

    def publish(
        self, name: str, image: str, secrets: dict[str, str] | None = None, **attributes: str
    ) -> Path:
        """Publish an inline volume for a pod, as the kubelet would; the target."""
        target = self.target(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        context = {
            "image": image,
            "csi.storage.k8s.io/ephemeral": "true",
            "csi.storage.k8s.io/pod.name": name,
            "csi.storage.k8s.io/pod.namespace": "default",
            **attributes,
        }
        mode = M["Mode"](mode=1)
        request = M["Publish"](
            volume_id=f"csi-{name}",
            target_path=str(target),
            volume_capability=M["Capability"](mount=M["Empty"](), access_mode=mode),
            volume_context=[M["Pair"](key=k, value=v) for k, v in context.items()],
            secrets=[M["Pair"](key=k, value=v) for k, v in (secrets or {}).items()],
        )
        self.call("Node/NodePublishVolume", request)
        return target

    def unpublish(self, name: str) -> None:
        request = M["Unpublish"](volume_id=f"csi-{name}", target_path=str(self.target(name)))
        self.call("Node/NodeUnpublishVolume", request)

    def lines(self) -> list[dict[str, Any]]:
        """The log so far, servers of images included."""
        text = self.log.read_text()
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


@contextmanager
def run_driver(home: Path, options: Sequence[str], *, root: Path) -> Iterator[Driver]:
    """A node plugin with its own kubelet folder; it ends by SIGTERM, volumes stay."""
    home.mkdir(parents=True, exist_ok=True)
    socket, log = home / "csi.sock", home / "log"
    command = [
        CLIP_CSI, "node", "--endpoint", f"unix://{socket}", "--node-id", "node-a",
        "--kubelet-root", str(home / "kubelet"), "--root", str(root),
        "--registration-dir", str(home / "plugins_registry"),
        "--log-format", "json", "--log-level", "debug", *options,
    ]  # fmt: skip
    with log.open("ab") as err:
        process = subprocess.Popen(command, stderr=err, stdin=subprocess.DEVNULL)
    try:
        wait_for(lambda: socket.exists() or process.poll() is not None)
        with grpc.insecure_channel(f"unix://{socket}") as channel:
            grpc.channel_ready_future(channel).result(10)
            yield Driver(process, channel, home / "kubelet", log)
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def cleaned_up(*folders: Path) -> Iterator[None]:
    """Lazily unmount whatever the block left mounted below folders."""
    try:
        yield
    finally:
        for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            mountpoint = line.split()[4].encode().decode("unicode_escape")
            if any(mountpoint.startswith(f"{folder}/") for folder in folders):
                subprocess.run(["umount", "--lazy", mountpoint], check=False)
