"""A host that serves a wrong blob of the right length: the next is asked, a warning names it.

The registry is a real one; the mirrors are proxies in front of it that change its answers.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from clipfs import errors
from clipfs.image.digest import Digest
from clipfs.image.mirrors import Mirrors
from clipfs.image.model import Layer
from clipfs.layer.job import RANGES, PassProgress, Ranges
from clipfs.tiers.settings import TierHooks
from tests.support.faulty_registry import (
    Fault,
    FaultyRegistry,
    Spoil,
    cut_short,
    on_downloads,
    on_range_from,
    wrong_at,
)
from tests.support.registry import RegistryServer
from tests.support.samples import Sample
from tests.support.tier_stack import opened_tiers
from tests.support.web import Asked, Reply, WebServer, run_web
from tests.tiers.downloads import AT_ONCE, EITHER, NAME, SIZE, asked_ranges, pull, pushed


@pytest.fixture(scope="module", params=["gzip", "plain"])
def layer(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    registry: RegistryServer,
) -> Sample:
    """Of a plain blob nothing but its digest tells that it is another one."""
    folder = tmp_path_factory.mktemp("wrong")
    return pushed(folder, registry.address, seed=6, codec=request.param)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosts:
    """Mirrors in their order and the registry last: a proxy and its server each."""

    proxies: list[FaultyRegistry]
    webs: list[WebServer]
    mirrors: Mirrors
    progress: list[int] = field(default_factory=list)

    def addresses(self) -> list[str]:
        return [web.address for web in self.webs]

    async def pull(
        self,
        root: Path,
        sample: Sample,
        *,
        indexed: bool = False,
        ranges: Ranges = RANGES,
        corrupt: str | None = None,
    ) -> list[str]:
        """The hosts that are warned of; corrupt: it fails with these words."""

        def on_progress(_: Layer, progress: PassProgress) -> None:
            self.progress.append(progress.downloaded_bytes)

        name = f"{self.webs[-1].address}/{NAME}"
        with capture_logs() as logs:
            async with opened_tiers(
                root,
                name,
                hooks=TierHooks(on_progress=on_progress),
                retry=AT_ONCE,
                mirrors=self.mirrors,
                ranges=ranges,
            ) as tiers:
                with (
                    pytest.raises(errors.CorruptImage, match=corrupt) if corrupt else nullcontext()
                ):
                    await pull(tiers, sample, indexed=indexed)
        said = [one for one in logs if one["event"] == "host sent a wrong blob"]
        assert all(one["log_level"] == "warning" for one in said)
        return [one["host"].removeprefix("http://").removesuffix("/v2") for one in said]


@contextmanager
def hosts(registry: RegistryServer, folder: Path, *, mirrors: int) -> Iterator[Hosts]:
    with ExitStack() as stack:
        proxies = [FaultyRegistry(registry.address) for _ in range(mirrors + 1)]
        webs = [stack.enter_context(run_web(proxy)) for proxy in proxies]
        (folder / "_default").mkdir(parents=True)
        lines = [f'[host."http://{web.address}"]\n' for web in webs[:-1]]
        (folder / "_default/hosts.toml").write_text("".join(lines))
        yield Hosts(proxies=proxies, webs=webs, mirrors=Mirrors(folder))


@EITHER
@pytest.mark.parametrize("at", [0, SIZE // 2, -1], ids=["first-byte", "in-the-middle", "last-byte"])
async def test_a_mirror_with_another_blob_is_left_for_the_next_host(
    at: int, indexed: bool, registry: RegistryServer, layer: Sample, tmp_path: Path
) -> None:
    with hosts(registry, tmp_path / "mirrors", mirrors=2) as found:
        bad = [proxy.add(Fault(on_downloads, wrong_at(at), times=9)) for proxy in found.proxies[:2]]
        warned = await found.pull(tmp_path / "root", layer, indexed=indexed)
        assert [fault.met for fault in bad] == [1, 1]
        assert warned == found.addresses()[:2]
        assert asked_ranges(found.webs[2]) == [None]
    assert (tmp_path / "root/cache" / layer.key).read_bytes() == layer.payload
    assert list((tmp_path / "root/partial").iterdir()) == []
    assert found.progress == sorted(found.progress)


@EITHER
async def test_it_is_corrupt_once_the_last_host_has_another_blob_too(
    indexed: bool, registry: RegistryServer, layer: Sample, tmp_path: Path
) -> None:
    with hosts(registry, tmp_path / "mirrors", mirrors=1) as found:
        bad = [proxy.add(Fault(on_downloads, wrong_at(-1), times=9)) for proxy in found.proxies]
        await found.pull(
            tmp_path / "root",
            layer,
            indexed=indexed,
            corrupt=layer.layer.digest,
        )
        assert [fault.met for fault in bad] == [1, 1]
    assert list((tmp_path / "root/cache").iterdir()) == []
    assert list((tmp_path / "root/partial").glob("*.first")) == []


async def test_a_blob_of_two_hosts_parts_is_fetched_from_the_last_alone(
    registry: RegistryServer, layer: Sample, tmp_path: Path
) -> None:
    """The mirror's part was wrong, which nobody can tell from the registry's."""
    with hosts(registry, tmp_path / "mirrors", mirrors=1) as found:

        def spoil(asked: Asked, reply: Reply) -> Reply:
            return cut_short(1_000_000)(asked, wrong_at(5)(asked, reply))

        bad = found.proxies[0].add(Fault(on_downloads, spoil, times=9))
        await found.pull(tmp_path / "root", layer)
        assert bad.met == 1
        assert asked_ranges(found.webs[1]) == ["bytes=1000000-", None]
    assert (tmp_path / "root/cache" / layer.key).read_bytes() == layer.payload


async def test_an_image_that_is_corrupt_itself_is_no_mirrors_fault(
    registry: RegistryServer, layer: Sample, tmp_path: Path
) -> None:
    """The blob is the manifest's; its payload is not the config's."""
    wrong = replace(layer.layer, diff_id=Digest("sha256:" + "0" * 64))
    corrupt = replace(layer, indexed=replace(layer.indexed, layer=wrong))
    with hosts(registry, tmp_path / "mirrors", mirrors=1) as found:
        warned = await found.pull(tmp_path / "root", corrupt, corrupt="diff_id")
        assert warned == []
        assert asked_ranges(found.webs[0]) == [None]
        assert asked_ranges(found.webs[1]) == []


async def test_a_large_blob_that_is_refused_at_its_beginning_is_not_read_to_its_end(
    registry: RegistryServer, layer: Sample, tmp_path: Path
) -> None:
    """There is one host, and it was asked once: no range, and no other host, can be at fault."""
    some = Ranges(connections=4, segment_bytes=1 << 18, from_bytes=1 << 20)
    with hosts(registry, tmp_path / "mirrors", mirrors=0) as found:
        found.proxies[0].bytes_per_s = 6e6
        bad = found.proxies[0].add(Fault(on_downloads, wrong_at(0), times=9))
        warned = await found.pull(tmp_path / "root", layer, ranges=some, corrupt=layer.layer.digest)
        assert bad.met == 1
        assert warned == []
        assert asked_ranges(found.webs[0]) == ["bytes=0-"]


@pytest.mark.parametrize("mirrors", [0, 1])
async def test_a_blob_that_came_wrong_in_ranges_is_fetched_once_more_in_one_stream(
    mirrors: int, registry: RegistryServer, layer: Sample, tmp_path: Path
) -> None:
    """There are caches that say the right range and send another one's bytes."""
    segment = 1 << 18
    some = Ranges(connections=4, segment_bytes=segment, from_bytes=1 << 20)
    spoil: Spoil = wrong_at(77)
    with hosts(registry, tmp_path / "mirrors", mirrors=mirrors) as found:
        for proxy in found.proxies:
            proxy.bytes_per_s = 6e6
        bad = [
            proxy.add(Fault(on_range_from(7 * segment), spoil, times=9)) for proxy in found.proxies
        ]
        await found.pull(tmp_path / "root", layer, ranges=some)
        assert [fault.met for fault in bad] == [1] + [0] * mirrors
        assert asked_ranges(found.webs[-1])[-1] is None
    assert (tmp_path / "root/cache" / layer.key).read_bytes() == layer.payload
