"""One layer pulled from a registry that a test spoils, by a first pass or by a fill."""

from pathlib import Path

import pytest

from clipfs import errors
from clipfs.image.mirrors import NO_MIRRORS, Mirrors
from clipfs.image.retry import RetryPolicy
from clipfs.layer.job import RANGES, Ranges
from clipfs.tiers.settings import TierHooks
from clipfs.tiers.stack import Tiers
from tests.support.faulty_registry import on_downloads
from tests.support.samples import Sample, make_sample
from tests.support.tier_stack import opened_tiers
from tests.support.web import Responder, WebServer, run_web

AT_ONCE = RetryPolicy(first_s=0)
NAME = "tiers/broken:1"
SIZE = (3 << 20) + 12_345

EITHER = pytest.mark.parametrize("indexed", [False, True], ids=["first-pass", "fill"])


def pushed(
    folder: Path, registry: str, *, seed: int, codec: str = "gzip", content_bytes: int = SIZE
) -> Sample:
    """Noise, in the registry as NAME: its blob is as large as its payload."""
    made = make_sample(folder / "tar", content_bytes=content_bytes, seed=seed, codec=codec)
    made.push(registry, NAME)
    return made


async def pulled(
    root: Path,
    sample: Sample,
    respond: Responder,
    *,
    indexed: bool,
    mirrors: Mirrors = NO_MIRRORS,
    ranges: Ranges = RANGES,
    keep_alive: bool = False,
    retry: RetryPolicy = AT_ONCE,
) -> WebServer:
    """The sample through respond, in a first pass or a fill: whole, and counted once."""
    received: list[int] = []
    hooks = TierHooks(on_download=received.append)
    with run_web(respond, keep_alive=keep_alive) as web:
        async with opened_tiers(
            root, f"{web.address}/{NAME}", hooks=hooks, retry=retry, mirrors=mirrors, ranges=ranges
        ) as tiers:
            await pull(tiers, sample, indexed=indexed)
    assert (root / "cache" / sample.key).read_bytes() == sample.payload
    assert list((root / "partial").iterdir()) == []
    assert sum(received) == sample.layer.size
    assert min(received) >= 0
    return web


async def failed(
    root: Path,
    sample: Sample,
    web: WebServer,
    kind: type[errors.ClipError],
    *,
    indexed: bool,
    ranges: Ranges = RANGES,
    retry: RetryPolicy = AT_ONCE,
) -> str:
    """The words of the error that a pull through web ends with; nothing unverified is left."""
    name = f"{web.address}/{NAME}"
    async with opened_tiers(root, name, retry=retry, ranges=ranges) as tiers:
        with pytest.raises(kind) as caught:
            await pull(tiers, sample, indexed=indexed)
    assert list((root / "cache").iterdir()) == []
    assert list((root / "partial").glob("*.first")) == []
    return str(caught.value)


async def pull(tiers: Tiers, sample: Sample, *, indexed: bool) -> None:
    if indexed:
        tiers.disk.save_index(sample.layer, sample.indexed.index)
        await tiers.registry.complete(sample.indexed)
    else:
        index = await tiers.chain.load_index(sample.layer)
        assert index.chunk_digests == sample.indexed.index.chunk_digests


def asked_ranges(web: WebServer) -> list[str | None]:
    """What the downloads asked for, one after the other; None: all of it."""
    return [one.headers.get("range") for one in web.asked if on_downloads(one)]


def mirrored_by(address: str, folder: Path) -> Mirrors:
    """Every registry has this mirror, host:port; folder is made."""
    (folder / "_default").mkdir(parents=True)
    (folder / "_default/hosts.toml").write_text(f'[host."http://{address}"]')
    return Mirrors(folder)
