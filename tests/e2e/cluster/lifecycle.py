"""The cluster up and down."""

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.e2e.cluster import control_plane, images, network, pki
from tests.e2e.cluster.node import start_node
from tests.e2e.cluster.node_files import SHOWN_AT
from tests.e2e.cluster.place import ADMIN, CONTROL, REGISTRY, STATE, names
from tests.e2e.cluster.processes import NotUp, end_all, inside, run, succeeds, until

GONE = f"{STATE.name}-gone-"
MADE = STATE / "made"
"""Lists the machine's folders that were made for nodes to show their own at."""


def up(count: int) -> None:
    """Start a cluster of count nodes; return when all are Ready."""
    begin, nodes = time.monotonic(), names(count)
    if STATE.exists():
        raise NotUp(f"a cluster is up already, or was left behind, in {STATE}: end it by `down`")
    for folder in ("log", "pid", "registry"):
        (STATE / folder).mkdir(parents=True)
    (STATE / "nodes").write_text(" ".join(nodes))
    _make_folders()
    network.make(nodes)
    pki.make(nodes)
    control_plane.start_all()
    _say(begin, "the control plane is ready")
    with ThreadPoolExecutor() as beside:
        pushed = beside.submit(images.push_first)
        for started in [beside.submit(start_node, node) for node in nodes]:
            started.result()
        pushed.result()
    kubectl = [*inside(CONTROL), "kubectl"]
    until("nodes", lambda: succeeds(*kubectl, "get", "node", *nodes))
    run(*kubectl, "wait", "--for=condition=Ready", "node", "--all", "--timeout=60s")
    account = [*kubectl, "-n", "default", "get", "serviceaccount", "default"]
    until("the first service account", lambda: succeeds(*account), "controllers")
    _say(begin, f"{count} nodes are ready; registry {REGISTRY}, kubeconfig {ADMIN}")


def down() -> None:
    """End the cluster and whatever an earlier one left. Nothing of it stays; that its files go is
    not waited for, since unpacked images are many."""
    if not STATE.exists():
        return
    if control_plane.is_ready():  # pods first: their volumes are unmounted as they would be
        succeeds("timeout", "20", *inside(CONTROL), "kubectl", "delete", "pod", "--all", "-A",
                 "--grace-period=0", "--force")  # fmt: skip # as typed by hand
    end_all()
    network.remove()
    _unmount()
    for folder in reversed(MADE.read_text().splitlines() if MADE.exists() else []):
        if not any(Path(folder).iterdir()):
            Path(folder).rmdir()
    _remove_files()


def _remove_files() -> None:
    STATE.rename(tempfile.mkdtemp(dir=STATE.parent, prefix=GONE))
    gone = [str(path) for path in STATE.parent.glob(f"{GONE}*")]
    rm = ["rm", "-rf", "--one-file-system", "--", *gone]
    quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)]
    os.posix_spawnp(rm[0], rm, os.environ, file_actions=quiet, setsid=True)


def _make_folders() -> None:
    """Where nodes show their own folders: in this machine's tree, which they all begin with."""
    wanted = [path for there in SHOWN_AT.values() for path in (*reversed(Path(there).parents),
                                                             Path(there))]  # fmt: skip
    made = [str(path) for path in dict.fromkeys(wanted) if not path.exists()]
    MADE.write_text("\n".join(made))
    for there in SHOWN_AT.values():
        os.makedirs(there, exist_ok=True)


def _unmount() -> None:
    """What programs mounted below STATE in this machine's own mount namespace."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    for mountpoint in sorted((line.split()[4] for line in lines), reverse=True):
        if Path(mountpoint).is_relative_to(STATE):
            run("umount", "-l", mountpoint)


def _say(begin: float, what: str) -> None:
    print(f"{time.monotonic() - begin:6.1f} s  {what}", flush=True)
