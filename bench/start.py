"""How long until a real image's tree can be read: `clipfs mount` beside what unpacks it.

    cold      nothing of the image on the node and no content cache: mount pays for the index
    warm      the layers are indexed: what every later mount takes
    unpacked  `skopeo copy` from the same registry, then `umoci unpack`

Wall seconds of the commands, from their start to their end. The order alternates; page
caches are dropped for neither side.
"""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench.measure import Bar, Figure, ratio, save, table, version
from tests.support import images
from tests.support.machine import CLIPFS
from tests.support.node import Node, alive
from tests.support.real_image import real_image
from tests.support.registry import run_registry
from tests.support.wait import wait_for

ROUNDS = 3
PEER_S_PER_BYTE = 12.8 / 492e6
"""skopeo and umoci on a quiet machine of two cores."""

PEER_RANGE = 2
"""Where they take more than this many times longer or less, the machine is not fit to measure."""


@dataclass(slots=True)
class Bench:
    """One image in one registry, and what was measured so far."""

    registry: str
    image: str
    home: Path
    figures: dict[str, Figure] = field(
        default_factory=lambda: {name: Figure(name) for name in ("cold", "warm", "unpacked")}
    )

    @property
    def mount_command(self) -> list[str]:
        root, mountpoint = str(self.home / "root"), str(self.home / "mnt")
        options = ["--root", root, "--plain-http", self.registry]
        return [CLIPFS, "mount", self.image, mountpoint, *options]

    @property
    def unpack_commands(self) -> list[list[str]]:
        layout = f"{self.home}/oci:x"
        return [
            ["skopeo", "copy", "--quiet", "--src-tls-verify=false",
             f"docker://{self.image}", f"oci:{layout}"],
            ["umoci", "--log=error", "unpack", "--image", layout, str(self.home / "bundle")],
        ]  # fmt: skip # a word and its value stay together

    def mount_twice(self) -> None:
        node = Node(self.home / "root", mounted=[self.home / "mnt"])
        try:
            for name in ("cold", "warm"):
                with self._timed(name):
                    _run(self.mount_command)
                assert any((self.home / "mnt").iterdir())
                (mount,) = node.json("stats")["mounts"]
                node.unmount(self.home / "mnt")
                if mount["pid"] is not None:
                    wait_for(partial(_is_gone, mount["pid"]))
        finally:
            node.close()
        shutil.rmtree(self.home / "root")

    def unpack(self) -> None:
        with self._timed("unpacked"):
            for command in self.unpack_commands:
                _run(command)
        shutil.rmtree(self.home / "oci")
        shutil.rmtree(self.home / "bundle")

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.figures[name].seconds.append(time.perf_counter() - begin)


def _is_gone(pid: int) -> bool:
    return not alive(pid)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)


def run(rounds: int = ROUNDS) -> list[Bar]:
    """Measure, print, save; the bars."""
    real = real_image()
    payload_bytes = real.census()["payload_bytes"]
    with (
        tempfile.TemporaryDirectory(prefix="clip-bench-") as folder,
        run_registry(Path(folder) / "registry") as registry,
    ):
        image = images.push(real.layout("gzip"), registry.address, "real:1")
        it = Bench(registry.address, image, Path(folder))
        for number in range(rounds):
            sides = [it.mount_twice, it.unpack]
            for side in sides if number % 2 else reversed(sides):
                side()
    median_s = {name: figure.median_s for name, figure in it.figures.items()}
    peer_s = PEER_S_PER_BYTE * payload_bytes
    unpacked_s = median_s["unpacked"]
    bars = [
        ratio("unpacked took its usual time, or the run is void",
              unpacked_s / peer_s, least=1 / PEER_RANGE, most=PEER_RANGE),
        ratio("cold faster than unpacked", unpacked_s / median_s["cold"], least=1),
        ratio("warm faster than unpacked", unpacked_s / median_s["warm"], least=1),
    ]  # fmt: skip # a bar and its limits stay together
    print(f"{payload_bytes} bytes of payload, {rounds} rounds, order alternating")
    for command in (it.mount_command, *it.unpack_commands):
        print(f"{version(command[0], '--version')}: {' '.join(command)}")
    rows = [figure.row() for figure in it.figures.values()]
    print("\n" + table(["until the tree can be read", "median", "least", "most"], rows) + "\n")
    print(table(["bar", "found", ""], [bar.row() for bar in bars]) + "\n")
    save("start", it.figures.values(), bars)
    return bars


if __name__ == "__main__":
    run()
