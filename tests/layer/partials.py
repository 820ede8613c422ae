"""One payload of five chunks, and what a partial says and holds of it."""

import os
import random

from clipfs.layer.index import CHUNK_BYTES
from clipfs.layer.layout import Layout
from clipfs.layer.partial import Partial

KEY = "sha256_" + "a" * 64
CHUNKS = 5
PAYLOAD = random.Random(1).randbytes((CHUNKS - 1) * CHUNK_BYTES + 100)


def opened(layout: Layout, payload: bytes = PAYLOAD) -> Partial:
    return Partial(layout, KEY, payload_bytes=len(payload))


def data_of(chunks: range) -> bytes:
    return PAYLOAD[chunks.start * CHUNK_BYTES : chunks.stop * CHUNK_BYTES]


def write(partial: Partial, *chunks: int) -> None:
    for chunk in chunks:
        partial.write(range(chunk, chunk + 1), data_of(range(chunk, chunk + 1)))


def present(partial: Partial) -> set[int]:
    """The chunks that it says are there; each must have the right bytes."""
    absent = {chunk for run in partial.missing(range(CHUNKS)) for chunk in run}
    for chunk in set(range(CHUNKS)) - absent:
        expected = data_of(range(chunk, chunk + 1))
        found = os.pread(partial.payload_fd, len(expected), chunk * CHUNK_BYTES)
        assert found == expected, f"chunk {chunk} is marked and wrong"
    return set(range(CHUNKS)) - absent
