"""The background fill: what it brings, that reads go first, and where it stops.

The clock stands still but where a test moves it, so that whoever waits goes on waiting.
One module, though long: nearly all of it needs the same held tier and clock.
"""

import errno
import fcntl
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from clipfs import errors
from clipfs.image.model import Layer
from clipfs.layer.index import CHUNK_BYTES, LayerIndex
from clipfs.system.locks import alone
from clipfs.tiers.background import WATCH_S, BackgroundFill, FillSettings
from clipfs.tiers.chain import TierChain
from clipfs.tiers.content.store import ContentCacheDown
from clipfs.tiers.disk import DiskTier
from clipfs.tiers.foreground import QUIET_S, Foreground
from clipfs.tiers.layer_fill import PIECE_CHUNKS, REQUESTS_AT_ONCE
from clipfs.tiers.pages import PAGE_BYTES
from clipfs.tiers.read_ahead import ReadAhead
from clipfs.tiers.tier import AskAgain, Extent, FillState, IndexedLayer, Payload, Tier
from tests.support.samples import Sample, make_sample
from tests.support.tier_stack import KEYS, made_layout

PLENTY_BYTES = 1 << 40
FIRST = Extent(0, CHUNK_BYTES)


@pytest.fixture(scope="session")
def big(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """Two pages and a bit: 40 pieces and more."""
    tar = tmp_path_factory.mktemp("big") / "tar"
    return make_sample(tar, content_bytes=(20 << 20) + 5, seed=1)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return make_sample(tmp_path_factory.mktemp("small") / "tar", content_bytes=1 << 20, seed=2)


@dataclass(slots=True)
class HeldTier:
    """A content cache whose answers wait, layer by layer; `asked` in order, with the cache key."""

    samples: list[Sample]
    held: dict[str, trio.Event] = field(default_factory=dict)
    asked: list[tuple[str, Extent]] = field(default_factory=list)
    answered: list[tuple[str, Extent]] = field(default_factory=list)
    has_nothing: bool = False
    lost: set[str] = field(default_factory=set)
    fills_disk: bool = False

    def hold(self, sample: Sample) -> Callable[[], None]:
        """What lets the answers go that wait from now on."""
        gate = self.held[sample.key] = trio.Event()

        def let_go() -> None:
            del self.held[sample.key]
            gate.set()

        return let_go

    @property
    def reading(self) -> int:
        return len(self.asked) - len(self.answered)

    async def load_index(self, layer: Layer) -> LayerIndex | None:
        raise AssertionError("a fill has the index")

    async def read(self, layer: IndexedLayer, extent: Extent) -> Payload | None:
        self.asked.append((layer.cache_key, extent))
        await trio.lowlevel.checkpoint()
        if layer.cache_key in self.held:
            await self.held[layer.cache_key].wait()
        self.answered.append((layer.cache_key, extent))
        found = [one for one in self.samples if one.key == layer.cache_key]
        if self.has_nothing or layer.cache_key in self.lost:
            return None
        return found[0].bytes_of(extent)


@dataclass(slots=True)
class TestedSource:
    """As a mount's tiers; `away`: the content cache, when it is asked what it has."""

    __test__ = False

    disk: DiskTier
    content_cache: Tier | None
    samples: list[Sample]
    away: bool = False
    stored: bool = True
    probes: int = 0
    downloads: list[str] = field(default_factory=list)
    fails: list[Exception] = field(default_factory=list)

    async def is_stored(self, layer: IndexedLayer) -> bool:
        self.probes += 1
        await trio.lowlevel.checkpoint()
        if self.away:
            raise ContentCacheDown("it went")
        return self.stored

    async def download(self, layer: IndexedLayer, missed: Extent | None) -> None:
        assert (missed is None) == (self.content_cache is None)
        self.downloads.append(layer.cache_key)
        await trio.lowlevel.checkpoint()
        if self.fails:
            await trio.sleep(0.1)
            raise self.fails.pop(0)
        (sample,) = (one for one in self.samples if one.key == layer.cache_key)
        self.disk.write(layer, range(layer.index.chunk_count), sample.payload)
        await self.disk.promote(layer)


@dataclass(slots=True)
class Heard:
    """What the fill told, as `clipfs stats` would show it."""

    state: FillState = "off"
    brought: int = 0
    layers: int = 0

    def fill_is(self, state: FillState) -> None:
        self.state = state

    def fill_brought(self, count: int) -> None:
        self.brought += count

    def fill_completed(self) -> None:
        self.layers += 1


@dataclass(slots=True)
class Setup:
    disk: DiskTier
    near: HeldTier
    source: TestedSource
    heard: Heard
    clock: MockClock
    samples: list[Sample]
    room_bytes: int = PLENTY_BYTES
    looks: int = 0
    fails: list[Exception] = field(default_factory=list)

    def look(self) -> int:
        self.looks += 1
        if self.fails:
            raise self.fails.pop()
        return self.room_bytes - self.heard.brought

    @asynccontextmanager
    async def filling(
        self, which: Literal["touched", "all"] = "touched"
    ) -> AsyncIterator[BackgroundFill]:
        """As one server does; another one may on the same root."""
        settings = FillSettings(which=which, room_bytes=self.look, first_retry_s=5, most_retry_s=15)
        layers = [one.indexed for one in self.samples]
        chain = TierChain(self.disk, [self.near])
        with Foreground.open(self.disk.layout) as foreground:
            async with trio.open_nursery() as nursery:
                ahead = ReadAhead(chain, nursery)
                fill = BackgroundFill(
                    ahead, chain, self.disk, self.source, layers, settings, foreground, self.heard
                )
                nursery.start_soon(fill.run)
                yield fill
                nursery.cancel_scope.cancel()

    def is_whole(self, sample: Sample) -> bool:
        path = self.disk.layout.payload(sample.key)
        return path.exists() and path.read_bytes() == sample.payload

    async def until(self, probe: Callable[[], bool], *, step_s: float = 0.01) -> None:
        """The clock goes on by itself meanwhile."""
        while not probe():
            self.clock.jump(step_s)
            await trio.lowlevel.checkpoint()


@pytest.fixture
async def setup(
    tmp_path: Path, big: Sample, small: Sample, mock_clock: MockClock
) -> AsyncIterator[Setup]:
    async with DiskTier.open(made_layout(tmp_path), KEYS) as disk:
        samples = [big, small]
        near = HeldTier(samples)
        source = TestedSource(disk, near, samples)
        yield Setup(disk, near, source, Heard(), mock_clock, samples)


async def test_only_a_layer_that_a_read_has_touched_is_filled(
    mock_clock: MockClock, setup: Setup, big: Sample, small: Sample
) -> None:
    async with setup.filling() as fill:
        await wait_all_tasks_blocked()
        assert (setup.near.asked, setup.heard.state) == ([], "idle")
        assert await fill.read(small.indexed, FIRST) == small.bytes_of(FIRST)
        await setup.until(lambda: setup.heard.layers == 1 and setup.heard.state == "idle")
    assert setup.is_whole(small)
    assert {key for key, _ in setup.near.asked} == {small.key}
    assert setup.heard.brought == len(small.payload) - CHUNK_BYTES
    assert list(setup.disk.layout.partial.iterdir()) == []
    assert list(setup.disk.layout.run.glob("*.fill")) == []


async def test_a_read_that_the_disk_answers_touches_too(
    mock_clock: MockClock, setup: Setup, small: Sample
) -> None:
    setup.disk.write(small.indexed, range(1), small.bytes_of(FIRST))
    async with setup.filling() as fill:
        await fill.read(small.indexed, FIRST)
        await setup.until(lambda: setup.heard.layers == 1)
    assert setup.is_whole(small)


async def test_all_layers_are_filled_the_touched_ones_first(
    mock_clock: MockClock, setup: Setup, big: Sample, small: Sample, tmp_path: Path
) -> None:
    third = make_sample(tmp_path / "third", content_bytes=1 << 20, seed=3)
    setup.samples.append(third)
    let_go = setup.near.hold(big)
    async with setup.filling("all") as fill:
        await setup.until(lambda: setup.near.reading == REQUESTS_AT_ONCE)
        await fill.read(third.indexed, FIRST)
        let_go()
        await setup.until(lambda: setup.heard.layers == 3 and setup.heard.state == "idle")
    assert all(map(setup.is_whole, (big, small, third)))
    order = dict.fromkeys(key for key, extent in setup.near.asked if extent != FIRST)
    assert list(order) == [big.key, third.key, small.key]


async def test_requests_are_few_small_and_within_a_page(
    mock_clock: MockClock, setup: Setup, big: Sample
) -> None:
    let_go = setup.near.hold(big)
    async with setup.filling("all"):
        await setup.until(lambda: setup.near.reading == REQUESTS_AT_ONCE)
        for _ in range(10):
            setup.clock.jump(1)
            await wait_all_tasks_blocked()
        assert setup.near.reading == REQUESTS_AT_ONCE
        let_go()
        await setup.until(lambda: setup.heard.layers == 2)
    asked = [extent for key, extent in setup.near.asked if key == big.key]
    assert max(extent.length for extent in asked) == PIECE_CHUNKS * CHUNK_BYTES
    assert all(one.offset // PAGE_BYTES == (one.end - 1) // PAGE_BYTES for one in asked)
    assert sum(extent.length for extent in asked) == len(big.payload)


async def test_no_request_begins_while_a_read_waits_nor_soon_after(
    mock_clock: MockClock, setup: Setup, big: Sample, small: Sample
) -> None:
    big_goes, small_goes = setup.near.hold(big), setup.near.hold(small)
    async with setup.filling("all") as fill, trio.open_nursery() as nursery:
        await setup.until(lambda: setup.near.reading == REQUESTS_AT_ONCE)
        nursery.start_soon(fill.read, small.indexed, FIRST)
        await wait_all_tasks_blocked()
        before = list(setup.near.asked)
        assert before[-1] == (small.key, FIRST)  # at once, though the fill's requests hang
        big_goes()
        await setup.until(lambda: len(setup.near.answered) == REQUESTS_AT_ONCE)
        for _ in range(100):  # the fill has rested by then, and the node's clock goes on
            setup.clock.jump(1)
            await wait_all_tasks_blocked()
        assert setup.near.asked == before
        small_goes()
        await wait_all_tasks_blocked()
        setup.clock.jump(QUIET_S * 0.9)
        await wait_all_tasks_blocked()
        assert setup.near.asked == before
        await setup.until(lambda: setup.heard.layers == 2)
    assert len(setup.near.asked) > len(before)


async def test_no_request_begins_while_a_read_of_another_server_waits(
    mock_clock: MockClock, setup: Setup, big: Sample, small: Sample
) -> None:
    big_goes = setup.near.hold(big)
    async with setup.filling("all"):
        await setup.until(lambda: setup.near.reading == REQUESTS_AT_ONCE)
        with Foreground.open(setup.disk.layout) as others, others.waiting():
            big_goes()
            await setup.until(lambda: len(setup.near.answered) == REQUESTS_AT_ONCE)
            for _ in range(100):
                setup.clock.jump(1)
                await wait_all_tasks_blocked()
            assert len(setup.near.asked) == REQUESTS_AT_ONCE
        await setup.until(lambda: setup.heard.layers == 2)


async def test_without_a_place_for_the_node_s_lock_a_server_sees_its_own_reads(
    mock_clock: MockClock, setup: Setup, big: Sample, small: Sample
) -> None:
    (setup.disk.layout.run / "reading").mkdir()
    small_goes = setup.near.hold(small)
    with capture_logs() as lines:
        async with setup.filling("all") as fill, trio.open_nursery() as nursery:
            nursery.start_soon(fill.read, small.indexed, FIRST)
            await setup.until(lambda: (small.key, FIRST) in setup.near.asked)
            begun = len(setup.near.asked)
            setup.clock.jump(1)
            await wait_all_tasks_blocked()
            assert len(setup.near.asked) == begun
            small_goes()
            await setup.until(lambda: setup.heard.layers == 2)
    warned = [line["event"] for line in lines if line["log_level"] == "warning"]
    assert warned == ["reads of other servers are not seen"]


async def test_a_lock_that_the_kernel_refuses_fails_no_read_and_stops_no_fill(
    mock_clock: MockClock, setup: Setup, small: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, refused = fcntl.flock, list[int]()

    def refuses(fd: int, operation: int) -> None:
        if operation & fcntl.LOCK_SH:
            refused.append(fd)
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", refuses)
    async with setup.filling() as fill:
        assert await fill.read(small.indexed, FIRST) == small.bytes_of(FIRST)
        await setup.until(lambda: setup.heard.layers == 1)
    assert refused


async def test_a_read_of_what_is_on_its_way_asks_no_second_time(
    mock_clock: MockClock, setup: Setup, big: Sample
) -> None:
    let_go = setup.near.hold(big)
    found: list[Payload] = []

    async def read(fill: BackgroundFill) -> None:
        found.append(await fill.read(big.indexed, FIRST))

    async with setup.filling("all") as fill, trio.open_nursery() as nursery:
        await setup.until(lambda: setup.near.reading == REQUESTS_AT_ONCE)
        nursery.start_soon(read, fill)
        await wait_all_tasks_blocked()
        assert setup.near.reading == REQUESTS_AT_ONCE
        let_go()
        await setup.until(lambda: setup.heard.layers == 2)
    assert found == [big.bytes_of(FIRST)]
    assert sum(extent.length for key, extent in setup.near.asked if key == big.key) == len(
        big.payload
    )


async def test_what_the_content_cache_does_not_have_comes_from_the_registry(
    mock_clock: MockClock, setup: Setup, big: Sample, small: Sample
) -> None:
    setup.near.has_nothing, setup.source.stored = True, False
    async with setup.filling("all"):
        await setup.until(lambda: setup.heard.layers == 2)
    assert setup.source.downloads == [big.key, small.key]
    assert setup.heard.brought == len(big.payload) + len(small.payload)


async def test_a_layer_of_which_pages_are_gone_comes_from_the_registry(
    mock_clock: MockClock, setup: Setup, big: Sample
) -> None:
    setup.near.has_nothing = True
    async with setup.filling("all"):
        await setup.until(lambda: setup.heard.layers == 2)
    assert setup.source.downloads[0] == big.key
    asked = [extent for key, extent in setup.near.asked if key == big.key]
    assert len(asked) <= 2 * REQUESTS_AT_ONCE


async def test_a_layer_that_another_node_brings_is_taken_from_the_content_cache(
    mock_clock: MockClock, setup: Setup, big: Sample
) -> None:
    setup.near.lost = {big.key}
    setup.source.fails = [AskAgain() for _ in range(5)]
    with capture_logs() as lines:
        async with setup.filling("all"):
            await setup.until(lambda: len(setup.source.fails) == 2)
            setup.near.lost.clear()
            await setup.until(lambda: setup.heard.layers == 2)
    assert setup.is_whole(big)
    assert len(setup.source.downloads) in (3, 4), "one may have been under way"
    assert [line for line in lines if line["log_level"] == "warning"] == []


async def test_without_a_content_cache_layers_come_from_the_registry(
    mock_clock: MockClock, setup: Setup, small: Sample
) -> None:
    setup.source.content_cache = None
    async with setup.filling() as fill:
        await fill.read(small.indexed, FIRST)
        await setup.until(lambda: setup.heard.layers == 1)
    assert setup.source.downloads == [small.key]


async def test_a_content_cache_that_is_away_is_waited_for_with_one_warning(
    mock_clock: MockClock, setup: Setup, big: Sample
) -> None:
    setup.near.has_nothing = setup.source.away = True
    with capture_logs() as lines:
        async with setup.filling() as fill:
            setup.disk.write(big.indexed, range(1), big.bytes_of(FIRST))
            await fill.read(big.indexed, FIRST)
            for probes, wait_s in enumerate([5, 10, 15, 15, 15], start=1):
                await setup.until(lambda probes=probes: setup.source.probes == probes)  # type: ignore[misc]
                await wait_all_tasks_blocked()
                asked = len(setup.near.asked)
                setup.clock.jump(wait_s * 0.9)
                await wait_all_tasks_blocked()
                assert (setup.source.probes, len(setup.near.asked)) == (probes, asked)
                assert setup.heard.state == "waiting"
            setup.near.has_nothing = setup.source.away = False
            await setup.until(lambda: setup.heard.layers == 1)
    assert setup.source.downloads == []
    assert setup.is_whole(big)
    events = [line["event"] for line in lines if line["event"].startswith("background fill")]
    assert events == ["background fill waits", "background fill goes on"]


async def test_a_layer_touched_while_another_waits_is_filled_at_once(
    mock_clock: MockClock, setup: Setup, big: Sample, small: Sample
) -> None:
    setup.near.lost = {big.key}
    setup.source.fails = [errors.RegistryUnavailable("busy")]
    with capture_logs() as lines:
        async with setup.filling() as fill:
            setup.disk.write(big.indexed, range(1), big.bytes_of(FIRST))
            await fill.read(big.indexed, FIRST)
            await setup.until(lambda: setup.heard.state == "waiting")
            await fill.read(small.indexed, FIRST)
            setup.clock.jump(QUIET_S)
            await setup.until(lambda: setup.heard.layers == 1, step_s=0)
            assert setup.is_whole(small)
            await setup.until(lambda: setup.heard.state == "waiting", step_s=0)
            assert len(setup.source.downloads) == 1
            await setup.until(lambda: setup.heard.layers == 2 and setup.heard.state == "idle")
    assert setup.is_whole(big)
    events = [line["event"] for line in lines if line["event"].startswith("background fill")]
    assert events == ["background fill waits", "background fill goes on"]


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (errors.RegistryUnavailable("busy"), True),
        (errors.DiskFull("full"), True),
        (errors.NodeFault("EROFS"), True),
        (errors.AccessDenied("no"), False),
        (errors.CorruptImage("wrong"), False),
        (OSError(5, "Input/output error"), True),
        (ValueError("a bug"), False),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_what_may_pass_is_tried_again_and_no_error_ends_the_fill(
    error: Exception, again: bool, mock_clock: MockClock, setup: Setup, big: Sample, small: Sample
) -> None:
    setup.source.content_cache = None
    setup.source.fails = [error]
    with capture_logs() as lines:
        async with setup.filling("all"):
            await setup.until(lambda: setup.heard.layers == (2 if again else 1))
            await setup.until(lambda: setup.heard.state == "idle")
    assert setup.source.downloads.count(big.key) == (2 if again else 1)
    assert setup.is_whole(small)
    warned = [line for line in lines if line["log_level"] in ("warning", "error")]
    assert len(warned) == 1
    assert warned[0]["cache_key"] == big.key


async def test_a_disk_that_cannot_say_what_room_it_has_is_asked_again(
    mock_clock: MockClock, setup: Setup, big: Sample
) -> None:
    setup.fails = [OSError(5, "Input/output error")]
    with capture_logs() as lines:
        async with setup.filling("all"):
            await setup.until(lambda: setup.heard.state == "idle")
    assert setup.is_whole(big)
    (warned,) = (line for line in lines if line["log_level"] in ("warning", "error"))
    assert (warned["event"], warned["cache_key"]) == ("background fill waits", big.key)


async def test_no_more_is_taken_than_there_is_room_for(
    mock_clock: MockClock, setup: Setup, big: Sample
) -> None:
    setup.room_bytes = 10 * PIECE_CHUNKS * CHUNK_BYTES
    with capture_logs() as lines:
        async with setup.filling() as fill:
            await fill.read(big.indexed, FIRST)
            await setup.until(lambda: setup.heard.state == "no_room")
            assert 0 < setup.heard.brought <= 10 * PIECE_CHUNKS * CHUNK_BYTES
            await fill.read(big.indexed, Extent(len(big.payload) - 1, 1))
            setup.room_bytes = PLENTY_BYTES
            await setup.until(lambda: setup.heard.layers == 1)
    assert setup.is_whole(big)
    (warned,) = (line for line in lines if line["log_level"] == "warning")
    assert warned["event"] == "background fill waits"
    assert "--max-bytes" in warned["error"]
    assert setup.source.downloads == []


async def test_what_is_on_its_way_counts_as_taken(
    mock_clock: MockClock, setup: Setup, big: Sample
) -> None:
    """The disk cannot tell of it yet."""
    setup.room_bytes = 3 * PIECE_CHUNKS * CHUNK_BYTES
    let_go = setup.near.hold(big)
    async with setup.filling("all"):
        await setup.until(lambda: setup.near.reading == 3 and setup.looks == REQUESTS_AT_ONCE)
        let_go()
        await setup.until(lambda: setup.heard.state == "no_room")
    assert len(setup.near.asked) == 3


async def test_a_download_that_has_no_room_is_not_begun(
    mock_clock: MockClock, setup: Setup, small: Sample
) -> None:
    setup.source.content_cache = None
    setup.room_bytes = len(small.payload) - CHUNK_BYTES - 1
    async with setup.filling() as fill:
        await fill.read(small.indexed, FIRST)
        await setup.until(lambda: setup.heard.state == "no_room")
    assert setup.source.downloads == []


async def test_one_process_on_a_node_fills_at_a_time(
    mock_clock: MockClock, setup: Setup, small: Sample
) -> None:
    with alone(setup.disk.layout.fill_lock("background")) as other:
        assert other
        async with setup.filling() as fill:
            await fill.read(small.indexed, FIRST)
            for _ in range(3):
                setup.clock.jump(WATCH_S)
                await wait_all_tasks_blocked()
            assert (len(setup.near.asked), setup.heard.state) == (1, "waiting")


async def test_a_layer_that_a_pass_brings_already_is_left_to_it(
    mock_clock: MockClock, setup: Setup, small: Sample
) -> None:
    async with setup.filling() as fill:
        with alone(setup.disk.layout.fill_lock(small.key)) as passing:
            assert passing
            await fill.read(small.indexed, FIRST)
            for _ in range(3):
                setup.clock.jump(WATCH_S)
                await wait_all_tasks_blocked()
            assert (len(setup.near.asked), setup.heard.state) == (1, "waiting")
        await setup.until(lambda: setup.heard.layers == 1)
