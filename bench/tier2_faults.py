"""What a tier 2 that fails costs a mount: seconds of `clipfs mount`, each beside the same without.

An image of many small layers, each mount on an empty root, so every layer is looked up in tier 2
and then indexed from the registry on loopback. Right before each mount with a fault there is one
without tier 2: both have the same neighbours, and a bar is about the median of their differences.

Run it alone: `python -m bench.tier2_faults`
"""

import os
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGCONT, SIGSTOP

from bench.measure import Bar, Figure, human, save, table
from tests.support import images
from tests.support.content import ContentServer, run_content_server
from tests.support.images import Packed
from tests.support.machine import CLIPFS
from tests.support.network import Namespace, namespace
from tests.support.registry import RegistryServer, run_registry
from tests.support.s3_server import S3Server, run_s3_server
from tests.support.two_nodes import tier2_options

ROUNDS = 5
LAYERS = 12
MOST_S = 1.0
WITHOUT = "without tier 2"


@dataclass(frozen=True, slots=True)
class Case:
    """What a mount is told beside the image."""

    words: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)


def run(rounds: int = ROUNDS) -> list[Bar]:
    """Measure, print, save; the bars."""
    with tempfile.TemporaryDirectory(prefix="clip-bench-") as folder, ExitStack() as stack:
        home = Path(folder)
        registry = stack.enter_context(run_registry(home / "registry"))
        image = _pushed(home, registry)
        cases = stack.enter_context(_cases(home))
        without = {name: Figure(WITHOUT) for name in cases}
        figures = {name: Figure(name) for name in cases}
        for number in range(rounds):
            for name, case in cases.items():
                root = home / f"{number}-{name.replace(' ', '-')}"
                beside = root.with_name(f"{root.name}-without")
                without[name].seconds.append(_mount_s(image, registry, beside, Case()))
                figures[name].seconds.append(_mount_s(image, registry, root, case))
    bars = [_bar(figure, without[name]) for name, figure in figures.items()]
    all_without = Figure(WITHOUT, [one for each in without.values() for one in each.seconds])
    shown = [all_without, *figures.values()]
    print(f"{LAYERS} layers, an empty root each, {rounds} rounds\n")
    print(table(["", "median", "least", "most"], [one.row() for one in shown]), "\n")
    print(table(["bar", "found", ""], [bar.row() for bar in bars]), "\n")
    save("tier2-faults", shown, bars)
    return bars


def _bar(figure: Figure, without: Figure) -> Bar:
    pairs = zip(figure.seconds, without.seconds, strict=True)
    more_s = statistics.median(one - other for one, other in pairs)
    shown = f"-{human(-more_s)}" if more_s < 0 else human(more_s)
    return Bar(f"{figure.name}: more than without", max(more_s, 0), shown, most=MOST_S)


def _pushed(home: Path, registry: RegistryServer) -> str:
    packed: list[Packed] = []
    for number in range(LAYERS):
        tree = home / f"tree-{number}"
        tree.mkdir()
        (tree / f"file-{number}").write_bytes(os.urandom(100_000))
        packed.append(images.layer(tree, home / f"{number}.tar"))
    images.write_layout(home / "oci", packed)
    return images.push(home / "oci", registry.address, "faults:1")


def _mount_s(image: str, registry: RegistryServer, root: Path, case: Case) -> float:
    mountpoint = root.with_name(f"{root.name}-m")
    words = [CLIPFS, "mount", image, str(mountpoint), "--root", str(root), "--front", "fuse",
             "--plain-http", registry.address, *case.words]  # fmt: skip # as it is typed
    begin = time.perf_counter()
    subprocess.run(
        words, env={**os.environ, **case.environment}, check=True, capture_output=True, timeout=60
    )
    seconds = time.perf_counter() - begin
    subprocess.run(
        [CLIPFS, "unmount", str(mountpoint), "--root", str(root)], check=True, capture_output=True
    )
    return seconds


@contextmanager
def _cases(home: Path) -> Iterator[dict[str, Case]]:
    """Every fault, as it is for the whole run."""
    with ExitStack() as stack:
        well, refusing, *frozen = [
            stack.enter_context(run_content_server(home / f"cc{number}")) for number in range(5)
        ]
        (home / "wrong").write_text("not the token\n")
        nobody = _free_port()
        for one in frozen:
            one.tell(SIGSTOP)
            stack.callback(one.tell, SIGCONT)
        net = stack.enter_context(namespace())
        far = stack.enter_context(
            run_content_server(home / "far", within=net.within, host=net.host)
        )
        s3 = {name: stack.enter_context(_bucket(home / name)) for name in ("s3", "s3-frozen")}
        s3["s3-far"] = stack.enter_context(_bucket(home / "s3-far", net))
        s3["s3-frozen"].hang()
        net.cut()
        stack.callback(net.mend)
        yield {
            "HTTP, well": _by_http([well], home),
            "HTTP, nobody listens": Case(tier2_options(f"http://127.0.0.1:{nobody}", None, home)),
            "HTTP, wrong token": _by_http([refusing], home, token=home / "wrong"),
            "HTTP, frozen": _by_http(frozen[:1], home),
            "HTTP, three replicas, all frozen": _by_http(frozen, home),
            "HTTP, network cut": _by_http([far], home),
            "S3, well": _by_s3(s3["s3"].environment(), home),
            "S3, nobody listens": _by_s3(
                s3["s3"].environment() | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{nobody}"}, home
            ),
            "S3, wrong secret": _by_s3(
                s3["s3"].environment() | {"AWS_SECRET_ACCESS_KEY": "not the secret"}, home
            ),
            "S3, frozen": _by_s3(s3["s3-frozen"].environment(), home),
            "S3, network cut": _by_s3(s3["s3-far"].environment(), home),
        }


def _by_http(servers: list[ContentServer], home: Path, token: Path | None = None) -> Case:
    words = tier2_options(servers[0].url, token or servers[0].folder / "token", home)
    for one in servers[1:]:
        words += ["--content-cache", one.url]
    return Case(words)


def _by_s3(environment: dict[str, str], home: Path) -> Case:
    return Case(tier2_options("s3://bench/x", None, home), environment)


@contextmanager
def _bucket(folder: Path, net: Namespace | None = None) -> Iterator[S3Server]:
    where = {"host": net.host, "within": net.within} if net else {}
    with run_s3_server(folder, **where) as server:  # type: ignore[arg-type] # both or none
        server.make_bucket("bench")
        yield server


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port


if __name__ == "__main__":
    run()
