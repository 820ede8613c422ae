"""What setuid programs and devices of an image are in a pod: what the runtime makes of them.

A volume's mount is `nosuid` and `nodev` on the node. The runtime binds it into the container with
flags of its own, without these two: what holds programs there is what holds those of the
container's own image, `allowPrivilegeEscalation` and the list of devices.
"""

import os
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Pods
from tests.e2e.kubernetes import Cluster
from tests.e2e.objects import inline, pod
from tests.support import images

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

USER = 232
CONTEXTS = {"held": {"allowPrivilegeEscalation": False}, "free": {"allowPrivilegeEscalation": True}}


@pytest.fixture
def risky(cluster: Cluster, tmp_path: Path) -> str:
    """An image of a setuid program that ends with its effective user as its code, and a disk."""
    folder = tmp_path / "tree"
    folder.mkdir()
    (folder / "euid").write_bytes(program(bytes.fromhex("b86b0000000f05 89c7 b83c0000000f05")))
    (folder / "euid").chmod(0o4755)
    os.mknod(folder / "disk", 0o060666, os.makedev(8, 0))
    images.write_layout(tmp_path / "oci", [images.layer(folder, tmp_path / "0.tar")])
    return cluster.push(tmp_path / "oci", "risky:1")


def program(code: bytes) -> bytes:
    """An ELF file for x86-64 whose one segment is itself, read and run."""
    headers, base = 64 + 56, 0x400000
    size = headers + len(code)
    start = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, base + headers, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000)
    return b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + start + segment + code


def user_in(name: str, image: str, front: str) -> dict[str, Any]:
    """A pod whose containers are that user's, and differ in what programs may gain."""
    made = pod(name, "n1", inline(image, front=front), containers=tuple(CONTEXTS))
    for container in made["spec"]["containers"]:
        container["securityContext"] = {"runAsUser": USER, **CONTEXTS[container["name"]]}
    return made


@pytest.mark.parametrize("front", ["erofs", "fuse"])
def test_a_setuid_program_gains_nothing_where_the_pod_forbids_it_and_no_disk_opens(
    front: str, risky: str, cluster: Cluster, pods: Pods
) -> None:
    pods.run(user_in("risky", risky, front))

    def said(container: str, script: str) -> str:
        return cluster.exec("risky", "sh", "-c", f"{script} 2>&1; echo $?", container=container)

    assert said("held", "/image/euid").strip() == str(USER)
    assert said("free", "/image/euid").strip() == "0", "as in the container's own image"
    for container in CONTEXTS:
        assert "Operation not permitted" in said(container, "head -c 1 /image/disk")


@pytest.mark.parametrize("front", ["erofs", "fuse"])
def test_on_the_node_the_volume_is_nosuid_and_nodev(
    front: str, risky: str, cluster: Cluster, pods: Pods
) -> None:
    pods.run(user_in("risky", risky, front))
    mounts = cluster.on("n1", "grep", "/volumes/kubernetes.io~csi/image/mount ", "/proc/mounts")
    for mount in mounts.splitlines():
        assert {"ro", "nosuid", "nodev"} <= set(mount.split()[3].split(","))
