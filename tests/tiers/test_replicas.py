"""Several replicas as one store: copies, claims, failures, restarts; on trio's clock.

One module, though long: copies, claims and waiting share the small caches and their faults.
"""

import itertools
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from clipfs.tiers.content.addresses import AGAIN_S
from clipfs.tiers.content.patience import TOTAL_S, WORTH_S
from clipfs.tiers.content.reading import RESTART_S
from clipfs.tiers.content.rendezvous import in_order
from clipfs.tiers.content.replicas import Replicas
from clipfs.tiers.content.store import (
    MAX_OBJECT_BYTES,
    ContentCacheDown,
    ContentRefused,
    Progress,
)
from tests.support.content import TOKEN, key_of
from tests.support.hostile import hostile_server
from tests.support.small_cache import IDS, SmallCache, etag_of, small_cache, small_caches
from tests.support.tier_stack import opened_replicas

KEY = key_of(7)
TOC = key_of(7, None)
FIRST, SECOND, THIRD = in_order(KEY, IDS)
PROGRESS = Progress(downloaded_bytes=1, payload_bytes=2, total_bytes=3)


def holders(caches: dict[str, SmallCache], key: str = KEY) -> list[str]:
    return [name for name, one in caches.items() if key in one.objects]


async def got(replicas: Replicas, key: str = KEY, *, dear: bool = False) -> bytes | None:
    found = await replicas.get(key, dear=dear)
    return None if found is None else bytes(found.data)


async def hangs(cache: SmallCache) -> None:
    cache.pause_s = cache.health_s = math.inf


async def hangs_but_is_healthy(cache: SmallCache) -> None:
    cache.pause_s = math.inf


async def is_slow(cache: SmallCache) -> None:
    cache.pause_s = cache.health_s = 0.3


async def refuses(cache: SmallCache) -> None:
    await cache.stop()


async def test_an_object_has_two_copies_where_its_key_belongs(three: dict[str, SmallCache]) -> None:
    async with opened_replicas(*three.values()) as replicas:
        await replicas.put(KEY, b"page")
    assert sorted(holders(three)) == sorted([FIRST, SECOND])


async def test_every_node_finds_it_whatever_the_order_of_the_urls(
    three: dict[str, SmallCache],
) -> None:
    async with opened_replicas(*three.values()) as replicas:
        await replicas.put(KEY, b"page")
    for order in itertools.permutations(three.values()):
        async with opened_replicas(*order) as replicas:
            assert await got(replicas) == b"page"
    assert three[SECOND].asked_for("GET /v1/objects") == 0
    assert three[THIRD].asked_for("/v1/objects") == 0


async def test_part_of_an_object_comes_with_its_etag(three: dict[str, SmallCache]) -> None:
    async with opened_replicas(*three.values()) as replicas:
        await replicas.put(KEY, b"a page")
        found = await replicas.get(KEY, part=range(2, 6))
    assert found is not None
    assert (bytes(found.data), found.etag) == (b"page", etag_of(b"a page"))


@pytest.mark.parametrize("lost", ["the object", "the replica"])
async def test_what_the_first_replica_has_lost_comes_from_the_second(
    lost: str, three: dict[str, SmallCache]
) -> None:
    async with opened_replicas(*three.values()) as replicas:
        await replicas.put(KEY, b"page")
        if lost == "the object":
            three[FIRST].objects.clear()
        else:
            await three[FIRST].stop()
        for _ in range(3):
            assert await got(replicas) == b"page"
    assert three[THIRD].asked_for("/v1/objects") == 0


async def test_what_neither_has_is_a_miss(three: dict[str, SmallCache]) -> None:
    async with opened_replicas(*three.values()) as replicas:
        assert await got(replicas) is None
        await three[FIRST].stop()
        assert await got(replicas) is None
        await three[SECOND].stop()
        with pytest.raises(ContentCacheDown):
            await got(replicas)


async def test_a_copy_that_cannot_be_stored_is_a_warning_once_an_outage(
    three: dict[str, SmallCache],
) -> None:
    async with opened_replicas(*three.values()) as replicas:
        assert await got(replicas) is None
        await three[FIRST].stop()
        with capture_logs() as lines:
            for _ in range(3):
                await replicas.put(KEY, b"page")
        assert holders(three) == [SECOND]
        told = [line["event"] for line in lines if line["log_level"] == "warning"]
        assert told == ["content cache unavailable", "object has one copy less"]
        await three[SECOND].stop()
        with pytest.raises(ContentCacheDown):
            await replicas.put(KEY, b"page")


async def test_an_object_is_replaced_by_who_has_seen_it_in_both_copies(
    three: dict[str, SmallCache],
) -> None:
    async with opened_replicas(*three.values()) as replicas:
        await replicas.put(TOC, b"old")
        found = await replicas.get(TOC)
        assert found is not None
        await replicas.put(TOC, b"new", replaces=found.etag)
        assert [three[one].objects[TOC] for one in holders(three, TOC)] == [b"new", b"new"]
        with pytest.raises(ContentRefused):
            await replicas.put(TOC, b"newer", replaces=found.etag)
        with pytest.raises(ContentRefused):
            await replicas.put(TOC, b"newer")
        assert await got(replicas, TOC) == b"new"


async def test_a_replacement_goes_to_a_replica_that_has_lost_its_copy_too(
    three: dict[str, SmallCache],
) -> None:
    async with opened_replicas(*three.values()) as replicas:
        await replicas.put(TOC, b"old")
        three[in_order(TOC, IDS)[1]].objects.clear()
        await replicas.put(TOC, b"new", replaces=etag_of(b"old"))
    assert len(holders(three, TOC)) == 2


async def test_only_the_copy_that_is_wrong_is_deleted(three: dict[str, SmallCache]) -> None:
    async with opened_replicas(*three.values()) as replicas:
        await replicas.put(KEY, b"right")
        three[FIRST].objects[KEY] = b"wrong"
        assert await got(replicas) == b"wrong"
        await replicas.delete(KEY, etag=etag_of(b"wrong"))
        assert await got(replicas) == b"right"
        await replicas.delete(KEY, etag=etag_of(b"wrong"))
        assert holders(three) == [SECOND]


async def test_a_claim_is_one_holders_and_the_others_see_how_far_he_is(
    three: dict[str, SmallCache],
) -> None:
    async with opened_replicas(*three.values()) as mine, opened_replicas(*three.values()) as other:
        assert (await mine.claim(KEY, "me", Progress())).holder == "me"
        assert (await mine.claim(KEY, "me", PROGRESS)).holder == "me"
        seen = await other.claim(KEY, "you", Progress())
        assert (seen.holder, seen.progress) == ("me", PROGRESS)
        await other.release(KEY, "you")
        assert (await other.claim(KEY, "you", Progress())).holder == "me"
        await mine.release(KEY, "me")
        assert (await other.claim(KEY, "you", Progress())).holder == "you"
    assert [list(three[name].claims) for name in (FIRST, SECOND, THIRD)] == [[KEY], [KEY], []]


async def test_a_claim_made_while_the_first_replica_was_away_is_seen_once_it_is_back(
    three: dict[str, SmallCache],
) -> None:
    await three[FIRST].stop()
    async with opened_replicas(*three.values()) as mine:
        assert (await mine.claim(KEY, "me", Progress())).holder == "me"
        await three[FIRST].start()
        async with (
            opened_replicas(*three.values()) as other,
            opened_replicas(*three.values()) as third,
        ):
            assert (await other.claim(KEY, "you", Progress())).holder == "me"
            assert three[FIRST].asked_for(f"PUT /v1/claims/{KEY}") == 1  # granted, and given back
            assert not three[FIRST].claims
            assert (await third.claim(KEY, "third", Progress())).holder == "me"
    async with opened_replicas(*three.values()) as mine:
        assert (await mine.claim(KEY, "me", PROGRESS)).holder == "me"
        assert [list(three[name].claims) for name in (FIRST, SECOND)] == [[KEY], [KEY]]


async def test_a_claim_outlives_the_replica_that_granted_it_first(
    three: dict[str, SmallCache],
) -> None:
    async with opened_replicas(*three.values()) as mine, opened_replicas(*three.values()) as other:
        assert (await mine.claim(KEY, "me", Progress())).holder == "me"
        await three[FIRST].stop()
        assert (await other.claim(KEY, "you", Progress())).holder == "me"
        await mine.release(KEY, "me")
        assert (await other.claim(KEY, "you", Progress())).holder == "you"


async def test_a_claim_is_kept_by_the_next_replica_where_the_first_is_down(
    three: dict[str, SmallCache],
) -> None:
    async with opened_replicas(*three.values()) as mine, opened_replicas(*three.values()) as other:
        for replicas in (mine, other):
            assert await got(replicas) is None
        await three[FIRST].stop()
        assert (await mine.claim(KEY, "me", Progress())).holder == "me"
        assert (await other.claim(KEY, "you", Progress())).holder == "me"
        await three[SECOND].stop()
        assert (await mine.claim(KEY, "me", Progress())).holder == "me"
        await three[THIRD].stop()
        with pytest.raises(ContentCacheDown):
            await mine.claim(KEY, "me", Progress())


async def test_replicas_are_asked_for_their_ids_once_and_one_alone_is_not(
    three: dict[str, SmallCache],
) -> None:
    async with opened_replicas(three[FIRST]) as replicas:
        await got(replicas)
    assert three[FIRST].asked_for("/healthz") == 0
    async with opened_replicas(*three.values()) as replicas, trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(partial(got, replicas, key_of(number), dear=True))
    assert [one.asked_for("/healthz") for one in three.values()] == [1, 1, 1]


class Names(trio.abc.HostnameResolver):
    """Which addresses names have; asked: which were looked up; pause_s: before each answer."""

    def __init__(self, **addresses: Sequence[str]) -> None:
        self.addresses = addresses
        self.asked: list[str] = []
        self.pause_s: float = 0

    async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):  # type: ignore[no-untyped-def] # as trio's
        name = host.decode() if isinstance(host, bytes) else host
        self.asked.append(name)
        await trio.sleep(self.pause_s)
        if not self.addresses.get(name):
            raise OSError(f"no such name: {name}")
        return [
            (trio.socket.AF_INET, trio.socket.SOCK_STREAM, 6, "", (address, port))
            for address in self.addresses[name]
        ]

    async def getnameinfo(self, sockaddr, flags):  # type: ignore[no-untyped-def] # as trio's
        raise NotImplementedError


def called(**addresses: Sequence[str]) -> Names:
    names = Names(**addresses)
    trio.socket.set_custom_hostname_resolver(names)
    return names


async def test_a_name_with_several_addresses_is_several_replicas() -> None:
    called(content=["127.0.0.1", "127.0.0.2"])
    async with (
        small_cache("content-0") as one,
        small_cache("content-1", address="127.0.0.2", port=one.port) as other,
        Replicas.open([f"http://content:{one.port}"], token=TOKEN) as replicas,
    ):
        await replicas.put(KEY, b"page")
        assert one.objects == other.objects == {KEY: b"page"}


@pytest.mark.parametrize(
    ("id", "copies"),
    [
        pytest.param("content-0", 1, id="one replica with two addresses"),
        pytest.param(None, 2, id="two without ids"),
    ],
)
async def test_addresses_that_tell_the_same_id_are_one_replica(id: str | None, copies: int) -> None:
    called(content=["127.0.0.1", "127.0.0.2"])
    async with (
        small_cache(id) as one,
        small_cache(id, address="127.0.0.2", port=one.port) as other,
        Replicas.open([f"http://content:{one.port}"], token=TOKEN) as replicas,
    ):
        await replicas.put(KEY, b"page")
        assert len(one.objects) + len(other.objects) == copies


async def test_a_replica_that_comes_back_at_another_address_is_found(
    autojump_clock: MockClock,
) -> None:
    names = called(content=["127.0.0.1", "127.0.0.2"])
    async with AsyncExitStack() as stack:
        old = await stack.enter_async_context(small_cache(FIRST))
        port = old.port
        await stack.enter_async_context(small_cache(SECOND, address="127.0.0.2", port=port))
        url = f"http://content:{port}"
        replicas = await stack.enter_async_context(Replicas.open([url], token=TOKEN))
        await replicas.put(KEY, b"page")
        await old.stop()
        new = await stack.enter_async_context(small_cache(FIRST, address="127.0.0.3", port=port))
        new.objects = old.objects
        names.addresses["content"] = ["127.0.0.3", "127.0.0.2"]
        for _ in range(20):
            assert await got(replicas) == b"page"
            await trio.sleep(0.5)
        assert new.asked_for("GET /v1/objects") > 10
        assert len(names.asked) <= 4  # in ten seconds


async def test_what_one_replica_has_is_found_when_the_other_comes_back_empty_under_a_new_id(
    autojump_clock: MockClock,
) -> None:
    names = called(content=["127.0.0.1", "127.0.0.2"])
    async with AsyncExitStack() as stack:
        old = await stack.enter_async_context(small_cache(FIRST))
        port = old.port
        await stack.enter_async_context(small_cache(THIRD, address="127.0.0.2", port=port))
        url = f"http://content:{port}"
        replicas = await stack.enter_async_context(Replicas.open([url], token=TOKEN))
        await replicas.put(KEY, b"page")
        await old.stop()
        new = await stack.enter_async_context(small_cache(SECOND, address="127.0.0.3", port=port))
        names.addresses["content"] = ["127.0.0.3", "127.0.0.2"]
        begin = trio.current_time()
        for _ in range(20):
            assert await got(replicas, dear=True) == b"page"
            await trio.sleep(0.5)
        assert trio.current_time() - begin < 10 + RESTART_S, "nobody waits for who does not come"
        assert new.asked_for("GET /v1/objects") > 0
        await replicas.put(KEY, b"page")
        assert new.objects == {KEY: b"page"}


async def test_a_replica_that_is_added_gets_its_share_within_minutes(
    autojump_clock: MockClock,
) -> None:
    names = called(content=["127.0.0.1"])
    async with (
        small_cache("content-0") as one,
        small_cache("content-1", address="127.0.0.2", port=one.port) as added,
        Replicas.open([f"http://content:{one.port}"], token=TOKEN) as replicas,
    ):
        await replicas.put(TOC, b"index")
        names.addresses["content"] = ["127.0.0.1", "127.0.0.2"]
        for _ in range(3):
            await trio.sleep(AGAIN_S)
            assert await got(replicas, TOC) == b"index"
        await replicas.put(KEY, b"page")
        assert KEY in added.objects
        assert added.asked_for("/healthz") <= 3


async def test_a_replica_that_leaves_the_name_for_good_is_forgotten(
    autojump_clock: MockClock,
) -> None:
    names = called(content=["127.0.0.1", "127.0.0.2"])
    async with (
        small_cache("content-0") as one,
        small_cache("content-1", address="127.0.0.2", port=one.port) as gone,
        Replicas.open([f"http://content:{one.port}"], token=TOKEN) as replicas,
    ):
        await replicas.put(KEY, b"page")
        names.addresses["content"] = ["127.0.0.1"]
        for _ in range(4):
            await trio.sleep(AGAIN_S)
            assert await got(replicas) == b"page"
        await replicas.put(TOC, b"index")
        assert list(one.objects) == [KEY, TOC]
        assert list(gone.objects) == [KEY]


async def test_a_name_that_is_not_found_any_more_leaves_the_replicas_known() -> None:
    names = called(content=["127.0.0.1", "127.0.0.2"])
    async with (
        small_cache("content-0") as one,
        small_cache("content-1", address="127.0.0.2", port=one.port),
        Replicas.open([f"http://content:{one.port}"], token=TOKEN) as replicas,
    ):
        await replicas.put(KEY, b"page")
        names.addresses.clear()
        assert await got(replicas) == b"page"


async def test_a_name_server_that_hangs_holds_a_mount_up_by_less_than_a_second(
    autojump_clock: MockClock,
) -> None:
    called().pause_s = math.inf
    async with Replicas.open(["http://content:1"], token=TOKEN) as replicas:
        begin = trio.current_time()
        for number in range(40):
            with pytest.raises(ContentCacheDown):
                await got(replicas, key_of(number, None))
        assert trio.current_time() - begin <= 1


async def test_a_name_that_takes_its_time_costs_no_index(autojump_clock: MockClock) -> None:
    called(content=["127.0.0.1", "127.0.0.2"]).pause_s = 0.4
    async with (
        small_cache("content-0") as one,
        small_cache("content-1", address="127.0.0.2", port=one.port) as other,
        Replicas.open([f"http://content:{one.port}"], token=TOKEN) as replicas,
    ):
        one.objects[TOC] = other.objects[TOC] = b"index"
        assert await got(replicas, TOC) == b"index"


@pytest.mark.parametrize("way", [hangs, hangs_but_is_healthy, refuses])
async def test_one_replica_that_is_gone_costs_a_mount_no_index(
    way: Callable[[SmallCache], Awaitable[None]],
    three: dict[str, SmallCache],
    autojump_clock: MockClock,
) -> None:
    keys = [key_of(number, None) for number in range(40)]
    async with opened_replicas(*three.values()) as replicas:
        for key in keys:
            await replicas.put(key, b"index")
    await way(three[FIRST])
    async with opened_replicas(*three.values()) as replicas:
        begin = trio.current_time()
        assert [await got(replicas, key) for key in keys] == [b"index"] * 40
        assert trio.current_time() - begin <= 1
    assert three[FIRST].asked_for("GET /v1/objects") <= 1


async def test_a_claim_is_renewed_and_waited_for_though_look_ups_have_waited_long_enough(
    three: dict[str, SmallCache], autojump_clock: MockClock
) -> None:
    async with opened_replicas(*three.values()) as replicas:
        await replicas.claim(KEY, "me", Progress())
        await replicas.claim(key_of(8), "me", Progress())
        for one in three.values():
            one.claims[key_of(8)] = {"holder": "you", "progress": {}, "seconds_left": 9}
            one.pause_s = 0.3
        while True:
            try:
                await got(replicas)
            except ContentCacheDown:
                break
        for _ in range(100):
            await trio.sleep(1)
            assert (await replicas.claim(KEY, "me", PROGRESS)).holder == "me"
            assert (await replicas.claim(key_of(8), "me", Progress())).holder == "you"
        with pytest.raises(ContentCacheDown):
            await replicas.claim(TOC, "me", Progress())


async def test_a_hundred_tasks_share_replicas_that_come_and_go(
    three: dict[str, SmallCache], autojump_clock: MockClock
) -> None:
    async with opened_replicas(*three.values()) as replicas:
        keys = [key_of(number) for number in range(100)]
        for key in keys:
            await replicas.put(key, key.encode())

        async def read(key: str) -> None:
            for _ in range(20):
                assert await got(replicas, key, dear=True) == key.encode()
                await trio.sleep(0.1)

        async with trio.open_nursery() as nursery:
            for key in keys:
                nursery.start_soon(read, key)
            for one in three.values():
                await trio.sleep(0.3)
                await one.stop()
                await trio.sleep(0.2)
                await one.start()


async def test_a_replica_that_restarts_is_waited_for_where_a_miss_is_dear(
    autojump_clock: MockClock,
) -> None:
    async with small_cache() as cache, opened_replicas(cache) as replicas:
        await replicas.put(KEY, b"page")
        await cache.stop()
        results: list[bytes | None] = []

        async def read() -> None:
            results.append(await got(replicas, dear=True))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(read)
            await trio.sleep(RESTART_S - 1)
            await cache.start()
        assert results == [b"page"] * 20


async def test_a_reader_whom_one_replica_turned_away_asks_again_when_another_finds_it_up(
    three: dict[str, SmallCache], autojump_clock: MockClock
) -> None:
    results: list[bytes | None] = []
    async with opened_replicas(*three.values()) as replicas:
        await replicas.put(KEY, b"page")
        await three[FIRST].stop()
        assert await got(replicas) == b"page"
        await three[FIRST].start()  # the breaker does not know yet
        three[SECOND].pause_s = math.inf

        async def read() -> None:
            results.append(await got(replicas, dear=True))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(2)
            nursery.start_soon(read)
    assert results == [b"page"] * 2


async def test_a_replica_that_stays_away_is_waited_for_once(autojump_clock: MockClock) -> None:
    async with small_cache() as cache, opened_replicas(cache) as replicas:
        await replicas.put(KEY, b"page")
        await cache.stop()
        begin = trio.current_time()
        for _ in range(10):
            with pytest.raises(ContentCacheDown):
                await got(replicas, dear=True)
        assert RESTART_S <= trio.current_time() - begin < RESTART_S + 1


async def test_nobody_waits_for_a_restart_where_a_miss_is_cheap(autojump_clock: MockClock) -> None:
    async with small_cache() as cache, opened_replicas(cache) as replicas:
        await cache.stop()
        begin = trio.current_time()
        with pytest.raises(ContentCacheDown):
            await got(replicas)
        assert trio.current_time() == begin


async def test_a_replica_that_does_not_run_yet_is_waited_for_too(autojump_clock: MockClock) -> None:
    async with small_caches(*IDS[:2]) as two, opened_replicas(*two.values()) as replicas:
        for one in two.values():
            one.objects[KEY] = b"page"
            await one.stop()
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                assert await got(replicas, dear=True) == b"page"

            nursery.start_soon(read)
            await trio.sleep(2)
            for one in two.values():
                await one.start()


@pytest.mark.parametrize(
    ("mib_per_s", "lacks", "came", "longest_s"),
    [
        pytest.param(5, 0, 0, 1.5, id="too slow"),
        pytest.param(20, 0, 1, TOTAL_S + WORTH_S, id="as fast as a registry"),
        pytest.param(20, 1, 0, TOTAL_S + WORTH_S, id="as fast, and without its end"),
    ],
)
async def test_a_mount_is_held_up_by_a_body_for_as_long_as_it_comes_fast_and_not_for_ever(
    mib_per_s: int, lacks: int, came: int, longest_s: float, autojump_clock: MockClock
) -> None:
    piece = bytes(mib_per_s << 20 >> 4)

    async def comes_at_a_pace(stream: trio.SocketStream, _: bytes) -> None:
        await stream.send_all(b"HTTP/1.1 200 \r\nContent-Length: %d\r\n\r\n" % MAX_OBJECT_BYTES)
        sent = 0
        for _number in range(-(-MAX_OBJECT_BYTES // len(piece)) - lacks):
            await trio.sleep(1 / 16)
            await stream.send_all(piece[: MAX_OBJECT_BYTES - sent])
            sent += len(piece)
        await trio.sleep_forever()

    found = 0
    async with (
        hostile_server(comes_at_a_pace) as server,
        Replicas.open([server.url], token=TOKEN) as store,
    ):
        begin = trio.current_time()
        for number in range(10):
            with suppress(ContentCacheDown):
                found += await store.get(key_of(number, None)) is not None
        waited = trio.current_time() - begin
    assert server.requests
    assert (found, waited <= longest_s + 0.1) == (came, True)


WAYS = [hangs, hangs_but_is_healthy, is_slow, refuses]


@pytest.mark.parametrize("side_by_side", [True, False])
@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize("way", WAYS)
async def test_a_mount_of_many_layers_is_held_up_by_less_than_a_second(
    way: Callable[[SmallCache], Awaitable[None]],
    replicas: int,
    side_by_side: bool,
    autojump_clock: MockClock,
) -> None:
    async with small_caches(*IDS[:replicas]) as caches:
        for one in caches.values():
            await way(one)
        async with opened_replicas(*caches.values()) as store:
            begin = trio.current_time()

            async def look_up(number: int) -> None:
                with suppress(ContentCacheDown):
                    await store.get(key_of(number, None))
                with suppress(ContentCacheDown):
                    await store.claim(key_of(number, None), "me", Progress())

            async with trio.open_nursery() as nursery:
                for number in range(40):
                    if side_by_side:
                        nursery.start_soon(look_up, number)
                    else:
                        await look_up(number)
                        await trio.sleep(2)
            waited = trio.current_time() - begin - (0 if side_by_side else 80)
    assert waited <= 1
