"""The full pass in its worker: a blob becomes payload and index, or one named error and nothing."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from clipfs import errors
from clipfs.image.blob import BlobBreak
from clipfs.image.model import BlobSource, Layer
from clipfs.layer import index as layer_index
from clipfs.layer.blob.download import READ_BYTES
from clipfs.layer.index import CHUNK_BYTES
from clipfs.layer.job import PassProgress
from clipfs.layer.passes import PassRequest, run_pass
from tests.layer.blobs import gzip_member, zstd_frame
from tests.layer.passes import chunk_digests, first_pass, ignore, layer_of, serving, workers
from tests.layer.tars import END, entries_of, member
from tests.support import images
from tests.support.registry import RegistryServer
from tests.support.wait import wait_for

NOISE = random.Random(1).randbytes(3_000_000)
PAYLOAD = member(b"noise", NOISE) + member(b"text", b"text" * 700_000) + END + b"signature"
HALF = len(PAYLOAD) // 2
CODECS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip_member,
    "gzip-members": lambda data: gzip_member(data[:HALF]) + gzip_member(data[HALF:]),
    "zstd": zstd_frame,
    "zstd-frames": lambda data: zstd_frame(data[:HALF]) + zstd_frame(data[HALF:]),
    "plain": bytes,
}


@pytest.mark.parametrize("codec", CODECS)
async def test_a_pass_writes_the_payload_and_gives_its_index(codec: str, tmp_path: Path) -> None:
    blob, seen = CODECS[codec](PAYLOAD), list[PassProgress]()
    with serving(blob) as server:
        result = await first_pass(
            layer_of(blob, PAYLOAD), server.url, tmp_path / "payload", on_progress=seen.append
        )
    assert (tmp_path / "payload").read_bytes() == PAYLOAD
    assert result.index.diff_id == layer_of(blob, PAYLOAD).diff_id
    assert result.index.payload_bytes == len(PAYLOAD)
    assert result.index.chunk_digests == chunk_digests(PAYLOAD)
    assert result.index.entries() == entries_of(PAYLOAD)
    assert result.warnings == ()
    assert seen == sorted(seen, key=lambda one: one.payload_bytes)
    assert seen[-1] == PassProgress(downloaded_bytes=len(blob), payload_bytes=len(PAYLOAD))


async def test_the_index_does_not_depend_on_the_codec(tmp_path: Path) -> None:
    found = set()
    for codec, compress in CODECS.items():
        blob = compress(PAYLOAD)
        with serving(blob) as server:
            result = await first_pass(layer_of(blob, PAYLOAD), server.url, tmp_path / codec)
        found.add(layer_index.encode(result.index))
    assert len(found) == 1


@pytest.mark.parametrize("length", [0, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1])
async def test_payloads_end_at_any_byte(length: int, tmp_path: Path) -> None:
    payload = bytes(length)
    with serving(payload) as server:
        result = await first_pass(layer_of(payload, payload), server.url, tmp_path / "payload")
    assert result.index.chunk_digests == chunk_digests(payload)


@pytest.mark.parametrize("codec", ["gzip", "zstd", "plain"])
async def test_a_blob_of_a_real_registry(
    codec: str, registry: RegistryServer, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/noise").write_bytes(NOISE)
    packed = images.layer(tmp_path / "folder", tmp_path / "tar")
    images.write_layout(tmp_path / "oci", [packed], codec=codec)
    images.push(tmp_path / "oci", registry.address, f"layer-pass-{codec}")
    blob, payload = packed.blob(codec), packed.tar.read_bytes()
    layer = layer_of(blob, payload)
    url = f"http://{registry.address}/v2/layer-pass-{codec}/blobs/{layer.digest}"
    result = await first_pass(layer, url, tmp_path / "payload")
    assert (tmp_path / "payload").read_bytes() == payload
    assert result.index.entries() == entries_of(payload)
    wait_for(lambda: f"/v2/layer-pass-{codec}/blobs/{layer.digest}" in registry.blob_reads())


async def test_garbage_after_a_gzip_blob_is_told_and_counts_for_its_digest(tmp_path: Path) -> None:
    blob = gzip_member(PAYLOAD) + bytes(3_000_000)
    with serving(blob) as server:
        result = await first_pass(layer_of(blob, PAYLOAD), server.url, tmp_path / "payload")
    assert result.index.payload_bytes == len(PAYLOAD)
    assert len(result.warnings) == 1
    assert "trailing garbage" in result.warnings[0]


GOOD = gzip_member(PAYLOAD)
OTHER = gzip_member(PAYLOAD[:-1] + b"X")
SPARSE = member(b"s", typeflag=b"S") + END
BROKEN = member(b"a", b"x" * 700)[:900]
BOMB = zstd_frame(bytes(70 << 20))


@pytest.mark.parametrize(
    ("layer", "blob", "kind", "words"),
    [
        pytest.param(
            layer_of(GOOD, PAYLOAD),
            OTHER[: len(GOOD)].ljust(len(GOOD), b"\0"),
            errors.CorruptImage,
            "sha256|gzip",
            id="wrong-blob",
        ),
        pytest.param(
            layer_of(GOOD + b"\0", PAYLOAD),
            GOOD + b"\1",
            errors.CorruptImage,
            "a wrong blob",
            id="wrong-blob-with-the-right-payload",
        ),
        pytest.param(
            layer_of(GOOD, PAYLOAD + b"\0"),
            GOOD,
            errors.CorruptImage,
            "diff_id",
            id="wrong-diff-id",
        ),
        pytest.param(
            layer_of(GOOD[:-9], PAYLOAD),
            GOOD[:-9],
            errors.CorruptImage,
            "truncated",
            id="truncated-gzip-as-published",
        ),
        pytest.param(
            layer_of(zstd_frame(PAYLOAD)[:-9], PAYLOAD),
            zstd_frame(PAYLOAD)[:-9],
            errors.CorruptImage,
            "truncated",
            id="truncated-zstd-as-published",
        ),
        pytest.param(
            layer_of(GOOD, PAYLOAD),
            GOOD + b"more",
            errors.CorruptImage,
            "manifest says",
            id="too-long",
        ),
        pytest.param(
            layer_of(GOOD, PAYLOAD), GOOD[:-1], errors.CorruptImage, "manifest says", id="too-short"
        ),
        pytest.param(
            layer_of(BROKEN, BROKEN), BROKEN, errors.CorruptImage, "ends early", id="broken-tar"
        ),
        pytest.param(
            layer_of(BOMB, bytes(70 << 20)), BOMB, errors.CorruptImage, "over 67108864", id="bomb"
        ),
        pytest.param(
            layer_of(SPARSE, SPARSE),
            SPARSE,
            errors.UnsupportedImage,
            "sparse",
            id="sparse-not-gnu",
        ),
    ],
)
async def test_a_wrong_blob_is_refused_by_the_name_of_its_layer(
    layer: Layer, blob: bytes, kind: type[errors.ClipError], words: str, tmp_path: Path
) -> None:
    with serving(blob) as server, pytest.raises(kind, match=f"{layer.digest}: .*({words})"):
        await first_pass(layer, server.url, tmp_path / "payload")


async def test_a_blob_that_ends_early_may_be_whole_the_next_time(tmp_path: Path) -> None:
    layer = layer_of(GOOD, PAYLOAD)
    with (
        serving(GOOD[:HALF], stated_bytes=len(GOOD)) as server,
        pytest.raises(errors.RegistryUnavailable, match="try again"),
    ):
        await first_pass(layer, server.url, tmp_path / "payload")
    with serving(GOOD) as server:
        await first_pass(layer, server.url, tmp_path / "payload")
    assert (tmp_path / "payload").read_bytes() == PAYLOAD


async def test_a_server_that_stalls_is_left_for_another_source(tmp_path: Path) -> None:
    """The other one knows no ranges: what has come is not written twice."""
    held = READ_BYTES + 1
    breaks: list[BlobBreak] = []
    with serving(GOOD, hold_at=held) as stalling, serving(GOOD) as other:

        async def on_break(broken: BlobBreak) -> BlobSource:
            breaks.append(broken)
            return BlobSource(url=other.url, headers={})

        with (tmp_path / "payload").open("wb+") as payload:
            request = PassRequest(
                layer=layer_of(GOOD, PAYLOAD),
                source=BlobSource(url=stalling.url, headers={}),
                payload_fd=payload.fileno(),
                stall_s=0.5,
            )
            await run_pass(request, on_progress=ignore, on_break=on_break)
        assert stalling.reached.is_set()
        assert other.headers[0]["Range"] == f"bytes={held}-"
    assert (tmp_path / "payload").read_bytes() == PAYLOAD
    assert [(one.at_bytes, type(one.error)) for one in breaks] == [
        (held, errors.RegistryUnavailable)
    ]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, errors.Unauthenticated),
        (403, errors.AccessDenied),
        (404, errors.ImageNotFound),
        (429, errors.RegistryUnavailable),
        (500, errors.RegistryUnavailable),
        (307, errors.RegistryUnavailable),
    ],
)
async def test_a_refusal_of_the_registry_has_its_error(
    status: int, kind: type[errors.ClipError], tmp_path: Path
) -> None:
    with serving(b"", status=status) as server, pytest.raises(kind, match="blob sha256:"):
        await first_pass(layer_of(GOOD, PAYLOAD), server.url, tmp_path / "payload")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/blob",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:x/",
        "http://\xe9:1/\xe9",
    ],
    ids=["nobody-listens", "no-such-port", "port-no-number", "not-ascii"],
)
async def test_a_registry_that_cannot_be_reached_is_unavailable(url: str, tmp_path: Path) -> None:
    with pytest.raises(errors.RegistryUnavailable, match="blob sha256:"):
        await first_pass(layer_of(GOOD, PAYLOAD), url, tmp_path / "payload")


async def test_a_full_disk_is_told_as_such() -> None:
    with serving(GOOD) as server, pytest.raises(errors.DiskFull, match="No space left"):
        await first_pass(layer_of(GOOD, PAYLOAD), server.url, Path("/dev/full"))


async def test_a_credential_goes_to_the_registry_and_is_seen_nowhere_else(tmp_path: Path) -> None:
    headers = {"Authorization": "Bearer s3cret-t0ken"}
    with serving(GOOD, hold_at=100) as server:

        async def run() -> None:
            layer = layer_of(GOOD, PAYLOAD)
            await first_pass(layer, server.url, tmp_path / "payload", headers=headers)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await trio.to_thread.run_sync(server.reached.wait)
            (worker,) = workers()
            for name in ("cmdline", "environ"):
                words = await trio.Path(f"/proc/{worker}/{name}").read_bytes()
                assert words
                assert b"s3cret-t0ken" not in words
            server.go.set()
        assert server.headers[0]["Authorization"] == "Bearer s3cret-t0ken"
