"""Whose turn it is to bring a layer, as nodes that share one store find out; on trio's clock.

One module, though long: it is the table of what may become of a holder, on one set of nodes.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from clipfs.image.digest import Digest
from clipfs.image.model import Layer
from clipfs.layer.index import LayerIndex, PackedEntries, make_index
from clipfs.layer.job import PassProgress
from clipfs.tiers.content.store import ContentCacheDown, Progress
from clipfs.tiers.held_claims import Claimant
from clipfs.tiers.sharing import AWAY_S, STALLED_S, Sharing, Turn
from clipfs.tiers.tier import AskAgain, Extent, IndexedLayer
from tests.support.memory_store import LAPSES_S, MemoryStore

LAYER = Layer(
    digest=Digest(f"sha256:{1:064x}"),
    size=1000,
    media_type="application/vnd.oci.image.layer.v1.tar",
    diff_id=Digest(f"sha256:{2:064x}"),
)
KEY = LAYER.cache_key
INDEX = make_index(
    payload_bytes=0, diff_id=LAYER.diff_id or "", chunk_digests=b"", entries=PackedEntries()
)


@dataclass
class Node:
    """One node's share in it.

    told   of the progress of others
    looks  whether it would wait for a store that restarts, each time that it looked for the index
    """

    sharing: Sharing
    nursery: trio.Nursery
    told: list[int] = field(default_factory=list)
    looks: list[bool] = field(default_factory=list)

    def die(self) -> None:
        """Renew nothing any more, as a killed process."""
        self.nursery.cancel_scope.cancel()


def claimant(name: str, registry: str = "registry.test") -> Claimant:
    node, _, process = name.partition(".")
    return Claimant(node=node, process=process, registry=registry)


def named(name: str) -> str:
    """As claims name who holds them."""
    return claimant(name).holder


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@asynccontextmanager
async def node(
    store: MemoryStore, name: str, registry: str = "registry.test"
) -> AsyncIterator[Node]:
    """name  of the node, a dot, and its process"""

    async def look(layer: Layer, dear: bool) -> LayerIndex | None:
        looks.append(dear)
        with suppress(ContentCacheDown):
            return INDEX if await store.get(layer.cache_key) is not None else None
        return None

    async with trio.open_nursery() as nursery:
        told: list[int] = []
        looks: list[bool] = []
        sharing = Sharing(
            store,
            Claimant(
                node=name.partition(".")[0], process=name.partition(".")[2], registry=registry
            ),
            nursery,
            look=look,
            has=no_bytes,
            on_progress=lambda _, progress: told.append(progress.downloaded_bytes),
        )
        yield Node(sharing, nursery, told, looks)
        nursery.cancel_scope.cancel()


def at(downloaded: int) -> PassProgress:
    return PassProgress(downloaded_bytes=downloaded, payload_bytes=0)


async def no_bytes(layer: IndexedLayer, extent: Extent) -> bool:
    return False


async def asks(one: Node, for_s: int) -> Turn:
    """Whose turn the node finds it to be that waits for so long."""
    for _ in range(for_s):
        turn = await one.sharing.turn(LAYER)
        if turn is not Turn.OTHERS:
            break
        await trio.sleep(1)
    return turn


async def had(one: Node, bring: Callable[[], Awaitable[None]]) -> LayerIndex:
    """The index, brought by this node or by another one."""

    async def first_pass(layer: Layer) -> LayerIndex:
        await bring()
        return INDEX

    index, _ = await one.sharing.index_of(LAYER, first_pass, passes=trio.CapacityLimiter(1))
    return index


async def test_of_ten_nodes_one_brings_the_layer(
    store: MemoryStore, autojump_clock: MockClock
) -> None:
    """And the others have its index within moments."""
    nodes = 10
    brought: list[float] = []
    there: list[float] = []

    async def run(number: int) -> None:
        async with node(store, f"node-{number}.1") as one:

            async def bring(one: Node = one) -> None:
                for done in range(20):
                    await trio.sleep(10)
                    one.sharing.held.progressed(LAYER, at(done))
                await store.put(KEY, b"index")
                brought.append(trio.current_time())

            assert await had(one, bring) == INDEX
            there.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        for number in range(nodes):
            nursery.start_soon(run, number)
    assert len(brought) == 1
    assert len(there) == nodes
    assert max(there) <= brought[0] + 4.5  # the longest pause
    assert len(store.asked) < 3 * 200 * nodes  # three questions a second


async def test_who_waits_for_a_short_pass_waits_little_longer(
    store: MemoryStore, autojump_clock: MockClock
) -> None:
    async with node(store, "holder.1") as holder, node(store, "other.1") as other:
        assert await holder.sharing.turn(LAYER) is Turn.OURS
        begin = trio.current_time()

        async def bring() -> None:
            raise AssertionError("it is the holder's turn")

        async def stored() -> None:
            await trio.sleep(0.5)
            await store.put(KEY, b"index")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stored)
            await had(other, bring)
        assert trio.current_time() - begin <= 0.5 + 0.15


async def test_only_who_waits_for_another_node_waits_for_a_store_that_restarts(
    store: MemoryStore, autojump_clock: MockClock
) -> None:
    async with node(store, "holder.1") as holder, node(store, "other.1") as other:

        async def bring() -> None:
            await trio.sleep(3)
            await store.put(KEY, b"index")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(had, holder, bring)
            await trio.sleep(0.01)
            nursery.start_soon(had, other, bring)
    assert holder.looks == [False]
    assert {*other.looks} == {True}


async def test_the_holders_progress_is_seen_by_those_who_wait(
    store: MemoryStore, autojump_clock: MockClock
) -> None:
    async with node(store, "holder.1") as holder, node(store, "other.1") as other:
        assert await holder.sharing.turn(LAYER) is Turn.OURS
        with capture_logs() as lines:
            for share in (100, 500, 900):
                holder.sharing.held.progressed(LAYER, at(share))
                await trio.sleep(5)
                assert await other.sharing.turn(LAYER) is Turn.OTHERS
    assert other.told == [100, 500, 900]
    waits = [line for line in lines if line["event"].startswith("another node brings")]
    assert [(line["cache_key"], line["holder"]) for line in waits] == [(KEY, named("holder.1"))]


async def test_a_holder_keeps_its_claim_for_as_long_as_it_takes_and_gives_it_back(
    store: MemoryStore, autojump_clock: MockClock
) -> None:
    async with node(store, "holder.1") as holder, node(store, "other.1") as other:
        assert await holder.sharing.turn(LAYER) is Turn.OURS
        await trio.sleep(10 * LAPSES_S)
        assert await holder.sharing.turn(LAYER) is Turn.OURS
        assert await other.sharing.turn(LAYER) is Turn.OTHERS
        await holder.sharing.held.release([KEY])
        assert await other.sharing.turn(LAYER) is Turn.OURS
        await trio.sleep(LAPSES_S)
        assert store.holder_of(KEY) == named("other.1")


async def test_a_dead_holder_is_replaced_by_one(
    store: MemoryStore, autojump_clock: MockClock
) -> None:
    brought: list[str] = []
    async with node(store, "dead.1") as dead:
        assert await dead.sharing.turn(LAYER) is Turn.OURS
        dead.die()

    async def run(name: str) -> None:
        async with node(store, name) as one:

            async def bring() -> None:
                brought.append(name)
                await trio.sleep(20)
                await store.put(KEY, b"index")

            await had(one, bring)

    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(9):
            nursery.start_soon(run, f"node-{number}.1")
    assert len(brought) == 1
    assert trio.current_time() - begin < LAPSES_S + 20 + 8


async def test_a_process_goes_on_with_the_claim_of_its_nodes_dead_one_at_once(
    store: MemoryStore, autojump_clock: MockClock
) -> None:
    async with node(store, "A.dead") as dead:
        assert await dead.sharing.turn(LAYER) is Turn.OURS
    async with node(store, "AB.1") as other, node(store, "A.next") as following:
        assert await other.sharing.turn(LAYER) is Turn.OTHERS
        assert await following.sharing.turn(LAYER) is Turn.OURS
        await trio.sleep(2 * LAPSES_S)
        assert await other.sharing.turn(LAYER) is Turn.OTHERS
        await following.sharing.held.release([KEY])
        assert await other.sharing.turn(LAYER) is Turn.OURS


async def test_who_stores_a_layer_goes_on_with_the_claim_of_its_node_whichever_process_made_it(
    store: MemoryStore, autojump_clock: MockClock
) -> None:
    async with node(store, "A.1") as first:
        assert await first.sharing.turn(LAYER) is Turn.OURS
    async with node(store, "A.2") as following, node(store, "B.1") as other:
        following.sharing.held.hold(LAYER)
        await trio.sleep(2 * LAPSES_S)
        assert store.holder_of(KEY) == named("A.1")
        assert await other.sharing.turn(LAYER) is Turn.OTHERS
        await following.sharing.held.release([KEY])
        assert await other.sharing.turn(LAYER) is Turn.OURS


async def test_a_holder_that_stands_still_is_waited_for_no_more(
    store: MemoryStore, autojump_clock: MockClock
) -> None:
    async with node(store, "holder.1") as holder, node(store, "other.1") as other:
        assert await holder.sharing.turn(LAYER) is Turn.OURS
        for share in range(5):  # slow is not still
            holder.sharing.held.progressed(LAYER, at(share))
            assert await asks(other, STALLED_S - 5) is Turn.OTHERS
        with capture_logs() as lines:
            assert await asks(other, STALLED_S + 5) is Turn.OURS
    assert [line["log_level"] for line in lines] == ["warning"]
    assert "stands still" in lines[0]["event"]


@pytest.mark.parametrize("brought_by", ["another node", "another process of the node"])
async def test_who_brings_it_from_another_registry_is_not_waited_for(
    brought_by: str, store: MemoryStore, autojump_clock: MockClock
) -> None:
    """He may be slow, and is no proof; but those of one registry go on sharing."""
    own = "A.2" if brought_by == "another process of the node" else "C.1"
    async with (
        node(store, "A.1", "slow.test") as slow,
        node(store, own) as first,
        node(store, "B.1") as second,
    ):
        assert await slow.sharing.turn(LAYER) is Turn.OURS
        assert await first.sharing.turn(LAYER) is Turn.OURS
        assert await second.sharing.turn(LAYER) is Turn.OTHERS
        await trio.sleep(2 * LAPSES_S)
        assert store.holder_of(KEY) == claimant("A.1", "slow.test").holder
        assert await second.sharing.turn(LAYER) is Turn.OTHERS
        await first.sharing.held.release([KEY])
        assert await second.sharing.turn(LAYER) is Turn.OURS


async def test_a_claim_that_names_no_registry_is_waited_for(
    store: MemoryStore, autojump_clock: MockClock
) -> None:
    """As older builds make it."""
    await store.claim(KEY, "A.1", Progress())
    async with node(store, "B.1") as one:
        assert await one.sharing.turn(LAYER) is Turn.OTHERS


@pytest.mark.parametrize("dies", [True, False])
async def test_of_those_who_lose_patience_with_a_holder_one_brings_the_layer(
    dies: bool, store: MemoryStore, autojump_clock: MockClock
) -> None:
    """And the others wait for that one, or are one who follows it."""
    brought: list[str] = []

    async def run(name: str) -> None:
        async with node(store, name) as one:

            async def bring() -> None:
                brought.append(name)
                if dies and len(brought) == 1:
                    one.die()
                for done in range(5 * STALLED_S):
                    await trio.sleep(1)
                    one.sharing.held.progressed(LAYER, at(done))
                await store.put(KEY, b"index")

            await had(one, bring)

    async with node(store, "still.1") as still:
        assert await still.sharing.turn(LAYER) is Turn.OURS
        async with trio.open_nursery() as nursery:
            for number in range(9):
                nursery.start_soon(run, f"node-{number}.1")
        assert store.holder_of(KEY) == named("still.1")
    assert len(brought) == (2 if dies else 1)


async def test_who_waits_for_a_second_holder_that_stands_still_too_waits_no_more(
    store: MemoryStore, autojump_clock: MockClock
) -> None:
    async with (
        node(store, "first.1") as first,
        node(store, "second.1") as second,
        node(store, "other.1") as other,
    ):
        assert await first.sharing.turn(LAYER) is Turn.OURS
        assert await asks(second, STALLED_S + 5) is Turn.OURS
        begin = trio.current_time()
        assert await asks(other, 3 * STALLED_S) is Turn.NOBODYS
        assert trio.current_time() - begin >= 2 * STALLED_S
        assert await other.sharing.turn(LAYER) is Turn.NOBODYS


async def test_a_second_holder_is_waited_for_until_its_next_process_has_stored_the_layer(
    store: MemoryStore, autojump_clock: MockClock
) -> None:
    async with node(store, "still.1") as still, node(store, "other.1") as other:
        assert await still.sharing.turn(LAYER) is Turn.OURS
        async with node(store, "second.1") as second:
            assert await asks(other, STALLED_S - 2) is Turn.OTHERS
            assert await asks(second, STALLED_S + 5) is Turn.OURS
            assert await asks(other, 2) is Turn.OTHERS
        async with node(store, "second.2") as following:
            following.sharing.held.hold(LAYER)
            for _ in range(2 * STALLED_S):
                following.sharing.held.stored(1)
                assert await asks(other, 1) is Turn.OTHERS
            await following.sharing.held.release([KEY])
            assert await other.sharing.turn(LAYER) is Turn.OURS


async def test_a_holder_that_stores_other_layers_first_does_not_stand_still(
    store: MemoryStore, autojump_clock: MockClock
) -> None:
    async with node(store, "holder.1") as holder, node(store, "other.1") as other:
        holder.sharing.held.hold(LAYER)
        await trio.sleep(1)
        for _ in range(5):
            holder.sharing.held.stored(8 << 20)
            assert await asks(other, STALLED_S - 5) is Turn.OTHERS


@pytest.mark.parametrize("lack", ["down", "no claims", "read-only"])
async def test_where_nobody_keeps_claims_all_bring_it_and_nobody_waits_or_warns(
    lack: str, store: MemoryStore, autojump_clock: MockClock
) -> None:
    store.is_down = lack == "down"
    store.keeps_claims = lack != "no claims"
    store.may_store = lack != "read-only"
    begin = trio.current_time()
    with capture_logs() as lines:
        async with node(store, "one.1") as one, node(store, "other.1") as other:
            for _ in range(2):
                assert await one.sharing.turn(LAYER) is Turn.NOBODYS
                assert await other.sharing.turn(LAYER) is Turn.NOBODYS
            await one.sharing.held.release_all()
    assert trio.current_time() == begin
    assert [line for line in lines if line["log_level"] != "debug"] == []


async def test_a_store_that_goes_away_while_somebody_waits_ends_the_wait(
    store: MemoryStore, autojump_clock: MockClock
) -> None:
    async with node(store, "holder.1") as holder, node(store, "other.1") as other:
        assert await holder.sharing.turn(LAYER) is Turn.OURS
        assert await other.sharing.turn(LAYER) is Turn.OTHERS
        store.is_down = True
        brought: list[float] = []

        async def bring() -> None:
            brought.append(trio.current_time())

        begin = trio.current_time()

        await had(other, bring)
        assert brought[0] - begin <= AWAY_S + 2


async def test_a_store_that_restarts_while_somebody_waits_does_not(
    store: MemoryStore, autojump_clock: MockClock
) -> None:
    async with node(store, "holder.1") as holder, node(store, "other.1") as other:
        assert await holder.sharing.turn(LAYER) is Turn.OURS
        for _ in range(3):
            assert await other.sharing.turn(LAYER) is Turn.OTHERS
            store.is_down = True
            assert await other.sharing.turn(LAYER) is Turn.OTHERS
            await trio.sleep(AWAY_S - 1)
            assert await other.sharing.turn(LAYER) is Turn.OTHERS
            store.is_down = False


async def test_what_is_held_is_given_back_at_the_end_also_when_cancelled(
    store: MemoryStore, autojump_clock: MockClock
) -> None:
    async with node(store, "holder.1") as holder:
        assert await holder.sharing.turn(LAYER) is Turn.OURS
        with trio.CancelScope() as scope:
            scope.cancel()
            await holder.sharing.held.release_all()
    assert store.holder_of(KEY) is None


async def test_a_store_that_hangs_holds_up_no_release(
    store: MemoryStore, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node(store, "holder.1") as holder:
        assert await holder.sharing.turn(LAYER) is Turn.OURS

        async def hang(asked: str) -> None:
            await trio.sleep_forever()

        monkeypatch.setattr(MemoryStore, "_answer", lambda _, asked: hang(asked))
        begin = trio.current_time()
        await holder.sharing.held.release([KEY])
        assert trio.current_time() - begin <= 1


async def test_pages_are_waited_for_as_long_as_their_holder_stores_some(
    store: MemoryStore, autojump_clock: MockClock
) -> None:
    """Of whichever layer. Then one node of those that wait downloads, and not the others."""
    indexed = IndexedLayer(layer=LAYER, index=INDEX)

    async def downloads(one: Node) -> bool:
        try:
            await one.sharing.check_turn(indexed, Extent(0, 1))
        except AskAgain:
            return False
        return True

    async with AsyncExitStack() as stack:
        holder = await stack.enter_async_context(node(store, "holder.1"))
        others = [await stack.enter_async_context(node(store, f"{n}.1")) for n in range(9)]
        assert await holder.sharing.turn(LAYER) is Turn.OURS
        for _ in range(5 * STALLED_S):
            holder.sharing.held.stored(8 << 20)
            assert not any([await downloads(one) for one in others])
            await trio.sleep(1)
        went: set[int] = set()
        for second in range(2 * STALLED_S):
            for number, one in enumerate(others):
                if number not in went and await downloads(one):
                    went.add(number)
                if number in went:
                    one.sharing.held.progressed(LAYER, at(second))
            await trio.sleep(1)
        assert len(went) == 1


async def test_who_waits_with_all_passes_busy_has_the_index_all_the_same(
    store: MemoryStore, autojump_clock: MockClock
) -> None:
    async with node(store, "holder.1") as holder, node(store, "other.1") as other:
        assert await holder.sharing.turn(LAYER) is Turn.OURS
        passes = trio.CapacityLimiter(1)
        got: list[LayerIndex] = []

        async def wait() -> None:
            async def first_pass(layer: Layer) -> LayerIndex:
                raise AssertionError("it is the holder's turn")

            got.append((await other.sharing.index_of(LAYER, first_pass, passes=passes))[0])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(0.01)
            async with passes:
                await trio.sleep(10)
                await store.put(KEY, b"index")
                await trio.sleep(10)
                assert got == [INDEX]


async def test_a_layer_that_is_whole_here_is_claimed_until_it_is_stored(
    store: MemoryStore, autojump_clock: MockClock
) -> None:
    async with node(store, "holder.1") as holder, node(store, "other.1") as other:
        holder.sharing.held.hold(LAYER)
        await trio.sleep(2 * LAPSES_S)
        assert await other.sharing.turn(LAYER) is Turn.OTHERS
        assert other.told == [LAYER.size]
        await holder.sharing.held.release([KEY])
        assert await other.sharing.turn(LAYER) is Turn.OURS
