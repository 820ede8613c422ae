"""A manifest that lies about a layer's size: told by what the registry says of it, and at once."""

from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from clipfs import errors
from clipfs.layer.job import RANGES, Ranges
from tests.support.faulty_registry import (
    Fault,
    FaultyRegistry,
    Spoil,
    on_downloads,
    on_probes,
    on_resumes,
    without_ranges,
)
from tests.support.registry import RegistryServer
from tests.support.samples import Sample
from tests.support.web import Asked, Reply, WebServer, run_web
from tests.tiers.downloads import EITHER, asked_ranges, failed, mirrored_by, pulled, pushed

SIZE = (1 << 20) + 12_345
IN_RANGES = Ranges(connections=4, segment_bytes=1 << 18, from_bytes=1 << 18)


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory, registry: RegistryServer) -> Sample:
    return pushed(tmp_path_factory.mktemp("sizes"), registry.address, seed=8, content_bytes=SIZE)


def with_size(sample: Sample, by: int) -> Sample:
    wrong = replace(sample.layer, size=sample.layer.size + by)
    return replace(sample, indexed=replace(sample.indexed, layer=wrong))


async def corrupt(
    root: Path, sample: Sample, web: WebServer, *, indexed: bool, ranges: Ranges = RANGES
) -> str:
    """The words of the CorruptImage that a pull ends with; they name the layer."""
    kind = errors.CorruptImage
    said = await failed(root, sample, web, kind, indexed=indexed, ranges=ranges)
    assert sample.layer.digest in said
    return said


@EITHER
@pytest.mark.parametrize("by", [1, -1, 1 << 30, -SIZE // 2])
async def test_a_size_that_is_wrong_is_told_with_both_figures_before_any_download(
    by: int, indexed: bool, registry: RegistryServer, layer: Sample, tmp_path: Path
) -> None:
    with run_web(FaultyRegistry(registry.address)) as web:
        text = await corrupt(tmp_path, with_size(layer, by), web, indexed=indexed)
        assert asked_ranges(web) == []
        assert len([one for one in web.asked if on_probes(one)]) == 1
    true = layer.layer.size
    assert f"the manifest says {true + by} bytes, the registry has {true}" in text


def no_total(_: Asked, reply: Reply) -> Reply:
    return Reply(206, body=reply.body[:1])


@EITHER
@pytest.mark.parametrize("by", [1, -1])
@pytest.mark.parametrize("ranges", [RANGES, IN_RANGES], ids=["one-stream", "in-ranges"])
async def test_where_the_probe_tells_no_size_the_first_answer_does(
    ranges: Ranges, by: int, indexed: bool, registry: RegistryServer, layer: Sample, tmp_path: Path
) -> None:
    faults = FaultyRegistry(registry.address)
    fault = faults.add(Fault(on_probes, no_total, times=100))
    with run_web(faults) as web:
        text = await corrupt(tmp_path, with_size(layer, by), web, indexed=indexed, ranges=ranges)
        assert len(asked_ranges(web)) == 1
    assert fault.met == 1
    true = layer.layer.size
    assert f"the manifest says {true + by} bytes, {web.address} has {true}" in text


def unsized(asked: Asked, reply: Reply) -> Reply:
    """The body's end is the connection's."""
    del asked
    return Reply(raw=b"HTTP/1.1 200 OK\r\n\r\n" + reply.body)


async def test_what_tells_no_size_but_ends_early_is_told_by_the_refused_rest(
    registry: RegistryServer, layer: Sample, tmp_path: Path
) -> None:
    faults = FaultyRegistry(registry.address)
    faults.add(Fault(on_probes, no_total, times=100))
    faults.add(Fault(on_downloads, unsized))
    true = layer.layer.size

    def respond(asked: Asked) -> Reply:
        if on_resumes(asked):
            return Reply(416, {"Content-Range": f"bytes */{true}"})
        return faults(asked)

    with run_web(respond) as web:
        text = await corrupt(tmp_path, with_size(layer, 1), web, indexed=False)
        assert asked_ranges(web) == [None, f"bytes={true}-"]
    assert f"the manifest says {true + 1} bytes, {web.address} has {true}" in text


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(
            lambda _, reply: replace(reply, headers={"Content-Range": "bytes 0-0/7"}), id="total"
        ),
        pytest.param(lambda *_: Reply(200, body=b"portal"), id="length"),
        pytest.param(lambda *_: Reply(416, {"Content-Range": "bytes */0"}), id="nothing"),
    ],
)
async def test_a_mirror_with_a_blob_of_another_size_is_passed_by_with_a_warning(
    spoil: Spoil, registry: RegistryServer, layer: Sample, tmp_path: Path
) -> None:
    faults = FaultyRegistry(registry.address)
    fault = faults.add(Fault(on_probes, spoil, times=100))
    with run_web(faults) as mirror, capture_logs() as logs:
        web = await pulled(
            tmp_path / "root",
            layer,
            FaultyRegistry(registry.address),
            indexed=False,
            mirrors=mirrored_by(mirror.address, tmp_path / "mirrors"),
        )
    assert fault.met == 1
    assert asked_ranges(web) == [None]
    (said,) = [one for one in logs if one["event"] == "mirror passed by"]
    assert (said["log_level"], said["host"]) == ("warning", f"http://{mirror.address}/v2")


async def test_a_length_in_another_coding_tells_no_size(
    registry: RegistryServer, layer: Sample, tmp_path: Path
) -> None:
    def coded(_: Asked, reply: Reply) -> Reply:
        return Reply(200, {"Content-Encoding": "gzip"}, b"shorter")

    faults = FaultyRegistry(registry.address)
    fault = faults.add(Fault(on_probes, coded, times=100))
    faults.add(Fault(on_downloads, without_ranges(registry.address)))
    await pulled(tmp_path, layer, faults, indexed=False)
    assert fault.met == 1
