"""A layer's download through a proxy that breaks it: the right payload, or the right error.

The registry is a real one; each test counts how often its fault was met.
"""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from clipfs import errors
from clipfs.image.blob import PROGRESS_BYTES
from tests.support.faulty_registry import (
    Fault,
    FaultyRegistry,
    Spoil,
    cut_short,
    on_downloads,
    on_probes,
    on_resumes,
    refused,
    relayed,
    silenced,
    without_ranges,
    wrong_at,
)
from tests.support.registry import RegistryServer
from tests.support.samples import Sample
from tests.support.web import Asked, Reply, run_web
from tests.tiers.downloads import (
    AT_ONCE,
    EITHER,
    SIZE,
    asked_ranges,
    failed,
    mirrored_by,
    pulled,
    pushed,
)

RESUMES = AT_ONCE.attempts - 1


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory, registry: RegistryServer) -> Sample:
    return pushed(tmp_path_factory.mktemp("broken"), registry.address, seed=3)


@pytest.fixture
def faults(registry: RegistryServer, layer: Sample) -> FaultyRegistry:
    return FaultyRegistry(registry.address)


@EITHER
@pytest.mark.parametrize("seed", range(5))
async def test_a_download_that_breaks_off_anywhere_goes_on_where_it_was(
    seed: int, indexed: bool, faults: FaultyRegistry, layer: Sample, tmp_path: Path
) -> None:
    lengths = [random.Random(seed + turn).randrange(1, SIZE // 4) for turn in range(3)]
    for length in lengths:
        faults.add(Fault(on_downloads, cut_short(length)))
    web = await pulled(tmp_path, layer, faults, indexed=indexed)
    assert [fault.met for fault in faults.faults] == [1, 1, 1]
    assert asked_ranges(web) == [None, *(f"bytes={sum(lengths[:n])}-" for n in (1, 2, 3))]


@EITHER
@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(refused(401), id="401"),
        pytest.param(refused(403), id="403"),
        pytest.param(refused(404), id="404"),
        pytest.param(refused(416), id="416"),
        pytest.param(refused(429, {"Retry-After": "0"}), id="429"),
        pytest.param(refused(500), id="500"),
        pytest.param(silenced, id="silence"),
        pytest.param(cut_short(0), id="no-byte"),
        pytest.param(
            lambda _, reply: Reply(206, {"Content-Range": "bytes 7777777-9/10"}, reply.body),
            id="another-range",
        ),
        pytest.param(lambda _, reply: Reply(206, body=reply.body), id="no-content-range"),
    ],
)
async def test_a_resume_that_is_refused_is_tried_again(
    spoil: Spoil, indexed: bool, faults: FaultyRegistry, layer: Sample, tmp_path: Path
) -> None:
    faults.add(Fault(on_downloads, cut_short(100_000)))
    fault = faults.add(Fault(on_resumes, spoil, times=2))
    web = await pulled(tmp_path, layer, faults, indexed=indexed)
    assert fault.met == 2
    assert asked_ranges(web) == [None, *["bytes=100000-"] * 3]


async def test_a_registry_that_knows_no_ranges_sends_it_again_from_the_start(
    faults: FaultyRegistry, layer: Sample, tmp_path: Path
) -> None:
    faults.add(Fault(on_downloads, cut_short(1_500_000)))
    fault = faults.add(Fault(on_resumes, without_ranges(faults.upstream)))
    await pulled(tmp_path, layer, faults, indexed=False)
    assert fault.met == 1


async def test_a_redirect_that_a_resume_meets_is_followed(
    faults: FaultyRegistry, layer: Sample, tmp_path: Path
) -> None:
    """The registry has moved the blob to a store meanwhile."""
    faults.add(Fault(on_downloads, cut_short(1_000)))
    with run_web(lambda asked: relayed(faults.upstream, asked)) as store:

        def away(asked: Asked, _: Reply) -> Reply:
            return Reply(307, {"Location": f"http://{store.address}{asked.path}"})

        fault = faults.add(Fault(on_resumes, away))
        faults.add(Fault(lambda asked: on_probes(asked) and fault.met > 0, away))
        await pulled(tmp_path, layer, faults, indexed=False)
    assert [one.met for one in faults.faults] == [1, 1, 1]
    assert asked_ranges(store) == ["bytes=1000-"]


async def test_more_attempts_are_given_to_a_download_that_gets_on(
    faults: FaultyRegistry, layer: Sample, tmp_path: Path
) -> None:
    faults.add(Fault(on_downloads, silenced, times=RESUMES))
    faults.add(Fault(on_downloads, cut_short(PROGRESS_BYTES + 1)))
    faults.add(Fault(on_resumes, silenced, times=RESUMES - 1))
    await pulled(tmp_path, layer, faults, indexed=False)
    assert [one.met for one in faults.faults] == [one.times for one in faults.faults]


@EITHER
@pytest.mark.parametrize(
    ("spoil", "kind", "met"),
    [
        pytest.param(silenced, errors.RegistryUnavailable, RESUMES, id="silence"),
        pytest.param(cut_short(9), errors.RegistryUnavailable, RESUMES, id="nine-bytes"),
        pytest.param(refused(500), errors.RegistryUnavailable, RESUMES, id="500"),
        pytest.param(
            refused(429, {"Retry-After": "3600"}), errors.RegistryUnavailable, 1, id="429-for-long"
        ),
        pytest.param(refused(401), errors.Unauthenticated, RESUMES, id="401"),
        pytest.param(refused(403), errors.AccessDenied, RESUMES, id="403"),
        pytest.param(refused(404), errors.ImageNotFound, RESUMES, id="404"),
        pytest.param(wrong_at(-1), errors.CorruptImage, 1, id="wrong-byte"),
    ],
)
async def test_a_fault_that_stays_ends_the_download_and_leaves_nothing_unverified(
    spoil: Spoil,
    kind: type[errors.ClipError],
    met: int,
    indexed: bool,
    faults: FaultyRegistry,
    layer: Sample,
    tmp_path: Path,
) -> None:
    faults.add(Fault(on_downloads, cut_short(500_000)))
    fault = faults.add(Fault(on_downloads, spoil, times=100))
    with run_web(faults) as web:
        await failed(tmp_path, layer, web, kind, indexed=indexed)
    assert fault.met == met
    faults.faults.clear()
    await pulled(tmp_path, layer, faults, indexed=indexed)


async def test_a_token_that_expires_in_the_middle_is_replaced(
    registry: RegistryServer, layer: Sample, tmp_path: Path
) -> None:
    """Each token is good for one answer's beginning: the rest of a blob wants a new one."""
    tokens: list[str] = []
    refusals: list[str] = []
    cut = cut_short(1_000_000)

    def respond(asked: Asked) -> Reply:
        if asked.path.startswith("/token"):
            tokens.append(f"t{len(tokens)}")
            return Reply(body=b'{"token": "%s"}' % tokens[-1].encode())
        if asked.headers.get("authorization") != f"Bearer t{len(tokens) - 1}":
            refusals.append(asked.path)
            realm = f'Bearer realm="http://{asked.headers["host"]}/token"'
            return Reply(401, {"WWW-Authenticate": realm})
        reply = relayed(registry.address, asked)
        if not on_downloads(asked) or len(tokens) > 2:
            return reply
        tokens.append("spent")
        return cut(asked, reply)

    await pulled(tmp_path, layer, respond, indexed=False)
    assert tokens[0] == "t0"
    assert tokens[1] == "spent"
    assert len(refusals) == 2


async def test_a_signed_url_that_has_expired_is_asked_for_again(
    registry: RegistryServer, layer: Sample, tmp_path: Path
) -> None:
    """Between the probe that found it and the download that goes on there."""
    signed: list[str] = []
    cut = cut_short(1_000_000)
    expired: list[str] = []

    def store(asked: Asked) -> Reply:
        path, _, signature = asked.path.partition("?")
        if on_resumes(asked) and not expired:
            expired.append(signature)
        if signature in expired:
            return Reply(403)
        reply = relayed(registry.address, replace(asked, path=path))
        return reply if "range" in asked.headers else cut(asked, reply)

    with run_web(store) as blobs:

        def respond(asked: Asked) -> Reply:
            signed.append(f"key={len(signed)}")
            return Reply(307, {"Location": f"http://{blobs.address}{asked.path}?{signed[-1]}"})

        await pulled(tmp_path, layer, respond, indexed=False)
    assert signed == ["key=0", "key=1", "key=2"]
    assert expired == ["key=1"]


@EITHER
async def test_a_download_that_a_mirror_breaks_off_goes_on_at_the_registry(
    indexed: bool, registry: RegistryServer, layer: Sample, tmp_path: Path
) -> None:
    broken = FaultyRegistry(registry.address)
    fault = broken.add(Fault(on_downloads, cut_short(1_000_000), times=100))
    with run_web(broken) as mirror:
        web = await pulled(
            tmp_path / "root",
            layer,
            FaultyRegistry(registry.address),
            indexed=indexed,
            mirrors=mirrored_by(mirror.address, tmp_path / "mirrors"),
        )
    assert fault.met == 1
    assert asked_ranges(web) == ["bytes=1000000-"]
