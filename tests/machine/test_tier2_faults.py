"""Tier 2 fails in every way, under real mounts: no read fails while the registry has the bytes.

Over HTTP and with an object store. Each test shows that its fault was met: requests were in
flight, and are counted as errors. Those that wait for time-outs, and then for the registry, run
at the same time; those that want bytes of tier 2 in time run alone.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGCONT, SIGSTOP

import pytest

from tests.support import images
from tests.support.at_once import Endings, at_once
from tests.support.content import ContentServer, run_content_server
from tests.support.images import Packed
from tests.support.machine import needs_fuse
from tests.support.network import namespace, needs_namespaces
from tests.support.node import Node
from tests.support.ports import free_port
from tests.support.registry import RegistryServer
from tests.support.s3_server import S3Server, run_s3_server
from tests.support.small_disk import SmallDisk, needs_loop, small_disk
from tests.support.two_nodes import nodes_of, stored, tier2_options
from tests.support.valve import Valve, valve

pytestmark = needs_fuse

FILES = 6
FILE_BYTES = 4 << 20
KINDS = ("http", "s3")
AT_ONCE = 3
"""More would want more processors than a small machine has."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An image of FILES files in one layer. digest: of the layer"""

    reference: str
    contents: dict[str, bytes]
    digest: str


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory, registry: RegistryServer) -> Sample:
    home = tmp_path_factory.mktemp("image")
    (home / "tree").mkdir()
    contents = {f"file-{number}": os.urandom(FILE_BYTES) for number in range(FILES)}
    for name, data in contents.items():
        (home / "tree" / name).write_bytes(data)
    packed: Packed = images.layer(home / "tree", home / "tar")
    images.write_layout(home / "oci", [packed], codec="zstd")
    reference = images.push(home / "oci", registry.address, "tier2-faults:1")
    digest = next(
        f"sha256:{path.name}" for path in (home / "oci/blobs/sha256").iterdir()
        if path.stat().st_size > FILE_BYTES
    )  # fmt: skip # one question
    return Sample(reference, contents, digest)


@dataclass(slots=True)
class Store:
    """A tier 2 that can be killed, started again, frozen and woken; `valve` stands before it.

    environment  what its nodes find it by, besides options
    """

    options: list[str]
    environment: dict[str, str]
    valve: Valve
    kill: Callable[[], None]
    start: Callable[[], None]
    freeze: Callable[[], None]
    wake: Callable[[], None]


@contextmanager
def http_store(home: Path) -> Iterator[Store]:
    with ExitStack() as stack:
        running = [stack.enter_context(run_content_server(home / "cc", port=free_port()))]
        before = stack.enter_context(valve(f"127.0.0.1:{running[0].port}"))

        def start() -> None:
            again = run_content_server(home / "cc", port=running[0].port)
            running.append(stack.enter_context(again))

        options = tier2_options(f"http://{before.address}", home / "cc/token", home)
        yield Store(
            options,
            {},
            before,
            kill=lambda: running[-1].kill(),
            start=start,
            freeze=lambda: running[-1].tell(SIGSTOP),
            wake=lambda: running[-1].tell(SIGCONT),
        )


@contextmanager
def s3_store(home: Path) -> Iterator[Store]:
    with ExitStack() as stack:
        server = stack.enter_context(run_s3_server(home / "s3"))
        server.make_bucket("faults")
        before = stack.enter_context(valve(f"127.0.0.1:{server.port}"))
        environment = server.environment() | {"AWS_ENDPOINT_URL": f"http://{before.address}"}
        options = tier2_options("s3://faults/x", None, home)
        yield Store(
            options,
            environment,
            before,
            kill=server.kill,
            start=server.start,
            freeze=server.hang,
            wake=server.wake,
        )


STORES = {"http": http_store, "s3": s3_store}


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with STORES[request.param](tmp_path) as made:
        yield made


@pytest.fixture
def nodes(store: Store, registry: RegistryServer, tmp_path: Path) -> Iterator[list[Node]]:
    words = [*store.options, "--plain-http", registry.address]
    with nodes_of(tmp_path, "abc", words, store.environment) as made:
        yield made


class Readers:
    """Read all files of a mount at the same time, each a thread; `wrong` names what went wrong."""

    def __init__(self, mountpoint: Path, image: Sample) -> None:
        self.wrong: list[str] = []
        self._threads = [
            threading.Thread(target=self._read, args=(mountpoint / name, data))
            for name, data in image.contents.items()
        ]
        for one in self._threads:
            one.start()

    def _read(self, path: Path, expected: bytes) -> None:
        try:
            if path.read_bytes() != expected:
                self.wrong.append(f"{path.name}: wrong bytes")
        except OSError as error:
            self.wrong.append(str(error))

    def done(self) -> list[str]:
        for one in self._threads:
            one.join(120)
            assert not one.is_alive(), "a reader hangs"
        return self.wrong


def layer_downloads(registry: RegistryServer, image: Sample) -> int:
    return sum(image.digest in path for path in registry.blob_reads())


def errors(node: Node) -> int:
    found: int = node.json("stats")["content_cache"]["errors"]
    return found


def test_uploads_that_a_kill_meets_in_flight_harm_no_reader_and_are_made_good(
    store: Store,
    nodes: list[Node],
    image: Sample,
    registry: RegistryServer,
    tmp_path: Path,
) -> None:
    first, second, _ = nodes
    store.valve.hold(answers=False, after_bytes=1 << 20)
    first.mount(image.reference, tmp_path / "m1", "--front", "fuse")
    print(f"kill with {store.valve.wait()} uploads in flight")
    store.kill()
    store.valve.let_go()
    assert Readers(tmp_path / "m1", image).done() == []
    stored(first, within_s=90)
    assert errors(first) >= 1
    store.start()
    before = layer_downloads(registry, image)
    first.json("index", image.reference)
    stored(first)
    second.mount(image.reference, tmp_path / "m2", "--front", "fuse")
    assert Readers(tmp_path / "m2", image).done() == []
    assert second.json("stats")["registry"]["bytes"] == 0
    assert layer_downloads(registry, image) == before


def test_mounts_and_reads_go_well_while_it_hangs_and_use_it_when_it_wakes(
    store: Store, nodes: list[Node], image: Sample, tmp_path: Path
) -> None:
    first, second, third = nodes
    first.json("index", image.reference)
    stored(first)
    store.freeze()
    try:
        second.mount(image.reference, tmp_path / "m2", "--front", "fuse")
        assert Readers(tmp_path / "m2", image).done() == []
        assert errors(second) >= 1
    finally:
        store.wake()
    third.mount(image.reference, tmp_path / "m3", "--front", "fuse")
    assert Readers(tmp_path / "m3", image).done() == []
    assert third.json("stats")["registry"]["bytes"] == 0


def test_replicas_are_rolled_under_lazy_reads_without_a_byte_of_the_registry(
    image: Sample, registry: RegistryServer, tmp_path: Path
) -> None:
    with ExitStack() as all_of_them:
        stacks = [all_of_them.enter_context(ExitStack()) for _ in range(3)]
        homes = [tmp_path / f"cc{number}" for number in range(3)]
        running: list[ContentServer] = [
            stack.enter_context(run_content_server(home, port=free_port()))
            for stack, home in zip(stacks, homes, strict=True)
        ]
        options = tier2_options(running[0].url, homes[0] / "token", tmp_path)
        for one in running[1:]:
            options += ["--content-cache", one.url]
        words = [*options, "--plain-http", registry.address]
        with nodes_of(tmp_path, "abcd", words) as (first, *others):
            first.json("index", image.reference)
            stored(first)
            before = layer_downloads(registry, image)
            for number, node in enumerate(others):
                mountpoint = tmp_path / f"m{number}"
                node.mount(image.reference, mountpoint, "--front", "fuse")
                readers = Readers(mountpoint, image)
                stacks[number].close()  # SIGTERM: what is in flight is finished
                again = run_content_server(homes[number], port=running[number].port)
                stacks[number].enter_context(again)
                assert readers.done() == []
                figures = node.json("stats")
                assert figures["registry"]["bytes"] == 0
                assert figures["content_cache"]["bytes"] >= FILES * FILE_BYTES
            assert layer_downloads(registry, image) == before


Body = Callable[[Path, str, Sample, RegistryServer], None]


@pytest.fixture(scope="module")
def endings(
    request: pytest.FixtureRequest, image: Sample, registry: RegistryServer
) -> Iterator[Endings]:
    def body(run: Body, kind: str) -> Callable[[Path], None]:
        return lambda home: run(home, kind, image, registry)

    def reads(fault: str) -> Body:
        return lambda *words: meet_reads(fault, *words)

    runs: dict[str, Body] = {
        "test_a_full_disk_of_tier_2_fails_no_read[{}]": fill_the_disk,
        "test_a_network_that_is_cut_fails_no_read_and_no_mount[{}]": cut_the_network,
        "test_a_wrong_token_or_secret_fails_no_read[{}]": give_a_wrong_secret,
        "test_reads_that_a_fault_meets_in_flight_are_right[{}-kill]": reads("kill"),
        "test_reads_that_a_fault_meets_in_flight_are_right[{}-freeze]": reads("freeze"),
    }
    bodies = {name.format(kind): body(run, kind) for name, run in runs.items() for kind in KINDS}
    with at_once(request, bodies, most=AT_ONCE) as ends:
        yield ends


@pytest.mark.parametrize("fault", ["kill", "freeze"])
@pytest.mark.parametrize("kind", KINDS)
def test_reads_that_a_fault_meets_in_flight_are_right(
    kind: str, fault: str, request: pytest.FixtureRequest, endings: Endings
) -> None:
    endings[request.node.name].result()


def meet_reads(fault: str, home: Path, kind: str, image: Sample, registry: RegistryServer) -> None:
    with STORES[kind](home) as store:
        words = [*store.options, "--plain-http", registry.address]
        with nodes_of(home, "ab", words, store.environment) as (first, second):
            first.json("index", image.reference)
            stored(first)
            second.mount(image.reference, home / "m", "--front", "fuse")
            assert errors(second) == 0
            store.valve.hold(answers=True, after_bytes=1 << 20)
            readers = Readers(home / "m", image)
            print(f"{fault} with {store.valve.wait()} requests in flight")
            getattr(store, fault)()
            store.valve.let_go()
            try:
                assert readers.done() == []
                figures = second.json("stats")
                assert figures["content_cache"]["bytes"] > 0  # it had been of use
                assert figures["content_cache"]["errors"] >= 1
                assert figures["registry"]["bytes"] > 0
            finally:
                if fault == "freeze":
                    store.wake()


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_token_or_secret_fails_no_read(
    kind: str, request: pytest.FixtureRequest, endings: Endings
) -> None:
    endings[request.node.name].result()


def give_a_wrong_secret(home: Path, kind: str, image: Sample, registry: RegistryServer) -> None:
    with STORES[kind](home) as store:
        words = [*store.options, "--plain-http", registry.address]
        environment = store.environment
        if kind == "http":
            (home / "wrong").write_text("not the token\n")
            words[words.index("--content-cache-token-file") + 1] = str(home / "wrong")
        else:
            environment = environment | {"AWS_SECRET_ACCESS_KEY": "not the secret"}
        with nodes_of(home, "x", words, environment) as (node,):
            node.mount(image.reference, home / "m", "--front", "fuse")
            assert Readers(home / "m", image).done() == []
            stored(node)
            assert errors(node) >= 1


@needs_loop
@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_of_tier_2_fails_no_read(
    kind: str, request: pytest.FixtureRequest, endings: Endings
) -> None:
    endings[request.node.name].result()


def fill_the_disk(home: Path, kind: str, image: Sample, registry: RegistryServer) -> None:
    with (
        small_disk(home / "small", mebibytes=16 if kind == "http" else 200) as disk,
        _on_small_disk(kind, disk, home) as (options, environment, log),
        nodes_of(home, "ab", [*options, "--plain-http", registry.address], environment) as nodes,
    ):
        for node in nodes:
            mountpoint = home / f"m{node.root.name}"
            node.mount(image.reference, mountpoint, "--front", "fuse")
            assert Readers(mountpoint, image).done() == []
            stored(node, within_s=90)
        if log is not None:
            assert "something was not stored" in log.read_text()
        else:
            assert errors(nodes[0]) >= 1


@contextmanager
def _on_small_disk(
    kind: str, disk: SmallDisk, home: Path
) -> Iterator[tuple[list[str], dict[str, str], Path | None]]:
    """What nodes are told of a tier 2 that has less room than the image takes, options and
    environment; its log, if it has one that says so."""
    if kind == "http":
        with run_content_server(home / "cc", directory=disk.folder / "objects") as server:
            options = tier2_options(server.url, home / "cc/token", home)
            yield options, {}, server.log
        return
    with run_s3_server(disk.folder / "s3") as s3:
        s3.make_bucket("faults")
        disk.fill(but=8 << 20)
        yield tier2_options("s3://faults/x", None, home), s3.environment(), None
        s3.kill()  # before its disk goes


@needs_namespaces
@pytest.mark.parametrize("kind", KINDS)
def test_a_network_that_is_cut_fails_no_read_and_no_mount(
    kind: str, request: pytest.FixtureRequest, endings: Endings
) -> None:
    endings[request.node.name].result()


def cut_the_network(home: Path, kind: str, image: Sample, registry: RegistryServer) -> None:
    with ExitStack() as stack:
        net = stack.enter_context(namespace())
        environment = {}
        if kind == "http":
            server = run_content_server(home / "cc", within=net.within, host=net.host)
            url = stack.enter_context(server).url
            options = tier2_options(url, home / "cc/token", home)
        else:
            s3: S3Server = stack.enter_context(
                run_s3_server(home / "s3", within=net.within, host=net.host)
            )
            s3.make_bucket("faults")
            environment = s3.environment()
            options = tier2_options("s3://faults/x", None, home)
        words = [*options, "--plain-http", registry.address]
        first, second, third = stack.enter_context(nodes_of(home, "abc", words, environment))
        first.json("index", image.reference)
        stored(first)
        second.mount(image.reference, home / "m2", "--front", "fuse")
        name = next(iter(image.contents))
        with (home / "m2" / name).open("rb") as file:
            assert file.read(1 << 20) == image.contents[name][: 1 << 20]
        assert errors(second) == 0
        net.cut()
        assert Readers(home / "m2", image).done() == []
        third.mount(image.reference, home / "m3", "--front", "fuse")
        assert Readers(home / "m3", image).done() == []
        assert min(errors(second), errors(third)) >= 1
        net.mend()
