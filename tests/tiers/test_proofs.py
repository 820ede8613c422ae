"""A cached layer is used for a host once that has delivered it: by a record, or by a download.

One module, though long: it is the table of who has a record, who earns one, and who does not.
"""

import itertools
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from clipfs import errors
from clipfs.image.digest import Digest
from clipfs.image.model import Image, Layer
from clipfs.image.reference import parse_reference
from clipfs.layer.index import LayerIndex
from clipfs.layer.job import RANGES, PassProgress, Ranges
from clipfs.layer.origin import record_name, seal_record
from clipfs.tiers.origins import OriginRecords, lacks_origin
from clipfs.tiers.settings import TierHooks
from clipfs.tiers.stack import Tiers
from tests.support.content import ContentServer
from tests.support.faulty_registry import (
    Fault,
    FaultyRegistry,
    Spoil,
    cut_short,
    on_downloads,
    on_probes,
    refused,
    wrong_at,
)
from tests.support.recording_proxy import recording_proxy
from tests.support.registry import RegistryServer
from tests.support.relay import OnPiece, relay
from tests.support.samples import Sample, make_sample
from tests.support.tier2 import Tier2
from tests.support.tier_stack import KEYS, Counted, made_layout, opened_tiers, store_sample
from tests.support.wait import wait_for
from tests.support.web import Asked, Reply, WebServer, run_web
from tests.tiers.downloads import AT_ONCE, mirrored_by

NOWHERE = "127.0.0.1:1"
WAITS = "another node brings the layer, waiting for it"
NEIGHBOUR = "neighbour.example"
SEEDS = itertools.count(12_000)
IN_RANGES = Ranges(connections=4, segment_bytes=128 << 10, from_bytes=1 << 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """A layer that no other test knows, in the real registry as an image of this name."""

    sample: Sample
    registry: str
    name: str

    @property
    def layer(self) -> Layer:
        return self.sample.layer

    @property
    def image(self) -> str:
        return f"{self.registry}/{self.name}"

    def at(self, web: WebServer) -> str:
        return f"{web.address}/{self.name}"

    def cached_at(self, root: Path) -> Path:
        """The root, where the layer is whole since the neighbour's image was pulled."""
        layout = made_layout(root)
        layout.payload(self.sample.key).write_bytes(self.sample.payload)
        OriginRecords(layout, KEYS).add(self.layer, NEIGHBOUR)
        return root


@pytest.fixture
def own(tmp_path: Path, registry: RegistryServer) -> Own:
    seed = next(SEEDS)
    sample = make_sample(tmp_path / "tar", content_bytes=5 << 20, seed=seed)
    name = f"tiers/proof-{seed}:1"
    sample.push(registry.address, name)
    return Own(sample=sample, registry=registry.address, name=name)


@pytest.fixture
def faults(registry: RegistryServer) -> FaultyRegistry:
    return FaultyRegistry(registry.address)


async def index_at(root: Path, own: Own) -> Path:
    """The root, with the layer's index too."""
    async with opened_tiers(own.cached_at(root), f"{NOWHERE}/x") as tiers:
        tiers.disk.save_index(own.layer, own.sample.indexed.index)
    return root


def downloads(web: WebServer, own: Own) -> list[Asked]:
    return [one for one in web.asked if on_downloads(one) and own.layer.digest in one.path]


def has_record(root: Path, own: Own, host: str) -> bool:
    return OriginRecords(made_layout(root), KEYS).has(own.layer, host)


async def test_a_cached_layer_is_downloaded_once_as_proof_and_nothing_of_it_is_stored(
    own: Own, faults: FaultyRegistry, tmp_path: Path
) -> None:
    root = await index_at(tmp_path / "A", own)
    before = (root / "cache" / own.sample.key).stat()
    counted = Counted()
    with run_web(faults) as web:
        for _ in range(2):
            async with opened_tiers(root, own.at(web), hooks=counted.hooks) as tiers:
                assert await tiers.load_index(own.layer) == own.sample.indexed.index
        assert len(downloads(web, own)) == 1
        assert has_record(root, own, web.address)
    assert counted.bytes["registry"] == own.layer.size
    after = (root / "cache" / own.sample.key).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert list((root / "partial").iterdir()) == []
    assert list((root / "run").glob("*.proof")) == []


async def test_a_layer_that_nobody_has_is_downloaded_once_and_that_is_the_proof(
    own: Own, faults: FaultyRegistry, tier2: Tier2, tmp_path: Path
) -> None:
    counted = Counted()
    with run_web(faults) as web:
        async with opened_tiers(
            tmp_path / "A", own.at(web), cache_url=tier2.url, hooks=counted.hooks
        ) as tiers:
            await tiers.load_index(own.layer)
        assert len(downloads(web, own)) == 1
    assert counted.bytes["registry"] == own.layer.size


async def test_a_layer_of_the_content_cache_alone_is_not_brought_here_by_its_proof(
    own: Own, faults: FaultyRegistry, tier2: Tier2, tmp_path: Path
) -> None:
    await store_sample(tier2.url, own.sample)
    with run_web(faults) as web:
        async with opened_tiers(tmp_path / "B", own.at(web), cache_url=tier2.url) as tiers:
            await tiers.load_index(own.layer)
        assert len(downloads(web, own)) == 1
    assert list((tmp_path / "B/cache").iterdir()) == []
    assert list((tmp_path / "B/partial").iterdir()) == []


async def test_a_proof_of_one_node_is_that_of_the_others(
    own: Own, faults: FaultyRegistry, tier2: Tier2, tmp_path: Path
) -> None:
    await store_sample(tier2.url, own.sample)
    with run_web(faults) as web:
        name = record_name(own.sample.key, web.address)
        async with opened_tiers(tmp_path / "B", own.at(web), cache_url=tier2.url) as tiers:
            await tiers.load_index(own.layer)
            assert tiers.mender is not None
            await tiers.mender.drain()
        assert tier2.read(name) == seal_record(own.layer, web.address, KEYS)
        before = len(downloads(web, own))
        async with opened_tiers(tmp_path / "C", own.at(web), cache_url=tier2.url) as tiers:
            await tiers.load_index(own.layer)
        assert len(downloads(web, own)) == before
        assert has_record(tmp_path / "C", own, web.address)


REFUSALS = pytest.mark.parametrize(
    ("fault", "kind"),
    [
        pytest.param(Fault(on_probes, refused(401), times=9), errors.Unauthenticated, id="401"),
        pytest.param(Fault(on_probes, refused(403), times=9), errors.AccessDenied, id="403"),
        pytest.param(Fault(on_probes, refused(404), times=9), errors.ImageNotFound, id="404"),
        pytest.param(
            Fault(on_downloads, refused(404), times=9), errors.ImageNotFound, id="404 to the second"
        ),
        pytest.param(
            Fault(on_downloads, wrong_at(-1), times=9), errors.CorruptImage, id="other bytes"
        ),
        pytest.param(
            Fault(on_probes, refused(503), times=9), errors.RegistryUnavailable, id="no answer"
        ),
    ],
)


@REFUSALS
@pytest.mark.parametrize("place", ["disk", "content cache"])
async def test_who_does_not_deliver_it_gets_no_index_and_no_record(
    fault: Fault,
    kind: type[errors.ClipError],
    place: str,
    own: Own,
    faults: FaultyRegistry,
    content_server: ContentServer,
    tmp_path: Path,
) -> None:
    fault = faults.add(Fault(fault.fits, fault.spoil, times=fault.times))
    url = content_server.url if place == "content cache" else None
    if url is not None:
        await store_sample(url, own.sample)
        root = tmp_path / "B"
    else:
        root = await index_at(tmp_path / "A", own)
    with run_web(faults) as web:
        async with opened_tiers(root, own.at(web), cache_url=url, retry=AT_ONCE) as tiers:
            with pytest.raises(kind):
                await tiers.load_index(own.layer)
        assert not has_record(root, own, web.address)
        assert content_server.ask("GET", record_name(own.sample.key, web.address)).status == 404
    assert fault.met


@pytest.mark.parametrize("ranges", [RANGES, IN_RANGES], ids=["one stream", "ranges"])
@pytest.mark.parametrize("spoil", [wrong_at(-1), cut_short(300_000), refused(503)])
async def test_a_proof_goes_on_after_a_fault_as_any_download_does(
    spoil: Spoil, ranges: Ranges, own: Own, faults: FaultyRegistry, tmp_path: Path
) -> None:
    """At the next host, where there is one."""
    root = await index_at(tmp_path / "A", own)
    fault = faults.add(Fault(on_downloads, spoil))
    counted, said = Counted(), list[int]()

    def on_progress(_: Layer, progress: PassProgress) -> None:
        said.append(progress.downloaded_bytes)

    hooks = TierHooks(on_download=counted.hooks.on_download, on_progress=on_progress)
    with run_web(faults) as web:
        mirrors = mirrored_by(web.address, tmp_path / "mirrors")
        async with opened_tiers(
            root, own.image, hooks=hooks, retry=AT_ONCE, mirrors=mirrors, ranges=ranges
        ) as tiers:
            await tiers.load_index(own.layer)
    assert fault.met == 1
    assert has_record(root, own, own.registry)
    assert said == sorted(said)
    assert 0 < said[-1] <= own.layer.size <= counted.bytes["registry"]


async def test_two_mounts_at_once_are_one_download(
    own: Own, registry: RegistryServer, tmp_path: Path
) -> None:
    root = await index_at(tmp_path / "A", own)
    faults, both_wait = FaultyRegistry(registry.address), threading.Event()

    def respond(asked: Asked) -> Reply:
        if on_downloads(asked) and own.layer.digest in asked.path:
            assert both_wait.wait(60)
        return faults(asked)

    with run_web(respond) as web:
        loaded: list[str] = []

        async def shown(name: str) -> None:
            async def load(layer: Layer) -> LayerIndex:
                index = await tiers.chain.load_index(layer)
                loaded.append(name)
                if len(loaded) == 2:
                    both_wait.set()
                return index

            async with opened_tiers(root, own.at(web)) as tiers:
                await tiers.proofs.shown(own.layer, load)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(shown, "one")
            nursery.start_soon(shown, "other")
        assert len(downloads(web, own)) == 1


async def test_a_content_cache_that_is_down_costs_a_download(own: Own, tmp_path: Path) -> None:
    root = await index_at(tmp_path / "A", own)
    counted = Counted()
    async with opened_tiers(
        root, own.image, cache_url=f"http://{NOWHERE}", hooks=counted.hooks
    ) as tiers:
        await tiers.load_index(own.layer)
    assert counted.troubles["errors"]
    assert counted.bytes["registry"] == own.layer.size


async def test_a_record_on_disk_is_enough(
    own: Own, content_server: ContentServer, tmp_path: Path
) -> None:
    root = await index_at(tmp_path / "A", own)
    with recording_proxy(content_server.port) as recorder:
        async with opened_tiers(root, f"{NEIGHBOUR}/x", cache_url=recorder.url) as tiers:
            await tiers.load_index(own.layer)
    assert recorder.exchanges == []


async def test_a_disk_that_refuses_the_record_costs_a_download_each_time(
    own: Own, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = await index_at(tmp_path / "A", own)
    monkeypatch.setattr(OriginRecords, "add", lambda *_, **__: None)
    counted = Counted()
    for _ in range(2):
        async with opened_tiers(root, own.image, hooks=counted.hooks) as tiers:
            await tiers.load_index(own.layer)
    assert counted.bytes["registry"] == 2 * own.layer.size


@dataclass(slots=True)
class Pairs:
    """A relay before a content cache that lets no layer index pass before a record was asked for.

    alone  indexes for whose record nobody asked
    """

    url: str = ""
    asked: set[bytes] = field(default_factory=set)
    alone: list[bytes] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def on_connection(self) -> OnPiece:
        index: bytes | None = None

        def on_piece(piece: bytes, is_answer: bool) -> None:
            nonlocal index
            if is_answer and index is not None:
                with self.changed:
                    if not self.changed.wait_for(lambda: index in self.asked, 10):
                        self.alone.append(index)
                index = None
                return
            match = re.match(rb"GET /v1/objects/(sha256_\w+)\.v1\.(toc|origin)", piece)
            if match and match[2] == b"toc":
                index = match[1]
            elif match:
                with self.changed:
                    self.asked.add(match[1])
                    self.changed.notify_all()

        return on_piece


@contextmanager
def paired(upstream_port: int) -> Iterator[Pairs]:
    pairs = Pairs()
    with relay(f"127.0.0.1:{upstream_port}", pairs.on_connection) as address:
        pairs.url = f"http://{address}"
        yield pairs


async def test_a_record_is_asked_for_while_the_index_is_and_costs_one_request(
    own: Own, content_server: ContentServer, tmp_path: Path
) -> None:
    await store_sample(content_server.url, own.sample)
    record = record_name(own.sample.key, own.registry)
    content_server.ask("PUT", record, seal_record(own.layer, own.registry, KEYS))
    counted = Counted()
    with recording_proxy(content_server.port) as recorder:
        port = int(recorder.url.rpartition(":")[2])
        with paired(port) as pairs:
            async with opened_tiers(
                tmp_path / "B", own.image, cache_url=pairs.url, hooks=counted.hooks
            ) as tiers:
                await tiers.load_index(own.layer)
    assert pairs.asked
    assert pairs.alone == []
    keys = [key for _, key, _ in recorder.exchanges]
    assert sorted(keys) == sorted([f"{own.sample.key}.v1.toc", record])
    assert counted.bytes["registry"] == 0


@pytest.mark.parametrize("same", [True, False], ids=["the same host", "another host"])
async def test_what_another_node_brings_is_proof_for_its_own_host_alone(
    same: bool, own: Own, registry: RegistryServer, content_server: ContentServer, tmp_path: Path
) -> None:
    """Node B waits for node A's pass, and then looks for the record; not if that is no proof."""
    faults, b_waits = FaultyRegistry(registry.address), threading.Event()

    def at_a(asked: Asked) -> Reply:
        if on_downloads(asked) and own.layer.digest in asked.path:
            assert b_waits.wait(60)
        return faults(asked)

    counted = Counted()
    with run_web(at_a) as a, run_web(faults) as b, capture_logs() as lines:

        async def node(root: Path, reference: str, hooks: TierHooks) -> None:
            async with opened_tiers(
                root, reference, cache_url=content_server.url, hooks=hooks
            ) as tiers:
                await tiers.load_index(own.layer)
                await stored(tiers)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(node, tmp_path / "A", own.at(a), TierHooks())
            await trio.to_thread.run_sync(wait_for, lambda: downloads(a, own))
            nursery.start_soon(node, tmp_path / "B", own.at(a if same else b), counted.hooks)

            def goes_on() -> bool:
                if same:
                    return WAITS in [one["event"] for one in lines]
                return bool(downloads(b, own))

            await trio.to_thread.run_sync(wait_for, goes_on)
            b_waits.set()
        assert len(downloads(a, own)) == 1
        assert len(downloads(b, own)) == (0 if same else 1)
    assert counted.bytes["registry"] == (0 if same else own.layer.size)


async def stored(tiers: Tiers) -> None:
    assert tiers.storer is not None
    await tiers.storer.drain()


def test_whether_a_disk_has_all_records_of_an_image_is_a_question_to_it_alone(
    own: Own, tmp_path: Path
) -> None:
    layout = made_layout(own.cached_at(tmp_path / "A"))
    other = Layer(digest=Digest(f"sha256:{7:064x}"), size=1, media_type="any", diff_id=None)

    def lacks(host: str, *layers: Layer) -> bool:
        reference = parse_reference(f"{host}/x")
        image = Image(reference=reference, digest=Digest(f"sha256:{1:064x}"), layers=layers)
        return lacks_origin(layout, KEYS, image)

    assert not lacks(NEIGHBOUR, own.layer, own.layer)
    assert lacks("other.example", own.layer)
    assert lacks(NEIGHBOUR, own.layer, other)
    OriginRecords(layout, KEYS).add(other, NEIGHBOUR)
    assert not lacks(NEIGHBOUR, own.layer, other)
