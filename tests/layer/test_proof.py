"""A proof: the blob comes, whole and with its digest, and nothing of it is looked at or kept."""

import random

import pytest

from clipfs import errors
from clipfs.image.model import BlobSource, Layer
from clipfs.layer.job import ONE_STREAM, RANGES, PassProgress, Ranges
from clipfs.layer.passes import PassRequest, WrongBlob, run_proof
from tests.layer.passes import layer_of, serving, workers
from tests.support.web import part_of, run_web

BLOB = random.Random(3).randbytes((9 << 20) + 77)  # no tar, no codec: that is not its affair
SMALL_RANGES = Ranges(connections=4, segment_bytes=1 << 20, from_bytes=1)


async def proof(
    layer: Layer, url: str, *, ranges: Ranges = RANGES, tells_wrong: bool = False
) -> list[PassProgress]:
    """What was said on the way."""
    said: list[PassProgress] = []
    request = PassRequest(
        layer=layer,
        source=BlobSource(url=url, headers={}),
        payload_fd=None,
        ranges=ranges,
        tells_wrong=tells_wrong,
    )
    await run_proof(request, on_progress=said.append)
    return said


@pytest.mark.parametrize("blob", [BLOB, b"x", b""], ids=["large", "one byte", "empty"])
async def test_a_blob_of_any_content_is_proved_by_its_digest(blob: bytes) -> None:
    with serving(blob) as server:
        said = await proof(layer_of(blob, b"whatever"), server.url)
    told = [one.downloaded_bytes for one in said]
    assert told == sorted(told)
    assert {one.payload_bytes for one in said} <= {0}
    assert bool(told) == (blob is BLOB)
    assert workers() == []


@pytest.mark.parametrize("ranges", [ONE_STREAM, SMALL_RANGES], ids=["one stream", "ranges"])
async def test_it_comes_in_ranges_as_a_passes_blob_does(ranges: Ranges) -> None:
    with run_web(lambda asked: part_of(BLOB, asked)) as web:
        await proof(layer_of(BLOB, b""), f"http://{web.address}/", ranges=ranges)
        assert any("range" in one.headers for one in web.asked) == (ranges is SMALL_RANGES)


@pytest.mark.parametrize("tells_wrong", [False, True])
@pytest.mark.parametrize("at", [0, len(BLOB) // 2, len(BLOB) - 1])
async def test_one_other_byte_is_a_wrong_blob(at: int, tells_wrong: bool) -> None:
    wrong = bytearray(BLOB)
    wrong[at] ^= 1
    kind = WrongBlob if tells_wrong else errors.CorruptImage
    with (
        serving(bytes(wrong)) as server,
        pytest.raises(kind, match="the registry sent a wrong blob"),
    ):
        await proof(layer_of(BLOB, b""), server.url, tells_wrong=tells_wrong)


@pytest.mark.parametrize("blob", [BLOB[:-1], BLOB + b"x"], ids=["shorter", "longer"])
async def test_another_length_is_no_proof(blob: bytes) -> None:
    with serving(blob) as server, pytest.raises(errors.CorruptImage, match=str(len(blob))):
        await proof(layer_of(BLOB, b""), server.url)


async def test_a_blob_that_ends_early_is_no_proof() -> None:
    with (
        serving(BLOB[:-1], stated_bytes=len(BLOB)) as server,
        pytest.raises(errors.RegistryUnavailable),
    ):
        await proof(layer_of(BLOB, b""), server.url)
