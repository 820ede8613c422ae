"""A running `clip-csi node`, spoken to as the kubelet does: gRPC on its socket.

The messages are this file's own: the few fields that the tests use, encoded by protobuf's
descriptors built here, so that nothing of the product is imported.
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tests.support.machine import CLIP_CSI
from tests.support.processes import children, descendants, short_name
from tests.support.wait import wait_for
from tests.support.write_points import WritePoints

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

    def call(
        self, method: str, request: Any, answer: str = "Empty", *, within_s: float = 120
    ) -> Any:
        return self.channel.unary_unary(
            f"/csi.v1.{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=M[answer].FromString,
        )(request, timeout=within_s)

    def target(self, name: str) -> Path:
        """Where the kubelet wants the volume of pod name."""
        return self.kubelet_root / "pods" / name / "volumes/kubernetes.io~csi/image/mount"

    def publish(
        self,
        name: str,
        image: str,
        secrets: dict[str, str] | None = None,
        *,
        attributes: Mapping[str, str] = MappingProxyType({}),
        within_s: float = 120,
    ) -> Path:
        """Publish an inline volume for a pod, as the kubelet would; the target."""
        target = self.target(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        request = self.publish_request(name, image, secrets, attributes=attributes)
        self.call("Node/NodePublishVolume", request, within_s=within_s)
        return target

    def begin_publish(self, name: str, image: str) -> Any:
        """The same as `publish`, under way: a future of gRPC's, which can be cancelled."""
        self.target(name).parent.mkdir(parents=True, exist_ok=True)
        return self.channel.unary_unary(
            "/csi.v1.Node/NodePublishVolume",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=M["Empty"].FromString,
        ).future(self.publish_request(name, image), timeout=120)

    def publish_request(
        self,
        name: str,
        image: str,
        secrets: dict[str, str] | None = None,
        *,
        attributes: Mapping[str, str] = MappingProxyType({}),
    ) -> Any:
        context = {
            "image": image,
            "csi.storage.k8s.io/ephemeral": "true",
            "csi.storage.k8s.io/pod.name": name,
            "csi.storage.k8s.io/pod.namespace": "default",
            **attributes,
        }
        mode = M["Mode"](mode=1)
        return M["Publish"](
            volume_id=f"csi-{name}",
            target_path=str(self.target(name)),
            volume_capability=M["Capability"](mount=M["Empty"](), access_mode=mode),
            volume_context=[M["Pair"](key=k, value=v) for k, v in context.items()],
            secrets=[M["Pair"](key=k, value=v) for k, v in (secrets or {}).items()],
        )

    def unpublish(self, name: str) -> None:
        request = M["Unpublish"](volume_id=f"csi-{name}", target_path=str(self.target(name)))
        self.call("Node/NodeUnpublishVolume", request)

    def usage(self, name: str) -> list[int]:
        """Bytes and names of a pod's volume, as the kubelet measures it."""
        request = M["Stats"](volume_id=f"csi-{name}", volume_path=str(self.target(name)))
        answer = self.call("Node/NodeGetVolumeStats", request, "Usages")
        return [one.total for one in answer.usage]

    def lines(self) -> list[dict[str, Any]]:
        """The log so far, servers of images included."""
        text = self.log.read_text()
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def channel_to(socket: Path) -> grpc.Channel:
    """A connection of its own: by default gRPC shares them, and their pauses after a failure."""
    return grpc.insecure_channel(f"unix://{socket}", [("grpc.use_local_subchannel_pool", 1)])


@contextmanager
def run_driver(
    home: Path,
    options: Sequence[str],
    *,
    root: Path,
    points: WritePoints | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Driver]:
    """A node plugin with its own kubelet folder; it ends by SIGTERM, volumes stay.

    points       sees what it and its descendants write
    environment  None: the test's own
    """
    home.mkdir(parents=True, exist_ok=True)
    socket, log = home / "csi.sock", home / "log"
    command = [
        *(points.prefix() if points else []),
        CLIP_CSI, "node", "--endpoint", f"unix://{socket}", "--node-id", "node-a",
        "--kubelet-root", str(home / "kubelet"), "--root", str(root),
        "--registration-dir", str(home / "reg"),
        "--log-format", "json", "--log-level", "debug", *options,
    ]  # fmt: skip
    with log.open("ab") as err:
        process = subprocess.Popen(
            command,
            stderr=err,
            stdin=subprocess.DEVNULL,
            pass_fds=(points.starter.fileno(),) if points else (),
            env=environment,
        )
    try:
        wait_for(lambda: socket.exists() or process.poll() is not None, 30)
        assert process.poll() is None, log.read_text()
        with channel_to(socket) as channel:
            grpc.channel_ready_future(channel).result(30)
            yield Driver(process, channel, home / "kubelet", log)
    finally:
        process.terminate()
        process.wait(20)


def failure(call: Callable[[], object]) -> tuple[str, str]:
    """The gRPC code and the message with which call fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code().name, caught.value.details() or ""


def mounts_below(folder: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4] for line in lines if line.split()[4].startswith(f"{folder}/")]


def fstype(target: Path) -> str:
    """Of what is mounted there; "" if nothing is."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if line.split()[4] == str(target):
            return line.partition(" - ")[2].split()[0]
    return ""


def servers(root: Path) -> list[int]:
    """The processes that serve images on root, by their records."""
    records = (root / "run/mounts").glob("*.json")
    return [json.loads(path.read_text())["pid"] for path in records]


def commands(driver: Driver) -> list[int]:
    """The `clipfs` commands that it runs now, and nothing that those have started."""
    return [
        command
        for child in children(driver.process.pid)
        if short_name(child) == "launcher"
        for command in children(child)
        if short_name(command) == "clipfs"
    ]


def at_work(driver: Driver) -> list[int]:
    """What the driver has started, and that, but for what launches commands and stays."""
    return [pid for pid in descendants(driver.process.pid) if short_name(pid) != "launcher"]


def nothing_left(driver: Driver, root: Path, *names: str) -> None:
    """Wait until no volume of the pods, no mount, process or record of theirs is left."""
    wait_for(lambda: not at_work(driver) and not servers(root))
    left = [str(driver.target(name)) for name in names if os.path.lexists(driver.target(name))]
    left += mounts_below(driver.kubelet_root) + mounts_below(root)
    left += [str(path) for path in (root / "run").rglob("*.json")]
    left += [str(path) for path in (root / "run").glob("images/*")]
    assert left == []


def umount(target: Path) -> None:
    """Lazily, as somebody at the node's shell would."""
    subprocess.run(["umount", "--lazy", str(target)], check=True)


def frozen(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


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
