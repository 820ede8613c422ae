"""A real containerd as a plain process, for its reference trees and as a benchmark's peer.

It has folders and a socket of its own and no CRI. Debian's is found in PATH; a newer one, that
`make cluster-programs` builds, is preferred.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.cluster_programs import BIN
from tests.support.wait import wait_for

_CONFIG = """\
version = 2
root = "{home}/root"
state = "{home}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images",
  "io.containerd.cri.v1.runtime", "io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]
[grpc]
  address = "{home}/socket"
"""


def program(name: str) -> str:
    """The path of containerd or ctr; FileNotFoundError says where it was looked for."""
    found = shutil.which(name, path=f"{BIN}:{os.environ['PATH']}")
    if found is None:
        raise FileNotFoundError(f"no {name} in {BIN} or PATH: apt-get install containerd")
    return found


@dataclass(frozen=True, slots=True)
class Containerd:
    """A running one; `ctr` is the beginning of every command that speaks to it."""

    socket: Path

    @property
    def ctr(self) -> list[str]:
        return [program("ctr"), "--address", str(self.socket)]

    def run(self, *words: str) -> str:
        """What a ctr command prints; CalledProcessError carries what it complains of."""
        done = subprocess.run([*self.ctr, *words], capture_output=True, text=True, check=True)
        return done.stdout

    @contextmanager
    def tree(self, image: str, mountpoint: Path) -> Iterator[Path]:
        """An image from a plain-http registry, pulled, unpacked and mounted read-only."""
        self.run("images", "pull", "--plain-http", image)
        mountpoint.mkdir(parents=True, exist_ok=True)
        self.run("images", "mount", image, str(mountpoint))
        try:
            yield mountpoint
        finally:
            self.run("images", "unmount", "--rm", str(mountpoint))


@contextmanager
def run_containerd(home: Path) -> Iterator[Containerd]:
    """One whose folders are under home, which must not be on an overlay; ended at the end."""
    home.mkdir(parents=True, exist_ok=True)
    config, log, socket = home / "config.toml", home / "log", home / "socket"
    config.write_text(_CONFIG.format(home=home))
    command = [program("containerd"), "--config", str(config)]
    with (
        log.open("w") as out,
        subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT) as server,
    ):
        try:
            it = Containerd(socket)
            wait_for(lambda: _answers(it, server, log), within_s=30)
            yield it
        finally:
            server.terminate()
            server.wait()
            _unmount_below(home)


def _unmount_below(home: Path) -> None:
    """containerd 2 keeps what it mounted for `ctr images mount` even after the unmount."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    for mountpoint in sorted((line.split()[4] for line in lines), reverse=True):
        if Path(mountpoint).is_relative_to(home):
            subprocess.run(["umount", mountpoint], check=True)


def _answers(containerd: Containerd, server: subprocess.Popen[bytes], log: Path) -> bool:
    if server.poll() is not None:
        raise RuntimeError(f"containerd ended: {log.read_text()[-2000:]}")
    if not containerd.socket.exists():
        return False
    return not subprocess.run([*containerd.ctr, "version"], capture_output=True).returncode
