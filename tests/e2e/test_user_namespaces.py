"""A pod with users of its own (`hostUsers: false`) in a real cluster: its volumes are idmapped.

Without an idmap every owner would be nobody's, 65534, to the pod; a front that cannot be idmapped
would keep the pod from starting. The reference is the tree that umoci unpacks.
"""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Pods
from tests.e2e.kubernetes import Cluster
from tests.e2e.objects import inline, pod
from tests.support import images

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

FRONTS = {"erofs": "erofs", "fuse": "fuse.clip"}
"""The attribute, and the file system that /proc/mounts has for it."""

OWNERS = {"root": 0, "user": 1000, "nobody": 65534, "last": 65535}
"""Of the image's files; 65535 is the last that a pod's range has."""

BEYOND = 70_000
OVERFLOW = 65534


@dataclass(frozen=True, slots=True)
class Owned:
    """An image of files and folders of several owners, and its tree."""

    image: str
    tree: Path


@pytest.fixture
def owned(cluster: Cluster, tmp_path: Path) -> Owned:
    folder = tmp_path / "tree"
    for name, owner in OWNERS.items():
        home = folder / name
        home.mkdir(parents=True)
        put(home / "everyones", owner, 0o644)
        put(home / "own", owner, 0o600)
        os.chown(home, owner, owner)
    put(folder / "beyond", BEYOND, 0o644)
    images.write_layout(tmp_path / "oci", [images.layer(folder, tmp_path / "0.tar")])
    image = cluster.push(tmp_path / "oci", "owned:1")
    return Owned(image, images.unpack(tmp_path / "oci", tmp_path / "bundle"))


def put(path: Path, owner: int, mode: int) -> None:
    path.write_bytes(os.urandom(200_000))
    os.chown(path, owner, owner)
    path.chmod(mode)


def with_users_of_its_own(name: str, image: str) -> dict[str, Any]:
    """A pod with the image by each front at /FRONT; container `other` is user 1000."""
    made = pod(name, "n1", inline(image), containers=("main", "other"))
    spec = made["spec"]
    spec["hostUsers"] = False
    spec["volumes"] = [{"name": front, **inline(image, front=front)} for front in FRONTS]
    for container in spec["containers"]:
        container["volumeMounts"] = [{"name": one, "mountPath": f"/{one}"} for one in FRONTS]
    spec["containers"][1]["securityContext"] = {"runAsUser": 1000, "runAsGroup": 1000}
    return made


def described(tree: Path) -> list[str]:
    """Name, type and mode in hex, owner and group, of all in it but its root."""
    found = [(path.relative_to(tree), path.lstat()) for path in tree.rglob("*")]
    return sorted(f"./{name} {one.st_mode:x} {one.st_uid} {one.st_gid}" for name, one in found)


def hashed(tree: Path) -> list[str]:
    files = [path for path in tree.rglob("*") if stat.S_ISREG(path.lstat().st_mode)]
    return sorted(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  ./{path.relative_to(tree)}"
        for path in files
    )


def test_a_pod_with_users_of_its_own_sees_the_images_owners_by_both_fronts(
    owned: Owned, cluster: Cluster, pods: Pods
) -> None:
    pods.run(with_users_of_its_own("mapped", owned.image))
    inside, outside, _ = cluster.exec("mapped", "cat", "/proc/self/uid_map").split()
    assert int(inside) == 0
    assert int(outside) >= 65536, "the pod's users are the node's"

    mounts = [line.split() for line in cluster.exec("mapped", "cat", "/proc/mounts").splitlines()]
    kinds = {place: kind for _, place, kind, *_ in mounts}
    wanted = described(owned.tree)
    (beyond,) = (line for line in wanted if line.startswith("./beyond "))
    at = wanted.index(beyond)
    wanted[at] = beyond.replace(f"{BEYOND} {BEYOND}", f"{OVERFLOW} {OVERFLOW}")
    for front, kind in FRONTS.items():
        assert kinds[f"/{front}"] == kind

        def said(script: str, *, user: str = "main", front: str = front) -> list[str]:
            words = ("sh", "-c", f"cd /{front} && {script}")
            return sorted(cluster.exec("mapped", *words, container=user).splitlines())

        found = said("find . -mindepth 1 -exec stat -c '%n %f %u %g' {} +")
        assert found == wanted
        assert said("find . -type f -exec sha256sum {} +") == hashed(owned.tree)
        (own,) = said("sha256sum user/own", user="other")
        assert own.split()[0] == hashlib.sha256((owned.tree / "user/own").read_bytes()).hexdigest()
        with pytest.raises(AssertionError, match="Permission denied"):
            said("cat last/own", user="other")
        print(f"{front}: {len(found)} names, owners and modes, and all bytes are as umoci has them")
