"""A fill: chunks are verified and marked as they come, by a worker that may die at any moment."""

import os
import random
import signal

import pytest
import trio

from clipfs import errors
from clipfs.layer.index import CHUNK_BYTES
from clipfs.layer.job import PassProgress
from clipfs.layer.layout import Layout
from clipfs.layer.partial import Partial
from tests.layer.blobs import gzip_member
from tests.layer.passes import fill, first_pass, index_of, layer_of, serving, workers
from tests.layer.tars import END, member
from tests.support.wait import wait_for

NOISE = random.Random(1).randbytes(60 * CHUNK_BYTES)
PAYLOAD = member(b"noise", NOISE) + END
BLOB = gzip_member(PAYLOAD, level=1)
LAYER = layer_of(BLOB, PAYLOAD)
INDEX = index_of(PAYLOAD)
HALF = len(BLOB) // 2


@pytest.fixture
def partial(layout: Layout) -> Partial:
    return Partial(layout, LAYER.cache_key, payload_bytes=len(PAYLOAD))


def marked(partial: Partial) -> set[int]:
    """The chunks that are marked; each must be the payload's."""
    absent = {chunk for run in partial.missing(range(INDEX.chunk_count)) for chunk in run}
    found = set(range(INDEX.chunk_count)) - absent
    for chunk in found:
        expected = PAYLOAD[chunk * CHUNK_BYTES : (chunk + 1) * CHUNK_BYTES]
        assert os.pread(partial.payload_fd, CHUNK_BYTES, chunk * CHUNK_BYTES) == expected
    return found


async def test_a_fill_completes_the_partial(partial: Partial, layout: Layout) -> None:
    partial.write(range(3, 4), PAYLOAD[3 * CHUNK_BYTES : 4 * CHUNK_BYTES])
    with partial, serving(BLOB) as server:
        result = await fill(LAYER, server.url, partial, INDEX)
        assert result.index.chunk_digests == INDEX.chunk_digests
        assert marked(partial) == set(range(INDEX.chunk_count))
        partial.promote()
    assert layout.payload(LAYER.cache_key).read_bytes() == PAYLOAD


async def test_chunks_can_be_read_while_the_rest_is_still_on_its_way(partial: Partial) -> None:
    seen: list[int] = []
    with partial, serving(BLOB, hold_at=HALF) as server:

        def on_progress(progress: PassProgress) -> None:
            seen.append(len(marked(partial)))
            assert seen[-1] >= progress.payload_bytes // CHUNK_BYTES
            if len(seen) == 3:
                assert not server.go.is_set()
                server.go.set()

        await fill(LAYER, server.url, partial, INDEX, on_progress=on_progress)
    assert 0 < seen[0] <= INDEX.chunk_count // 2
    assert seen[-1] == INDEX.chunk_count


async def test_a_fill_marks_no_chunk_that_is_not_the_index_s(partial: Partial) -> None:
    spoiled = bytearray(PAYLOAD)
    spoiled[40 * CHUNK_BYTES] ^= 1
    blob = gzip_member(bytes(spoiled), level=1)
    layer = layer_of(blob, bytes(spoiled))
    with partial, serving(blob) as server:
        with pytest.raises(errors.CorruptImage, match="differ from the layer's index"):
            await fill(layer, server.url, partial, INDEX)
        assert 0 < len(marked(partial)) <= 40


@pytest.mark.parametrize(
    "payload", [PAYLOAD + bytes(CHUNK_BYTES), PAYLOAD[:-CHUNK_BYTES]], ids=["longer", "shorter"]
)
async def test_a_payload_of_another_length_is_refused(payload: bytes, partial: Partial) -> None:
    blob = gzip_member(payload, level=1)
    with partial, serving(blob) as server:
        with pytest.raises(errors.CorruptImage, match=r"index|ends early"):
            await fill(layer_of(blob, payload), server.url, partial, INDEX)
        marked(partial)


async def test_the_next_fill_goes_on_after_a_killed_worker(partial: Partial) -> None:
    with partial:
        with serving(BLOB, hold_at=HALF) as server:

            async def kill() -> None:
                await trio.to_thread.run_sync(server.reached.wait)
                await trio.to_thread.run_sync(wait_for, lambda: marked(partial))
                (worker,) = workers()
                os.kill(worker, signal.SIGKILL)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(kill)
                with pytest.raises(errors.NodeFault, match="SIGKILL"):
                    await fill(LAYER, server.url, partial, INDEX)
        assert 0 < len(marked(partial)) < INDEX.chunk_count
        with serving(BLOB) as server:
            await fill(LAYER, server.url, partial, INDEX)
        assert marked(partial) == set(range(INDEX.chunk_count))


async def test_a_cancelled_pass_leaves_no_worker(layout: Layout) -> None:
    with serving(BLOB, hold_at=HALF) as server:
        async with trio.open_nursery() as nursery:
            path = layout.first_pass("record")
            nursery.start_soon(first_pass, LAYER, server.url, path)
            await trio.to_thread.run_sync(server.reached.wait)
            assert len(workers()) == 1
            nursery.cancel_scope.cancel()
        assert workers() == []
