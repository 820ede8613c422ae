"""A question that fails by no fault of its own is asked again, so often and no longer.

The delays are computed by plain functions; that they are waited, and that a real registry's
answer is right in the end, is shown with a proxy that spoils answers.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from clipfs import errors
from clipfs.image.credentials import RegistryConfig
from clipfs.image.model import Image
from clipfs.image.platform import Platform
from clipfs.image.reference import parse_reference
from clipfs.image.registry import Registry
from clipfs.image.retry import RetryPolicy, retry_after_s
from tests.image.pulls import AT_ONCE, shelf
from tests.support import images
from tests.support.faulty_registry import (
    Fault,
    FaultyRegistry,
    Spoil,
    cut_short,
    on_downloads,
    on_manifests,
    on_probes,
    refused,
    silenced,
)
from tests.support.registry import RegistryServer, make_certificate
from tests.support.web import Asked, Reply, WebServer, run_web

POLICY = RetryPolicy(attempts=5, first_s=1, longest_s=3, total_s=20)
NOON = 1_767_268_800.0  # 2026-01-01 12:00:00 UTC


@pytest.mark.parametrize(
    ("failed", "elapsed_s", "retry_after", "draw", "delay_s"),
    [
        pytest.param(1, 0, None, 0, 1, id="the-first-delay"),
        pytest.param(2, 0, None, 0, 2, id="twice-as-long"),
        pytest.param(3, 0, None, 0, 3, id="never-longer-than-the-longest"),
        pytest.param(2, 0, None, 0.5, 1.5, id="less-by-chance"),
        pytest.param(5, 0, None, 0, None, id="no-attempt-left"),
        pytest.param(1, 19, None, 0, 1, id="just-in-time"),
        pytest.param(1, 19.5, None, 0, None, id="no-time-left"),
        pytest.param(1, 0, 7, 0.9, 7, id="as-the-peer-asks"),
        pytest.param(3, 0, 1, 0, 3, id="the-peer-asks-for-less"),
        pytest.param(1, 0, 21, 0, None, id="the-peer-asks-for-too-long"),
        pytest.param(1, 0, 0, 0, 1, id="the-peer-asks-for-nothing"),
    ],
)
def test_the_delay_before_the_next_attempt(
    failed: int, elapsed_s: float, retry_after: float | None, draw: float, delay_s: float | None
) -> None:
    found = POLICY.delay_s(failed=failed, elapsed_s=elapsed_s, retry_after_s=retry_after, draw=draw)
    assert found == delay_s


@given(
    failed=st.integers(1, 10),
    elapsed_s=st.floats(0, 100),
    retry_after=st.none() | st.floats(0, 1e9),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_no_attempt_is_made_too_soon_too_late_or_too_often(
    failed: int, elapsed_s: float, retry_after: float | None, draw: float
) -> None:
    delay_s = POLICY.delay_s(
        failed=failed, elapsed_s=elapsed_s, retry_after_s=retry_after, draw=draw
    )
    if delay_s is not None:
        assert failed < POLICY.attempts
        assert elapsed_s + delay_s <= POLICY.total_s
        assert delay_s >= max(POLICY.first_s / 2, retry_after or 0)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0), ("120", 120), (" 7 ", 7), ("Thu, 01 Jan 2026 12:00:30 GMT", 30),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0), ("", None), ("soon", None), ("-1", None),
        ("1.5", None), ("\u0663", None), ("Thu, 99 Jan 2026 12:00:30 GMT", None),
        ("9" * 5000, float("inf")),
    ],
    ids=lambda value: ascii(value)[:40],
)  # fmt: skip  # words and their meaning
def test_retry_after_is_seconds_or_a_date(header: str, seconds: float | None) -> None:
    assert retry_after_s(header, now=NOON) == seconds


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("image")
    (home / "tree").mkdir()
    (home / "tree/file").write_text("text")
    images.write_layout(home / "oci", [images.layer(home / "tree", home / "tar")])
    return home / "oci"


@pytest.fixture
def faults(registry: RegistryServer, layout: Path) -> FaultyRegistry:
    """In front of the real registry, which has the image `retried:1`; no fault yet."""
    images.push(layout, registry.address, "retried:1")
    return FaultyRegistry(registry.address)


async def resolve(web: WebServer, *, retry: RetryPolicy = AT_ONCE) -> Image:
    async with Registry.open(
        config=RegistryConfig.empty(), plain_http=frozenset([web.address]), retry=retry
    ) as client:
        reference = parse_reference(f"{web.address}/retried:1")
        image = await client.resolve(reference, Platform("linux", "amd64"))
        await client.blob_source(reference, image.layers[0])
        return image


@pytest.mark.parametrize(
    "fits",
    [on_manifests, on_downloads, on_probes],
    ids=["manifest", "config", "blob"],
)
@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(refused(429, {"Retry-After": "0"}), id="429"),
        pytest.param(refused(500), id="500"),
        pytest.param(refused(503), id="503"),
        pytest.param(silenced, id="silence"),
        pytest.param(cut_short(0), id="cut-short"),
    ],
)
async def test_a_fault_that_passes_is_outlasted(
    fits: Callable[[Asked], bool], spoil: Spoil, faults: FaultyRegistry
) -> None:
    fault = faults.add(Fault(fits, spoil, times=AT_ONCE.attempts - 1))
    with run_web(faults) as web:
        assert await resolve(web)
    assert fault.met == AT_ONCE.attempts - 1


async def test_a_fault_that_stays_is_given_up_after_so_many_attempts(
    faults: FaultyRegistry,
) -> None:
    fault = faults.add(Fault(on_manifests, refused(503), times=100))
    words = "answers 503; try again later"
    with run_web(faults) as web, pytest.raises(errors.RegistryUnavailable, match=words):
        await resolve(web)
    assert fault.met == AT_ONCE.attempts


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 501])
async def test_what_would_be_answered_the_same_is_asked_once(
    status: int, faults: FaultyRegistry
) -> None:
    fault = faults.add(Fault(on_manifests, refused(status), times=100))
    with run_web(faults) as web, pytest.raises(errors.ClipError):
        await resolve(web)
    assert fault.met == 1


async def test_a_token_server_that_is_busy_is_asked_again() -> None:
    good = shelf()
    tries: list[str] = []

    def respond(asked: Asked) -> Reply:
        if asked.path.startswith("/token"):
            tries.append(asked.path)
            return Reply(503) if len(tries) == 1 else Reply(body=b'{"token": "t"}')
        if asked.headers.get("authorization") != "Bearer t":
            realm = f'Bearer realm="http://{asked.headers["host"]}/token",service="s"'
            return Reply(401, headers={"WWW-Authenticate": realm})
        return good(asked)

    with run_web(respond) as web:
        async with Registry.open(
            config=RegistryConfig.empty(), plain_http=frozenset([web.address]), retry=AT_ONCE
        ) as client:
            reference = parse_reference(f"{web.address}/app:1")
            assert await client.resolve(reference, Platform("linux", "amd64"))
    assert len(tries) == 2


@pytest.fixture
def clock() -> trio.testing.MockClock:
    """Hours pass in no time; loopback is given a moment before they do."""
    return trio.testing.MockClock(autojump_threshold=0.5)


async def test_the_wait_that_a_registry_asks_for_is_kept(
    clock: trio.testing.MockClock, faults: FaultyRegistry
) -> None:
    fault = faults.add(Fault(on_manifests, refused(429, {"Retry-After": "25"})))
    with run_web(faults) as web:
        assert await resolve(web)
    assert fault.met == 1
    assert clock.current_time() >= 25


async def test_a_wait_that_is_too_long_is_not_begun(
    clock: trio.testing.MockClock, faults: FaultyRegistry
) -> None:
    fault = faults.add(Fault(on_manifests, refused(429, {"Retry-After": "31"}), times=100))
    with run_web(faults) as web, pytest.raises(errors.RegistryUnavailable, match="answers 429"):
        await resolve(web)
    assert fault.met == 1
    assert clock.current_time() < 25


async def test_a_peer_that_is_not_trusted_is_asked_once(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    policy = RetryPolicy(first_s=3600, total_s=10_000)  # the suite's timeout would tell a retry
    with run_web(shelf(), tls=certificate) as web:
        async with Registry.open(config=RegistryConfig.empty(), retry=policy) as client:
            with pytest.raises(errors.RegistryUnavailable, match="certificate verify failed"):
                await client.resolve(
                    parse_reference(f"{web.address}/app:1"), Platform("linux", "amd64")
                )
