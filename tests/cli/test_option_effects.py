"""Options that reach far: the kernel is told the context of a mount, mirrors are asked first."""

import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import Small
from tests.support.machine import CLIPFS, needs_fuse
from tests.support.node import Node

IN_SELINUX = 'mount --bind "$0" /proc/filesystems && exec "$@"'
"""A command that takes this kernel for one with SELinux; the kernel itself refuses contexts."""


@needs_fuse
@pytest.mark.parametrize(
    ("front", "refusal"), [("erofs", "Unknown parameter 'context'"), ("fuse", "Invalid argument")]
)
def test_the_kernel_is_told_the_context_of_a_mount(
    front: str, refusal: str, node: Node, small: Small, tmp_path: Path
) -> None:
    (tmp_path / "filesystems").write_text("nodev\tproc\nnodev\tselinuxfs\n\terofs\n")
    command = [
        *("unshare", "--mount", "sh", "-c", IN_SELINUX, str(tmp_path / "filesystems")),
        *(CLIPFS, "mount", small.image, str(tmp_path / "mnt"), "--root", str(node.root)),
        *(*node.options, "--front", front),
    ]
    context = ["--mount-context", "system_u:object_r:container_file_t:s0:c1,c2"]
    done = subprocess.run([*command, *context], capture_output=True, text=True, check=False)
    assert (done.returncode, refusal in done.stderr) == (1, True), done.stderr


def test_mirrors_are_asked_before_the_registry(node: Node, small: Small, tmp_path: Path) -> None:
    nowhere = "127.0.0.1:1"
    image = small.image.replace(small.registry.address, nowhere)
    hosts = tmp_path / "mirrors" / nowhere / "hosts.toml"
    hosts.parent.mkdir(parents=True)
    hosts.write_text(f'[host."http://{small.registry.address}"]\n')
    options = ["--root", str(node.root), "--plain-http", nowhere]
    assert node.run("ls", image, *options, "--json", check=False).returncode == 1
    done = node.run("ls", image, *options, "--mirrors", str(tmp_path / "mirrors"))
    assert "dangling -> nowhere" in done.stdout
