"""Tier 2 in an object store: the promises of `ContentStore`, kept by a real S3 server and,
where it is installed, by Azure's emulator.

What no real server does is shown against a small one of our own (`tests.support.odd_s3`). One
module, though long: it is one list of promises, each run against every kind of store.
"""

import itertools
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from clipfs import errors
from clipfs.tiers.content.bucket import NoAnswer
from clipfs.tiers.content.bucket_opening import MOST_START_S, open_object_store
from clipfs.tiers.content.bucket_process import BucketProcess
from clipfs.tiers.content.objectstore import RESTART_S, ObjectStore
from clipfs.tiers.content.obstore_bucket import ObstoreBucket
from clipfs.tiers.content.patience import TOTAL_S, Patience
from clipfs.tiers.content.store import (
    MAX_OBJECT_BYTES,
    ContentCacheDown,
    ContentRefused,
    Found,
    MayNotStore,
    Progress,
)
from clipfs.tiers.content_cache import ContentCacheTier
from clipfs.tiers.pages import PAGE_BYTES, page_key
from clipfs.tiers.storer import Outcome, store_layer
from clipfs.tiers.tier import Extent
from tests.support.azurite import Azurite
from tests.support.content import key_of
from tests.support.odd_s3 import Oddity, OddS3, run_odd_s3
from tests.support.relay import OnPiece, relay
from tests.support.s3_server import READER, WRITER, S3Server, run_s3_server
from tests.support.samples import Sample
from tests.support.tier_stack import KEYS as SEALS
from tests.support.wait import wait_for

PAGE = bytes(range(256)) * (8 << 12)
KEYS = itertools.count(1)
SOME = Progress(downloaded_bytes=1, payload_bytes=2, total_bytes=30)


@pytest.fixture
def s3_url(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of a prefix of its own in the shared bucket, with the credentials of its writer."""
    s3_server.use(monkeypatch)
    return f"s3://shared/prefix/{next(KEYS)}"


@pytest.fixture
def azure_url(azurite: Azurite, monkeypatch: pytest.MonkeyPatch) -> str:
    azurite.use(monkeypatch)
    return f"az://shared/prefix/{next(KEYS)}"


@pytest.fixture(params=["s3_url", "azure_url"])
def url(request: pytest.FixtureRequest) -> str:
    """A prefix of its own in each kind of store that can be had."""
    found: str = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=[False, True], ids=["here", "apart"])
async def store(request: pytest.FixtureRequest, url: str) -> AsyncIterator[ObjectStore]:
    """One that is asked by this process, and one that is asked by a process of its own."""
    async with open_object_store(url, will_fork=request.param) as opened:
        yield opened


@pytest.fixture
def key() -> str:
    return key_of(next(KEYS))


async def got(store: ObjectStore, key: str, part: range | None = None) -> bytes | None:
    found = await store.get(key, part=part)
    return None if found is None else bytes(found.data)


async def etag_of(store: ObjectStore, key: str) -> str:
    found = await store.get(key)
    assert found is not None
    return found.etag


async def eventually(store: ObjectStore, key: str) -> bytes | None:
    """What a get answers once the breaker lets one through and the store is there."""

    def once() -> list[bytes | None]:
        try:
            return [trio.from_thread.run(got, store, key)]
        except ContentCacheDown:
            return []

    return (await trio.to_thread.run_sync(partial(wait_for, once, within_s=60)))[0]


async def test_an_object_comes_back_whole_and_in_part(store: ObjectStore, key: str) -> None:
    assert await store.get(key) is None
    await store.put(key, memoryview(PAGE))
    assert await got(store, key) == PAGE
    assert await got(store, key, range(1000, 200_000)) == PAGE[1000:200_000]
    whole, part = await store.get(key), await store.get(key, part=range(1))
    assert whole is not None
    assert part is not None
    assert whole.etag == part.etag != ""


async def test_what_one_node_stores_another_reads(url: str, key: str) -> None:
    async with open_object_store(url) as one, open_object_store(url) as other:
        await one.put(key, b"data")
        assert await got(other, key) == b"data"


async def test_two_prefixes_of_a_bucket_know_nothing_of_each_other(
    store: ObjectStore, url: str, key: str
) -> None:
    await store.put(key, b"here")
    async with open_object_store(f"{url}-other/") as other:
        assert await other.get(key) is None


async def test_the_same_bytes_again_change_nothing_and_others_are_refused(
    store: ObjectStore, key: str
) -> None:
    await store.put(key, b"first")
    await store.put(key, b"first")
    for _ in range(3):
        with pytest.raises(ContentRefused, match="something else is stored"):
            await store.put(key, b"other")
    assert await got(store, key) == b"first"


async def test_of_many_that_store_other_bytes_at_once_one_wins(url: str, key: str) -> None:
    stored: list[bytes] = []

    async def put(data: bytes) -> None:
        async with open_object_store(url) as store:
            try:
                await store.put(key, data)
                stored.append(data)
            except ContentRefused:
                return

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(put, b"%d" % number)
    async with open_object_store(url) as store:
        assert [await got(store, key)] == stored


async def test_an_object_is_replaced_only_by_who_has_seen_it(store: ObjectStore, key: str) -> None:
    await store.put(key, b"first")
    first = await etag_of(store, key)
    await store.put(key, b"second", replaces=first)
    with pytest.raises(ContentRefused):
        await store.put(key, b"third", replaces=first)
    assert await got(store, key) == b"second"


async def test_what_is_gone_cannot_be_replaced(store: ObjectStore, key: str) -> None:
    await store.put(key, b"first")
    first = await etag_of(store, key)
    await store.delete(key, etag=first)
    with pytest.raises(ContentRefused):
        await store.put(key, b"second", replaces=first)
    assert await store.get(key) is None


async def test_a_delete_removes_the_object_it_names_and_no_other(
    store: ObjectStore, key: str
) -> None:
    await store.put(key, b"wrong")
    wrong = await etag_of(store, key)
    await store.put(key, b"right", replaces=wrong)
    await store.delete(key, etag=wrong)
    assert await got(store, key) == b"right"
    await store.delete(key, etag=await etag_of(store, key))
    assert await store.get(key) is None
    await store.delete(key, etag=wrong)


@pytest.mark.parametrize("part", [range(3, 6), range(5, 9), range(90, 99)])
async def test_of_a_part_beyond_the_objects_end_comes_what_there_is_of_it(
    part: range, store: ObjectStore, key: str
) -> None:
    await store.put(key, b"hello")
    found = await store.get(key, part=part)
    assert found is not None
    assert found.data == b"hello"[part.start : part.stop]
    assert found.etag == await etag_of(store, key)
    assert await store.get(key, part=part, besides=[found.copy]) is None
    await store.delete(key, etag=found.etag)
    assert await store.get(key, part=part) is None


async def test_a_layer_that_one_node_stored_is_read_by_another(
    store: ObjectStore, sample: Sample
) -> None:
    assert await store_layer(store, SEALS, sample.indexed, sample.tar) is Outcome.STORED
    assert await store_layer(store, SEALS, sample.indexed, sample.tar) is Outcome.STORED
    tier = ContentCacheTier(store, SEALS)
    index = await tier.load_index(sample.layer)
    assert index is not None
    assert index.chunk_digests == sample.indexed.index.chunk_digests
    for extent in [Extent(0, 1), Extent(PAGE_BYTES - 5, 10), Extent(0, len(sample.payload))]:
        assert await tier.read(sample.indexed, extent) == sample.bytes_of(extent)


async def test_a_page_that_somebody_poisoned_is_a_miss(store: ObjectStore, sample: Sample) -> None:
    key = page_key(sample.indexed.cache_key, 0)
    await store.put(key, bytes(len(sample.payload[:PAGE_BYTES])))
    tier = ContentCacheTier(store, SEALS)
    assert await tier.read(sample.indexed, Extent(0, 100)) is None


async def test_of_many_that_claim_a_layer_at_once_one_gets_it(url: str) -> None:
    """Many times: SeaweedFS keeps one of those who race waiting for a second, now and then.

    Some get no answer in time; whoever asks later is told the same as those who got one.
    """
    claimed: list[tuple[str, str]] = []

    async def claim(store: ObjectStore, key: str, holder: str) -> None:
        with suppress(ContentCacheDown):
            claimed.append((key, (await store.claim(key, holder, SOME)).holder))

    keys = [key_of(number) for number in range(10)]
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(open_object_store(url)) for _ in range(10)]
        for key in keys:
            async with trio.open_nursery() as nursery:
                for number, store in enumerate(stores):
                    nursery.start_soon(claim, store, key, f"node {number}")
    late = [(key, await holder_of(url, key)) for key in keys]
    assert "late" not in dict(late).values()
    assert claimed
    assert {*claimed} <= {*late}


async def holder_of(url: str, key: str) -> str:
    """What one is told who asks when nobody else does, as often as it takes."""
    while True:
        async with open_object_store(url) as store:
            with suppress(ContentCacheDown):
                return (await store.claim(key, "late", SOME)).holder


async def test_those_who_wait_see_the_holders_progress(store: ObjectStore, key: str) -> None:
    await store.claim(key, "holder", SOME)
    further = Progress(downloaded_bytes=20, payload_bytes=40, total_bytes=30)
    assert (await store.claim(key, "holder", further)).holder == "holder"
    claim = await store.claim(key, "other", Progress())
    assert claim.holder == "holder"
    assert claim.progress == further


async def test_a_released_claim_is_free_and_only_its_holder_releases_it(
    store: ObjectStore, key: str
) -> None:
    await store.claim(key, "holder", SOME)
    await store.release(key, "other")
    assert (await store.claim(key, "other", SOME)).holder == "holder"
    await store.release(key, "holder")
    assert (await store.claim(key, "other", SOME)).holder == "other"
    await store.release(key, "holder")
    assert (await store.claim(key, "third", SOME)).holder == "other"


async def test_a_dead_holder_is_replaced_and_learns_of_it_should_it_wake(
    url: str, key: str
) -> None:
    async with (
        open_object_store(url, claim_lapses_s=1) as one,
        open_object_store(url, claim_lapses_s=1) as other,
    ):
        assert (await one.claim(key, "dead", SOME)).holder == "dead"
        claim = await other.claim(key, "next", SOME)
        assert claim.holder == "dead"

        def taken_over() -> bool:
            return trio.from_thread.run(other.claim, key, "next", SOME).holder == "next"

        await trio.to_thread.run_sync(wait_for, taken_over)
        assert (await one.claim(key, "dead", SOME)).holder == "next"
        await one.release(key, "dead")
        assert (await one.claim(key, "dead", SOME)).holder == "next"


async def test_credentials_that_may_only_read_store_nothing_and_go_on_reading(
    s3_url: str,
    key: str,
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_object_store(s3_url) as store:
        await store.put(key, b"here")
        etag = await etag_of(store, key)
    s3_server.use(monkeypatch, READER)
    async with open_object_store(s3_url) as reader:
        assert reader.may_store
        with pytest.raises(MayNotStore, match="403 AccessDenied"):
            await reader.put(key_of(next(KEYS)), b"other")
        assert not reader.may_store
        with pytest.raises(MayNotStore):
            await reader.delete(key, etag=etag)
        with pytest.raises(MayNotStore):
            await reader.claim(key, "reader", SOME)
        await reader.release(key, "reader")
        assert await got(reader, key) == b"here"


@pytest.mark.parametrize(
    ("identity", "why"),
    [
        pytest.param((WRITER[0], "mistyped"), "SignatureDoesNotMatch", id="secret"),
        pytest.param(("AKWRONG", WRITER[1]), "InvalidAccessKeyId", id="key"),
    ],
)
async def test_wrong_credentials_switch_tier_2_off_and_say_why(
    identity: tuple[str, str],
    why: str,
    s3_url: str,
    key: str,
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    s3_server.use(monkeypatch, identity)
    with capture_logs() as logs:
        async with open_object_store(s3_url) as store:
            with pytest.raises(ContentCacheDown):
                await store.get(key)
            with pytest.raises(ContentCacheDown):
                await store.put(key, b"data")
            assert store.may_store
    assert [log["event"] for log in logs] == ["content cache unavailable"]
    assert logs[0]["replica"] == s3_url
    assert why in logs[0]["error"]
    assert "AWS_SECRET_ACCESS_KEY" in logs[0]["error"]
    assert identity[1] not in str(logs)


async def test_what_awss_files_say_of_the_profile_counts_where_the_environment_says_nothing(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str
) -> None:
    credentials, config = tmp_path / "credentials", tmp_path / "config"
    credentials.write_text(
        f"[other]\naws_access_key_id = {WRITER[0]}\naws_secret_access_key = {WRITER[1]}\n"
    )
    config.write_text(
        f"[profile other]\nregion = us-east-1\nendpoint_url = {s3_server.endpoint}\n"
        "[default]\nendpoint_url = http://127.0.0.1:1\n"
    )
    for name in s3_server.environment():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "other")
    async with open_object_store("s3://shared/files") as store:
        await store.put(key, b"data")
        assert await got(store, key) == b"data"
    s3_server.use(monkeypatch, (WRITER[0], "mistyped"))
    async with open_object_store("s3://shared/files") as store:
        with pytest.raises(ContentCacheDown):
            await store.get(key)


@pytest.mark.parametrize("odd", ["ignores ranges"], indirect=True)
@pytest.mark.parametrize("text", ["", "[other", "no section", "[default]\nregion"])
async def test_aws_files_that_are_none_are_no_obstacle(
    text: str, odd: OddS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str
) -> None:
    (tmp_path / "file").write_text(text)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "file"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "file"))
    async with open_object_store("s3://odd") as store:
        assert await store.get(key) is None


@pytest.mark.parametrize("will_fork", [False, True])
async def test_a_bucket_that_is_not_there_is_named_once_and_stands_in_nobodys_way(
    will_fork: bool, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    s3_server.use(monkeypatch)
    with capture_logs() as logs:
        async with open_object_store("s3://nowhere/prefix", will_fork=will_fork) as store:
            with pytest.raises(ContentCacheDown):
                await store.get(key)
    (warning,) = logs
    assert f"no bucket nowhere at {s3_server.endpoint}" in warning["error"]
    assert "correct --content-cache" in warning["error"]


@pytest.mark.parametrize("will_fork", [False, True])
@pytest.mark.parametrize(
    "url", ["s3://", "s3:bucket", "ftp://bucket/x", "s3://key:secret@bucket", "s3://bucket?x=1"]
)
async def test_what_is_no_address_of_a_store_is_refused(url: str, will_fork: bool) -> None:
    with pytest.raises(errors.InvalidInput, match="s3://bucket/prefix") as raised:
        async with open_object_store(url, will_fork=will_fork):
            pass
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("will_fork", [False, True])
@pytest.mark.parametrize(
    ("name", "value", "way_out"),
    [
        ("AWS_ACCESS_KEY_ID", "AKWRITER\n", "AWS_ACCESS_KEY_ID holds a line break"),
        ("AWS_SECRET_ACCESS_KEY", "sesame\n", "AWS_SECRET_ACCESS_KEY holds a line break"),
        ("AWS_REGION", "us-east-1\n", "AWS_REGION holds a line break"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1\n", "AWS_ENDPOINT_URL holds a line break"),
        ("AWS_ENDPOINT_URL", "127.0.0.1:9000", "no http://HOST.*AWS_ENDPOINT_URL"),
        ("AWS_ENDPOINT_URL", "sesame:9000", "no http://HOST.*AWS_ENDPOINT_URL"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:999999", "no http://HOST.*AWS_ENDPOINT_URL"),
        ("AWS_ENDPOINT_URL", "http://", "no http://HOST.*AWS_ENDPOINT_URL"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1 :1", "no http://HOST.*AWS_ENDPOINT_URL"),
    ],
)
async def test_an_environment_that_no_store_can_be_asked_with_is_refused_by_name(
    name: str,
    value: str,
    way_out: str,
    will_fork: bool,
    s3_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(errors.InvalidInput, match=way_out) as raised:
        async with open_object_store(s3_url, will_fork=will_fork):
            pass
    assert "sesame" not in str(raised.value)
    assert "panicked" not in capfd.readouterr().err


@pytest.mark.parametrize("will_fork", [False, True])
async def test_a_value_of_a_file_that_obstore_panics_over_is_no_answer(
    will_fork: bool,
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    key: str,
) -> None:
    (tmp_path / "file").write_text(
        "[default]\naws_access_key_id = AK\x01\naws_secret_access_key = sesame\n"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "file"))
    with capture_logs() as logs:
        async with open_object_store("s3://shared/file", will_fork=will_fork) as store:
            with pytest.raises(ContentCacheDown):
                await store.get(key)
    assert ["AWS's files" in log["error"] for log in logs] == [True]
    assert "sesame" not in str(logs)


async def test_a_store_that_is_not_there_is_skipped_until_it_may_be_back(
    s3_url: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{gone.getsockname()[1]}")
    async with open_object_store(s3_url) as store:
        with pytest.raises(ContentCacheDown, match="skipped"):
            await store.get(key)


async def test_a_store_that_never_answers_is_not_waited_for(
    s3_url: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, capture_logs() as logs:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        async with open_object_store(s3_url) as store:
            with pytest.raises(ContentCacheDown, match="skipped"):
                await store.get(key)
    assert [log["error"] for log in logs] == ["no answer in time"]


FORKING = """
import os, sys, trio
from clipfs.tiers.content.bucket_process import BucketProcess
from clipfs.tiers.content.bucket_opening import open_object_store

async def main():
    async with open_object_store(sys.argv[1], will_fork=sys.argv[3] == "True") as store:
        found = await store.get(sys.argv[2])
        print(bytes(found.data).decode(), flush=True)

trio.run(main)
if os.fork() == 0:
    trio.run(main)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.mark.parametrize("told", [True, False])
async def test_the_fork_of_a_process_that_has_used_a_store_can_use_it(
    told: bool, s3_url: str, key: str
) -> None:
    async with open_object_store(s3_url) as store:
        await store.put(key, b"data")
    command = [sys.executable, "-c", FORKING, s3_url, key, str(told)]
    done = await trio.run_process(command, capture_stdout=True)
    assert done.stdout == b"data\ndata\n"


async def test_what_the_process_apart_takes_to_start_is_part_of_what_a_mount_waits(
    s3_url: str,
) -> None:
    async with open_object_store(s3_url, will_fork=True, check=False) as store:
        assert TOTAL_S - MOST_START_S <= store._patience.left_s < TOTAL_S - 0.01


async def test_the_death_of_the_process_apart_is_no_answer(s3_url: str, key: str) -> None:
    with BucketProcess.open(s3_url) as bucket:
        await trio.to_thread.run_sync(bucket.ready)
        store = ObjectStore(
            bucket, url=s3_url, claim_lapses_s=15, patience=Patience(), on_failure=lambda: None
        )
        await store.put(key, b"data")
        bucket.process.kill()
        with pytest.raises(ContentCacheDown, match="died"):
            await store.get(key)


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server to be killed; each test that does starts it again."""
    with run_s3_server(tmp_path_factory.mktemp("mortal")) as server:
        server.make_bucket("mortal")
        yield server


def kills(server: S3Server, *, answers: bool) -> Callable[[], OnPiece]:
    """Kills the server, once, in the middle of the first large body in that direction."""
    passed = 0

    def on_piece(piece: bytes, is_answer: bool) -> None:
        nonlocal passed
        before, passed = passed, passed + (len(piece) if is_answer is answers else 0)
        if before < 1 << 20 <= passed:
            server.kill()

    return lambda: on_piece


async def test_a_get_that_the_stores_death_cuts_is_no_answer_and_goes_well_later(
    mortal: S3Server, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    mortal.use(monkeypatch)
    async with open_object_store("s3://mortal") as store:
        await store.put(key, PAGE)
    with relay(f"127.0.0.1:{mortal.port}", kills(mortal, answers=True)) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{address}")
        async with open_object_store("s3://mortal") as store:
            with pytest.raises(ContentCacheDown):
                await store.get(key)
            with pytest.raises(ContentCacheDown):
                await store.get(key)
            await trio.to_thread.run_sync(mortal.start)
            assert await eventually(store, key) == PAGE


async def test_a_put_that_the_stores_death_cuts_leaves_nothing_wrong_behind(
    mortal: S3Server, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    mortal.use(monkeypatch)
    with relay(f"127.0.0.1:{mortal.port}", kills(mortal, answers=False)) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{address}")
        async with open_object_store("s3://mortal") as store:
            with pytest.raises(ContentCacheDown):
                await store.put(key, PAGE)
            await trio.to_thread.run_sync(mortal.start)
            assert await eventually(store, key) is None
            await store.put(key, PAGE)
            assert await got(store, key) == PAGE


async def test_an_object_that_is_too_long_to_be_one_is_not_read(url: str) -> None:
    bucket = ObstoreBucket(url)
    await trio.to_thread.run_sync(bucket.overwrite, "long", bytes(MAX_OBJECT_BYTES + 1))
    async with open_object_store(url) as store:
        with pytest.raises(ContentCacheDown, match="GET long: bytes"):
            await store.get("long", dear=True)


@pytest.mark.parametrize("will_fork", [False, True])
async def test_https_is_trusted_by_the_cas_that_were_given_and_by_no_other(
    will_fork: bool, secure_s3: tuple[S3Server, Path], monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    server, ca = secure_s3
    server.use(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.secure_endpoint)
    async with open_object_store(
        "s3://secure", will_fork=will_fork, ca_pem=ca.read_text()
    ) as store:
        await store.put(key, b"data")
        assert await got(store, key) == b"data"
    with capture_logs() as logs:
        async with open_object_store("s3://secure", will_fork=will_fork) as store:
            with pytest.raises(ContentCacheDown):
                await store.get(key)
    assert "its certificate is not trusted (UnknownIssuer); see --ca-file" in logs[0]["error"]


@pytest.fixture
def odd(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, s3_server: S3Server
) -> Iterator[OddS3]:
    s3_server.use(monkeypatch)
    oddity: Oddity = request.param
    with run_odd_s3(oddity) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        yield server


@pytest.mark.parametrize("odd", ["ignores conditions", "refuses conditions"], indirect=True)
async def test_a_store_without_conditional_writes_keeps_no_claims_and_no_wrong_object(
    odd: OddS3, key: str
) -> None:
    with capture_logs() as logs:
        async with open_object_store("s3://odd/prefix") as store:
            with suppress(ContentCacheDown):  # the first question tries no more than it needs
                await store.claim(key, "holder", SOME)
            for _ in range(3):
                with pytest.raises(ContentCacheDown, match="no claims"):
                    await store.claim(key, "holder", SOME)
            await store.put(key, b"first")
            await store.put(key, b"first")
            with pytest.raises(ContentRefused):
                await store.put(key, b"other")
            await store.put(key, b"second", replaces=await etag_of(store, key))
            assert await got(store, key) == b"second"
            await store.release(key, "holder")
    assert len(logs) == 1
    assert "no conditional writes" in logs[0]["event"]
    assert {*odd.objects} - {f"/odd/prefix/claims/{key}"} == {f"/odd/prefix/{key}"}


@pytest.mark.parametrize("odd", ["ignores ranges"], indirect=True)
async def test_a_store_that_sends_all_where_a_part_was_asked_for_gave_no_answer(
    odd: OddS3, key: str
) -> None:
    odd.objects[f"/odd/prefix/{key}"] = PAGE
    async with open_object_store("s3://odd/prefix") as store:
        with pytest.raises(ContentCacheDown):
            await store.get(key, part=range(100))


async def test_what_is_dear_elsewhere_is_waited_for_while_a_store_restarts(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    s3_server.use(monkeypatch)
    with run_odd_s3("ignores conditions") as before:
        monkeypatch.setenv("AWS_ENDPOINT_URL", before.endpoint)
        port = int(before.endpoint.rpartition(":")[2])
    async with open_object_store("s3://odd") as store:
        with pytest.raises(ContentCacheDown, match="skipped"):
            await store.get(key)
        found: list[Found | None] = []

        async def get() -> None:
            found.append(await store.get(key, dear=True))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(get)
            with run_odd_s3("ignores conditions", port=port) as after:
                after.objects[f"/odd/{key}"] = b"data"
                await trio.to_thread.run_sync(wait_for, lambda: found)
    assert found[0] is not None
    assert found[0].data == b"data"


class _PartlyDown:
    """Of a `Bucket`, what is asked here: it fails for one key, and is slow."""

    def __init__(self, lost: str) -> None:
        self._lost = lost

    def check(self) -> None:
        pass

    def get(self, key: str, *, part: range | None = None) -> None:
        if key == self._lost:
            raise NoAnswer(f"GET {key}: 500")
        time.sleep(0.01)


async def test_what_a_store_cannot_read_is_a_miss_though_others_come_from_there(
    mock_clock: MockClock, key: str
) -> None:
    """Each failure begins an outage, which the next answer to somebody else ends."""
    mock_clock.rate = 20
    store = ObjectStore(
        _PartlyDown(key),  # type: ignore[arg-type] # no more of it is used
        url="s3://bucket",
        claim_lapses_s=15,
        patience=Patience(),
        on_failure=lambda: None,
    )

    async def read_others() -> None:
        while True:
            with suppress(ContentCacheDown):
                await store.get(key_of(0), dear=True)

    with trio.fail_after(20 * RESTART_S):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(read_others)
            with pytest.raises(ContentCacheDown, match="500"):
                await store.get(key, dear=True)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("odd", ["quotes requests"], indirect=True)
async def test_what_a_store_quotes_of_a_request_is_not_repeated(
    odd: OddS3, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "very-secret")
    with capture_logs() as logs:
        async with open_object_store("s3://odd/prefix") as store:
            with pytest.raises(ContentCacheDown):
                await store.get(key)
    assert "SignatureDoesNotMatch" in str(logs)
    assert "very-secret" not in str(logs)
