"""Pods that read a volume all the while and note every read: what an outage is to them.

Each round reads 4 KiB at a random place past the page cache, once from the file as it is opened
then and once from one that is held open, so that as many of a lazy image's reads as can come from
afar.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.kubernetes import NODE_LABEL, Cluster

PATH = "/image/0/data"
"""Of `random_image`."""

BYTES, CHUNK_BYTES = 4096, 128 << 10
SCRIPT = f"""
import errno, os, random, sys, time, zlib
name, pause_s = sys.argv[1], float(sys.argv[2])
held = None

def read(fd, place):
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return zlib.crc32(os.pread(fd, {BYTES}, place))

def opened(place):
    fd = os.open("{PATH}", os.O_RDONLY)
    try:
        return read(fd, place)
    finally:
        os.close(fd)

def kept(place):
    global held
    if held is None:
        held = os.open("{PATH}", os.O_RDONLY)
    return read(held, place)

with open("/notes/" + name, "a", buffering=1) as notes:
    while not os.path.exists("/notes/end-" + name):
        for how in (opened, kept):
            place = random.randrange(int(sys.argv[3]) // {CHUNK_BYTES}) * {CHUNK_BYTES}
            begin = time.time()
            try:
                said = how(place)
            except OSError as error:
                said = errno.errorcode[error.errno]
            print(how.__name__, begin, time.time(), place, said, file=notes)
        time.sleep(pause_s)
os.unlink("/notes/end-" + name)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """error: the errno's name; empty if there was none. Times are seconds since 1970."""

    is_held: bool
    begin_s: float
    end_s: float
    place: int
    crc: int
    error: str


def reading(
    name: str, node: str, volume: dict[str, Any], *, image: str, data_bytes: int, pause_s: float,
    containers: dict[str, str],
) -> dict[str, Any]:  # fmt: skip
    """A pod that reads volume in each container, by name with the volume's mountPropagation.

    image       our own, which has Python
    data_bytes  of PATH
    """

    def container(own: str, propagation: str) -> dict[str, Any]:
        shown = {"name": "image", "mountPath": "/image", "mountPropagation": propagation}
        command = ["python3", "-c", SCRIPT, own, str(pause_s), str(data_bytes)]
        notes = {"name": "notes", "mountPath": "/notes"}
        return {"name": own, "image": image, "command": command, "volumeMounts": [shown, notes]}

    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": "clip-test"}},
        "spec": {
            "nodeSelector": {NODE_LABEL: node},
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "containers": [container(own, how) for own, how in containers.items()],
            "volumes": [{"name": "image", **volume}, {"name": "notes", "emptyDir": {}}],
        },
    }


@dataclass(frozen=True, slots=True)
class Reader:
    """One container of such a pod. Its notes are asked at the node, whoever is away."""

    cluster: Cluster
    node: str
    container: str
    notes: Path

    def reads(self) -> list[Read]:
        """So far, the earliest first."""
        return self._read("cat")

    def is_well(self, since_s: float) -> bool:
        """Whether the last file that it has opened since then was read."""
        last = [one for one in self._read("tail", "-n3") if not one.is_held][-1:]
        return bool(last) and last[0].begin_s > since_s and not last[0].error

    def has_failed(self, since_s: float) -> bool:
        """Whether a file that it has opened since then could not be read."""
        return any(one.error and not one.is_held and one.begin_s > since_s for one in self.reads())

    def start_again(self) -> None:
        """The container ends; the kubelet starts it again, within a moment or some seconds."""
        self.cluster.on(self.node, "touch", f"{self.notes}/end-{self.container}")

    def _read(self, *command: str) -> list[Read]:
        said = self.cluster.on(self.node, *command, f"{self.notes}/{self.container}")
        whole = said[: said.rfind("\n") + 1].splitlines()
        return [_read(*line.split()) for line in whole]


def readers(cluster: Cluster, pod: str, node: str) -> list[Reader]:
    """Of a pod of `reading` that runs on node, by the order of its containers."""
    found = next(one for one in cluster.objects("pods") if one["metadata"]["name"] == pod)
    volumes = f"/var/lib/kubelet/pods/{found['metadata']['uid']}/volumes"
    notes = Path(volumes, "kubernetes.io~empty-dir/notes")
    return [Reader(cluster, node, one["name"], notes) for one in found["spec"]["containers"]]


def _read(how: str, begin: str, end: str, place: str, said: str) -> Read:
    is_read = said.isdecimal()
    return Read(
        is_held=how == "kept",
        begin_s=float(begin),
        end_s=float(end),
        place=int(place),
        crc=int(said) if is_read else 0,
        error="" if is_read else said,
    )


def wrong(reads: Sequence[Read], data: bytes) -> list[Read]:
    """Those that were told other bytes than data has there."""
    return [
        one
        for one in reads
        if not one.error and one.crc != zlib.crc32(data[one.place : one.place + BYTES])
    ]
