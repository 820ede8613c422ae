"""A large layer in several ranges at once, through a proxy that is slow per connection and breaks.

The registry behind it is a real one; each test counts how often its fault was met.
"""

import random
import re
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from clipfs import errors
from clipfs.image.retry import RetryPolicy
from clipfs.layer.job import RANGES, Ranges
from tests.support.faulty_registry import (
    Fault,
    FaultyRegistry,
    Spoil,
    cut_short,
    on_downloads,
    on_probes,
    on_range_from,
    refused,
    relayed,
    silenced,
    without_ranges,
)
from tests.support.registry import RegistryServer
from tests.support.samples import Sample
from tests.support.web import Asked, Reply, WebServer, run_web
from tests.tiers.downloads import (
    EITHER,
    SIZE,
    asked_ranges,
    failed,
    mirrored_by,
    pulled,
    pushed,
)

SEGMENT = 1 << 18
SOME = Ranges(connections=4, segment_bytes=SEGMENT, from_bytes=1 << 20)
MIDDLE = 7 * SEGMENT
SLOW = 6e6
"""Bytes a second: the codec waits for the connection, which is what more of them are for."""


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory, registry: RegistryServer) -> Sample:
    return pushed(tmp_path_factory.mktemp("ranges"), registry.address, seed=4)


@pytest.fixture
def faults(registry: RegistryServer, layer: Sample) -> FaultyRegistry:
    return FaultyRegistry(registry.address, bytes_per_s=SLOW)


def most_at_once(web: WebServer) -> int:
    return max(count for path, count in web.at_once.items() if "/blobs/" in path)


def segments(size: int, segment_bytes: int) -> list[str]:
    """The ranges that a blob of size is asked for in, if nothing goes wrong."""
    return [
        f"bytes={at}-{min(at + segment_bytes, size) - 1}" for at in range(0, size, segment_bytes)
    ]


def after_the_stream(web: WebServer, wanted: list[str]) -> list[str]:
    """What the first request did not bring, which is for all, before it was seen to be slow."""
    asked = asked_ranges(web)
    assert asked[0] == "bytes=0-"
    streamed = [one for one in wanted if one not in asked]
    assert streamed == wanted[: len(streamed)]
    assert streamed
    return [asked[0], *wanted[len(streamed) :]]


def asked_again(web: WebServer, sample: Sample) -> list[str | None]:
    """What was asked for beside each segment once."""
    more = Counter(asked_ranges(web))
    more.subtract(after_the_stream(web, segments(sample.layer.size, SEGMENT)))
    assert min(more.values()) >= 0
    return sorted(more.elements(), key=str)


async def test_a_large_blob_is_read_in_several_ranges_at_once(
    registry: RegistryServer, tmp_path: Path
) -> None:
    size = RANGES.from_bytes
    large = pushed(tmp_path, registry.address, seed=0, codec="zstd", content_bytes=size)
    slow = FaultyRegistry(registry.address, bytes_per_s=50e6)
    web = await pulled(tmp_path / "root", large, slow, indexed=False, keep_alive=True)
    assert Counter(asked_ranges(web)) == Counter(
        after_the_stream(web, segments(large.layer.size, RANGES.segment_bytes))
    )
    assert 2 <= most_at_once(web) <= RANGES.connections + 1  # the stream that they replace


async def test_a_small_blob_is_one_request(
    faults: FaultyRegistry, layer: Sample, tmp_path: Path
) -> None:
    web = await pulled(tmp_path, layer, faults, indexed=False)
    assert asked_ranges(web) == [None]


async def test_a_connection_is_asked_for_many_ranges(
    faults: FaultyRegistry, layer: Sample, tmp_path: Path
) -> None:
    web = await pulled(tmp_path, layer, faults, indexed=False, ranges=SOME, keep_alive=True)
    assert asked_again(web, layer) == []
    assert 2 <= most_at_once(web) <= SOME.connections + 1  # the stream that they replace
    others = sum(not on_downloads(one) for one in web.asked)
    assert len(web.peers) <= SOME.connections + 1 + others


@pytest.mark.parametrize(
    ("spoil", "rest"),
    [
        pytest.param(refused(401), MIDDLE, id="401"),
        pytest.param(refused(403), MIDDLE, id="403"),
        pytest.param(refused(404), MIDDLE, id="404"),
        pytest.param(refused(429), MIDDLE, id="429"),
        pytest.param(refused(500), MIDDLE, id="500"),
        pytest.param(refused(503), MIDDLE, id="503"),
        pytest.param(silenced, MIDDLE, id="silence"),
        pytest.param(cut_short(100_000), MIDDLE + 100_000, id="cut-short"),
    ],
)
async def test_a_fault_in_a_segment_begins_no_other_one_again(
    spoil: Spoil,
    rest: int,
    faults: FaultyRegistry,
    layer: Sample,
    tmp_path: Path,
) -> None:
    fault = faults.add(Fault(on_range_from(MIDDLE), spoil))
    web = await pulled(tmp_path, layer, faults, indexed=True, ranges=SOME)
    assert fault.met == 1
    assert most_at_once(web) >= 2
    assert asked_again(web, layer) == [f"bytes={rest}-{MIDDLE + SEGMENT - 1}"]


async def test_a_connection_that_the_server_ends_between_ranges_is_opened_again(
    faults: FaultyRegistry, layer: Sample, tmp_path: Path
) -> None:
    """Nobody need ask the registry anew for that."""

    def is_segment(asked: Asked) -> bool:
        return on_downloads(asked) and not asked.headers["range"].endswith("-")

    fault = faults.add(Fault(is_segment, cut_short(SEGMENT), times=100))
    web = await pulled(tmp_path, layer, faults, indexed=False, ranges=SOME, keep_alive=True)
    assert fault.met == len(asked_ranges(web)) - 1
    assert asked_again(web, layer) == []
    assert sum(on_probes(one) and layer.layer.digest in one.path for one in web.asked) == 1


@pytest.mark.parametrize("seed", range(3))
async def test_segments_that_break_off_anywhere_go_on_where_they_were(
    seed: int, faults: FaultyRegistry, layer: Sample, tmp_path: Path
) -> None:
    lengths = random.Random(seed)
    cuts = [
        faults.add(Fault(on_range_from(at * SEGMENT), cut_short(lengths.randrange(1, SEGMENT))))
        for at in range(6 + seed, SIZE // SEGMENT, 2)
    ]
    often = RetryPolicy(first_s=0, attempts=20)
    web = await pulled(tmp_path, layer, faults, indexed=False, ranges=SOME, retry=often)
    assert [cut.met for cut in cuts] == [1] * len(cuts)
    assert len(asked_again(web, layer)) == len(cuts)


def on_whole(asked: Asked) -> bool:
    return on_downloads(asked) and "range" not in asked.headers


def beyond(_: Asked, reply: Reply) -> Reply:
    """A registry that heeds where a range begins, not where it ends: so it says."""
    (total,) = re.findall(r"/(\d+)$", reply.headers["Content-Range"])
    first = re.findall(r"bytes (\d+)-", reply.headers["Content-Range"])[0]
    stated = f"bytes {first}-{int(total) - 1}/{total}"
    return replace(reply, headers={**reply.headers, "Content-Range": stated})


@pytest.mark.parametrize("start", [0, MIDDLE], ids=["from-the-first", "from-the-middle"])
@pytest.mark.parametrize(
    "kind", ["no-ranges", "another-range", "no-content-range", "416", "other-end"]
)
async def test_a_registry_whose_ranges_are_of_no_use_is_read_in_one_stream(
    kind: str, start: int, faults: FaultyRegistry, layer: Sample, tmp_path: Path
) -> None:
    """It heeds ranges without an end, but for the first kind."""
    spoils: dict[str, Spoil] = {
        "no-ranges": without_ranges(faults.upstream),
        "another-range": lambda _, reply: Reply(206, {"Content-Range": "bytes 1-2/3"}, b"xy"),
        "no-content-range": lambda _, reply: Reply(206, body=reply.body),
        "416": refused(416),
        "other-end": beyond,
    }

    def fits(asked: Asked) -> bool:
        first, _, last = (
            asked.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")
        )
        return on_downloads(asked) and int(first) >= start and (kind == "no-ranges" or last != "")

    fault = faults.add(Fault(fits, spoils[kind], times=100))
    web = await pulled(tmp_path, layer, faults, indexed=False, ranges=SOME)
    assert 1 <= fault.met <= SOME.connections + 1
    asked = asked_ranges(web)
    if kind == "no-ranges" and start == 0:
        assert asked == ["bytes=0-"]  # and that answer is the one stream
    else:
        assert 1 <= len([one for one in asked if one is None or one.endswith("-")]) <= 2


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("most", [1, 2])
async def test_a_registry_that_finds_several_connections_too_many_gets_fewer(
    most: int, status: int, faults: FaultyRegistry, layer: Sample, tmp_path: Path
) -> None:
    """It does not even answer a probe while it has its fill."""
    busy = threading.BoundedSemaphore(most)
    turned_away: list[str] = []

    def respond(asked: Asked) -> Reply:
        if "/blobs/" not in asked.path:
            return faults(asked)
        if not busy.acquire(timeout=0.03):  # a client is back before we know that it is served
            turned_away.append(asked.headers["range"])
            return Reply(status)
        return replace(faults(asked), on_sent=busy.release)

    web = await pulled(tmp_path, layer, respond, indexed=False, ranges=SOME)
    assert 1 <= len(turned_away) <= SOME.connections
    assert len(asked_ranges(web)) <= len(segments(SIZE, SEGMENT)) + 1 + len(turned_away)


async def test_a_signed_url_holds_for_all_ranges_and_is_asked_for_once_when_it_expires(
    registry: RegistryServer, layer: Sample, tmp_path: Path
) -> None:
    signed: list[str] = []
    expired: list[str] = []
    seen: Counter[str] = Counter()

    def store(asked: Asked) -> Reply:
        path, _, signature = asked.path.partition("?")
        seen[signature] += on_downloads(asked)
        if seen["key=0"] > 8 and signature == "key=0":
            expired.append(asked.headers["range"])
            return Reply(403)
        return replace(relayed(registry.address, replace(asked, path=path)), bytes_per_s=SLOW)

    with run_web(store) as blobs:

        def respond(asked: Asked) -> Reply:
            if "/manifests/" in asked.path:
                return relayed(registry.address, asked)
            if layer.layer.digest in asked.path:
                signed.append(f"key={len(signed)}")
            return Reply(
                307,
                {"Location": f"http://{blobs.address}{asked.path}?{signed[-1] if signed else ''}"},
            )

        await pulled(tmp_path, layer, respond, indexed=True, ranges=SOME)
    assert most_at_once(blobs) >= 2
    assert 1 <= len(expired) <= SOME.connections
    assert signed == ["key=0", "key=1"]
    assert asked_again(blobs, layer) == sorted(expired)


def more(_: Asked, reply: Reply) -> Reply:
    return replace(reply, body=reply.body + b"more")


def more_than_it_says(_: Asked, reply: Reply) -> Reply:
    return Reply(raw=b"HTTP/1.1 200 OK\r\n\r\n" + reply.body + b"more")


@pytest.mark.parametrize(
    ("longer_whole", "words"),
    [
        pytest.param(more, "the manifest says .* bytes, .* has", id="told"),
        pytest.param(more_than_it_says, "sends more than", id="not-told"),
    ],
)
async def test_a_blob_that_is_longer_than_the_manifest_says_is_corrupt(
    longer_whole: Spoil, words: str, faults: FaultyRegistry, layer: Sample, tmp_path: Path
) -> None:
    def longer(_: Asked, reply: Reply) -> Reply:
        stated = reply.headers["Content-Range"].partition("/")[0] + f"/{SIZE * 2}"
        return replace(reply, headers={**reply.headers, "Content-Range": stated})

    fault = faults.add(Fault(on_range_from(MIDDLE), longer, times=100))
    again = faults.add(Fault(on_whole, longer_whole, times=100))
    with run_web(faults) as web:
        said = await failed(tmp_path, layer, web, errors.CorruptImage, indexed=False, ranges=SOME)
    assert re.search(words, said)
    assert fault.met >= 1
    assert again.met >= 1


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        pytest.param(silenced, errors.RegistryUnavailable, id="silence"),
        pytest.param(cut_short(9), errors.RegistryUnavailable, id="nine-bytes"),
        pytest.param(refused(500), errors.RegistryUnavailable, id="500"),
        pytest.param(refused(429, {"Retry-After": "3600"}), errors.RegistryUnavailable, id="429"),
        pytest.param(refused(401), errors.Unauthenticated, id="401"),
        pytest.param(refused(404), errors.ImageNotFound, id="404"),
    ],
)
async def test_a_fault_that_stays_in_one_segment_ends_the_download(
    spoil: Spoil,
    kind: type[errors.ClipError],
    faults: FaultyRegistry,
    layer: Sample,
    tmp_path: Path,
) -> None:
    def fits(asked: Asked) -> bool:
        return on_downloads(asked) and asked.headers["range"].endswith(f"-{MIDDLE + SEGMENT - 1}")

    fault = faults.add(Fault(fits, spoil, times=100))
    with run_web(faults) as web:
        await failed(tmp_path, layer, web, kind, indexed=False, ranges=SOME)
    assert 1 <= fault.met <= 12


async def test_a_wait_that_a_busy_registry_asks_for_is_kept_by_all_connections(
    faults: FaultyRegistry, layer: Sample, tmp_path: Path
) -> None:
    """The parent gives up at once here: the wait is longer than its policy allows."""
    fault = faults.add(Fault(on_range_from(MIDDLE), refused(429, {"Retry-After": "3600"}), times=1))
    patient = RetryPolicy(first_s=0, total_s=10)
    with run_web(faults) as web:
        said = await failed(
            tmp_path,
            layer,
            web,
            errors.RegistryUnavailable,
            indexed=False,
            ranges=SOME,
            retry=patient,
        )
    assert "429" in said
    assert fault.met == 1
    asked = asked_ranges(web)
    after = asked[asked.index(f"bytes={MIDDLE}-{MIDDLE + SEGMENT - 1}") + 1 :]
    assert len(after) < SOME.connections  # those that were on their way


@EITHER
async def test_segments_that_a_mirror_breaks_off_go_on_at_the_registry(
    indexed: bool, registry: RegistryServer, layer: Sample, tmp_path: Path
) -> None:
    broken = FaultyRegistry(registry.address, bytes_per_s=SLOW)

    def late(asked: Asked) -> bool:
        first = asked.headers.get("range", "").removeprefix("bytes=").partition("-")[0]
        return on_downloads(asked) and int(first) >= MIDDLE

    fault = broken.add(Fault(late, cut_short(1_000), times=100))
    with run_web(broken) as mirror:
        web = await pulled(
            tmp_path / "root",
            layer,
            FaultyRegistry(registry.address),
            indexed=indexed,
            mirrors=mirrored_by(mirror.address, tmp_path / "mirrors"),
            ranges=SOME,
        )
    assert 1 <= fault.met <= SOME.connections
    asked = [one for one in asked_ranges(web) if one]
    assert len(asked) == len(set(asked)) >= 1
    assert all(int(one.removeprefix("bytes=").partition("-")[0]) >= MIDDLE for one in asked)
    assert sum(map(on_probes, web.asked)) <= SOME.connections + 1
