"""How a layer lies in the content cache: pages of its payload, and its sealed index.

A layer is pages of 8 MiB under `sha256_<layer>/<number>` and its sealed index under
`sha256_<layer>.v1.toc`. Pure.
"""

from collections.abc import Iterator

from clipfs.layer.index import CHUNK_BYTES, LayerIndex

PAGE_BYTES = 8 << 20
"""Payload bytes of one object: large enough for few objects, small enough to be spread."""

PAGE_CHUNKS = PAGE_BYTES // CHUNK_BYTES


def page_key(cache_key: str, page: int) -> str:
    return f"{cache_key}/{page:06d}"


def page_count(index: LayerIndex) -> int:
    return -(-index.payload_bytes // PAGE_BYTES)


def chunks_of_page(index: LayerIndex, page: int) -> range:
    """The chunks of a page, the payload's last page short."""
    first = page * PAGE_CHUNKS
    return range(first, min(first + PAGE_CHUNKS, index.chunk_count))


def by_page(chunks: range) -> Iterator[tuple[int, range]]:
    """Chunks cut where pages are, with the page that each part is in."""
    start = chunks.start
    while start < chunks.stop:
        page = start // PAGE_CHUNKS
        stop = min((page + 1) * PAGE_CHUNKS, chunks.stop)
        yield page, range(start, stop)
        start = stop


def within_page(index: LayerIndex, page: int, chunks: range) -> range:
    """The bytes of a page's object that hold chunks of it, the payload's last chunk short."""
    start = page * PAGE_BYTES
    end = min(chunks.stop * CHUNK_BYTES, index.payload_bytes)
    return range(chunks.start * CHUNK_BYTES - start, end - start)
