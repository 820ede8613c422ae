"""What the cluster needs of this machine, and a line for each thing that is missing."""

import os
import shutil
import subprocess
from collections.abc import Iterator

from tests.e2e.cluster.place import environment
from tests.e2e.cluster.programs import NEEDED
from tests.support.cluster_programs import BIN, missing

TOOLS = {
    "docker-registry": "docker-registry",
    "ip": "iproute2",
    "iptables": "iptables",
    "nft": "nftables",
    "openssl": "openssl",
    "skopeo": "skopeo",
    "sysctl": "procps",
    "tini": "tini",
    "umoci": "umoci",
    "busybox": "busybox-static",
}
"""Program -> the Debian package that has it."""


def unmet() -> list[str]:
    return list(_unmet())


def _unmet() -> Iterator[str]:
    if absent := missing(*NEEDED):
        yield f"{BIN} has no {', '.join(absent)}: build them by `make cluster-programs`"
    path = environment()["PATH"]
    packages = [TOOLS[tool] for tool in TOOLS if not shutil.which(tool, path=path)]
    if packages:
        yield f"not installed: {' '.join(packages)}"
    if os.geteuid():
        yield "it needs root"
    if not os.path.exists("/dev/fuse"):
        yield "there is no /dev/fuse"
    if not packages and not os.geteuid() and (complaint := _network()):
        yield f"no network for pods: {complaint}"


def _network() -> str:
    """Why pods would have none: the kernel's tables, tried in a namespace that goes at once."""
    script = (
        "ip link add name br0 type bridge && ip link add name v0 type veth peer name v1 "
        "&& nft add table inet t && iptables -t nat -L >/dev/null"
    )
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", script],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    return " ".join(done.stderr.split()) if done.returncode else ""
