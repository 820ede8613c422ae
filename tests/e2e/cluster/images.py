"""Images in the cluster's registry: pause and busybox, which each cluster needs, and others."""

import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.e2e.cluster.place import CONTROL, REGISTRY
from tests.e2e.cluster.processes import inside, run

BUSYBOX = "/bin/busybox"
SLEEP = "trap exit TERM; sleep 2147483647 & wait"
"""A sleep that is PID 1 does not end by SIGTERM: every pod would end a second later."""

FIRST = ("pause:1", "busybox:1")


def push(layout: str, name: str) -> None:
    """Copy an image of an OCI layout, FOLDER:TAG, to the registry as name."""
    run(*inside(CONTROL), *push_command(layout, f"{REGISTRY}/{name}"))


def push_command(layout: str, reference: str) -> list[str]:
    return ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}",
            f"docker://{reference}"]  # fmt: skip # as typed by hand


def push_folder(folder: str, name: str) -> None:
    """A folder becomes an image of one layer."""
    with tempfile.TemporaryDirectory() as home:
        push(f"{_layout(Path(home), folder)}:x", name)


def push_first() -> None:
    with tempfile.TemporaryDirectory() as home:
        layout = busybox(Path(home))
        for name in FIRST:
            push(layout, name)


def busybox(home: Path) -> str:
    """A layout's FOLDER:TAG: busybox under every name that it answers to; it sleeps."""
    (home / "tree/bin").mkdir(parents=True)
    for name in ("tmp", "etc"):
        (home / "tree" / name).mkdir()
    shutil.copy(BUSYBOX, home / "tree/bin/busybox")
    listed = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True)
    for name in set(listed.stdout.split()) - {"busybox"}:
        (home / "tree/bin" / name).symlink_to("busybox")
    layout = _layout(home, f"{home}/tree")
    words = [f"--config.entrypoint={word}" for word in ("/bin/sh", "-c", SLEEP)]
    run("umoci", "config", "--image", f"{layout}:x", *words)
    return f"{layout}:x"


def _layout(home: Path, folder: str) -> Path:
    layout = home / "oci"
    run("umoci", "init", "--layout", str(layout))
    run("umoci", "new", "--image", f"{layout}:x")
    run("umoci", "insert", "--image", f"{layout}:x", folder, "/")
    return layout
