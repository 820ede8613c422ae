"""How long until a file of a real image can be read: `clipfs mount` beside what unpacks it.

    cold      nothing of the image on the node and no content cache: mount pays for the index
    warm      the layers are indexed: what every later mount takes
    pulled    `ctr images pull` and `ctr images mount`, by a containerd that runs already
    unpacked  `skopeo copy` from the same registry, then `umoci unpack`

Wall seconds from the start of the first command until one small file has been read. The order
alternates. Each side begins in the same state, but for warm, which follows its cold: what others
wrote is on the disk and no longer in memory, whose first use costs where the machine is a virtual
one; programs and the registry's blobs are in memory. Each round has a folder of its own and nothing
is removed before the end: ext4 does not reuse an inode that was freed in the last minute, and looks
for another one for long.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench.measure import Bar, Figure, human, ratio, save, table, version
from bench.wheels import FIRST_FILE, wheels
from tests.support import images
from tests.support.containerd import Containerd, program, run_containerd
from tests.support.machine import CLIPFS
from tests.support.node import Node, alive
from tests.support.registry import run_registry
from tests.support.wait import wait_for

ROUNDS = 5
SIDES = ("cold", "warm", "pulled", "unpacked")
USUAL_S = {"pulled": (3.5, 6.5), "unpacked": (5.5, 9.5)}
"""What peers take for 492 MB on a quiet machine of two cores: one that takes less or more voids
the run, as one that begins within a minute after another one's files were removed."""

USUAL_BYTES = 492e6

MOST_OF_PEER = 0.4
"""Of the faster peer's time, for a cold mount."""


@dataclass(slots=True)
class Bench:
    """One image in one registry, the folder of a round, and what was measured so far."""

    registry: str
    image: str
    home: Path
    figures: dict[str, Figure] = field(default_factory=lambda: {n: Figure(n) for n in SIDES})

    @property
    def mountpoint(self) -> Path:
        return self.home / "mnt"

    @property
    def mount_command(self) -> list[str]:
        options = ["--root", str(self.home / "root"), "--plain-http", self.registry]
        return [CLIPFS, "mount", self.image, str(self.mountpoint), *options]

    @property
    def unpack_commands(self) -> list[list[str]]:
        layout = f"{self.home}/oci:x"
        return [
            ["skopeo", "copy", "--quiet", "--src-tls-verify=false",
             f"docker://{self.image}", f"oci:{layout}"],
            ["umoci", "--log=error", "unpack", "--image", layout, str(self.home / "bundle")],
        ]  # fmt: skip # a word and its value stay together

    def pull_commands(self, containerd: Containerd) -> list[list[str]]:
        return [
            [*containerd.ctr, "images", "pull", "--plain-http", self.image],
            [*containerd.ctr, "images", "mount", self.image, str(self.mountpoint)],
        ]

    def mount_twice(self) -> None:
        node = Node(self.home / "root", mounted=[self.mountpoint])
        try:
            for name in ("cold", "warm"):
                self._time(name, [self.mount_command], self.mountpoint)
                (mount,) = node.json("stats")["mounts"]
                node.unmount(self.mountpoint)
                if mount["pid"] is not None:
                    wait_for(partial(_is_gone, mount["pid"]))
        finally:
            node.close()

    def pull(self) -> None:
        self.mountpoint.mkdir(exist_ok=True)
        with run_containerd(self.home / "containerd") as containerd:
            self._time("pulled", self.pull_commands(containerd), self.mountpoint)
            containerd.run("images", "unmount", str(self.mountpoint))

    def unpack(self) -> None:
        self._time("unpacked", self.unpack_commands, self.home / "bundle" / "rootfs")

    def _time(self, name: str, commands: list[list[str]], tree: Path) -> None:
        begin = time.perf_counter()
        for command in commands:
            subprocess.run(command, check=True, capture_output=True)
        assert (tree / FIRST_FILE).read_bytes()
        self.figures[name].seconds.append(time.perf_counter() - begin)


def _forget(folder: Path) -> None:
    """Take the files below folder out of memory, after all is on the disk."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _is_gone(pid: int) -> bool:
    return not alive(pid)


@contextmanager
def prepared(home: Path) -> Iterator[Bench]:
    """A registry that has the image."""
    with ExitStack() as stack:
        registry = stack.enter_context(run_registry(home / "registry"))
        image = images.push(wheels().layout, registry.address, "wheels:1")
        yield Bench(registry.address, image, home)


def run(rounds: int = ROUNDS) -> list[Bar]:
    """Measure, print, save; the bars."""
    with tempfile.TemporaryDirectory(prefix="clip-bench-") as folder, prepared(Path(folder)) as it:
        for number in range(rounds):
            it.home = Path(folder) / f"round-{number}"
            it.home.mkdir()
            sides = [it.mount_twice, it.pull, it.unpack]
            for side in sides if number % 2 else reversed(sides):
                side()
                _forget(it.home)
    payload_bytes = wheels().payload_bytes
    print(f"{payload_bytes} bytes of payload, {rounds} rounds, order alternating")
    for command in (it.mount_command, *it.unpack_commands):
        print(f"{version(command[0], '--version')}: {' '.join(command)}")
    socket = Containerd(it.home / "containerd" / "socket")
    for command in it.pull_commands(socket):
        print(f"{version(program('containerd'), '--version')}: {' '.join(command)}")
    bars = _bars(it, payload_bytes)
    rows = [figure.row() for figure in it.figures.values()]
    print("\n" + table(["until a file is read", "median", "least", "most"], rows) + "\n")
    print(table(["bar", "found", ""], [bar.row() for bar in bars]) + "\n")
    save("start", it.figures.values(), bars)
    return bars


def _bars(it: Bench, payload_bytes: int) -> list[Bar]:
    median_s = {name: figure.median_s for name, figure in it.figures.items()}
    scaled_s = {name: median_s[name] * USUAL_BYTES / payload_bytes for name in USUAL_S}
    bars = [
        Bar(f"{name} takes what it does, for 492 MB", scaled_s[name], human(scaled_s[name]),
            least=least, most=most)
        for name, (least, most) in USUAL_S.items()
    ]  # fmt: skip # a bar and its limits stay together
    faster_s = min(median_s[name] for name in USUAL_S)
    return [
        *bars,
        ratio("cold against the faster peer", median_s["cold"] / faster_s, most=MOST_OF_PEER),
        ratio("warm against the faster peer", median_s["warm"] / faster_s, most=MOST_OF_PEER),
    ]


if __name__ == "__main__":
    run()
