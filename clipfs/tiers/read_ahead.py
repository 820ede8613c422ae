"""Reads ahead of readers who go through a file in order, so that they seldom wait for tier 2.

    ahead = ReadAhead(chain, nursery)
    data = await ahead.read(layer, extent, follows=file_end - extent.end)

A reader that has read START_BYTES of a file in order gets the next pieces brought to the disk, up
to twice as many bytes as it has read, at most WINDOW_BYTES, several requests in flight. Nothing
beyond the file's end is brought, and nothing for readers who jump. What is ahead never fails a
reader: who reaches a piece that did not come asks for it himself.

Not here: who reads what (`clipfs.mount.payloads`); what the kernel reads ahead
(`clipfs.mount.device`). Source: Linux mm/readahead.c, whose windows grow in this way.
"""

from collections import OrderedDict
from dataclasses import dataclass

import trio

from clipfs import errors
from clipfs.log import log
from clipfs.tiers.chain import TierChain
from clipfs.tiers.tier import Extent, IndexedLayer, Payload

START_BYTES = 512 << 10
"""Read in order before anything is read ahead: a few reads of a header are no stream."""

PIECE_BYTES = 2 << 20
"""Of one request: a fraction of a page, so that several are on their way at the same time. With
4 times 2 MiB the tiers gave 874 MB/s, with 8 times 1 MiB 754, with 2 times 4 MiB 785.
"""

WINDOW_BYTES = 8 << 20
"""Brought before a reader, at most: what a content cache that is 10 ms away gives at 800 MB/s."""

MAX_PIECES = 4
"""On their way at the same time, for all readers of an image together: the memory they take."""

GAP_BYTES, BACK_BYTES = 256 << 10, 1 << 20
"""So far ahead and back a read may be of where a stream is, and still be of it: the kernel has
several reads of one reader on their way, which overtake each other.
"""

MAX_STREAMS = 64


@dataclass(slots=True)
class _Stream:
    """A reader in a file: how much it has read in order, how far it is, how far it is ahead."""

    read: int
    end: int
    ahead: int


class Streams:
    """Finds streams among reads, and says what to bring next. Decisions only."""

    def __init__(self) -> None:
        self._streams: OrderedDict[tuple[str, int], _Stream] = OrderedDict()

    def next_pieces(self, key: str, extent: Extent, *, end: int, most: int) -> list[Extent]:
        """What to bring now, nearest first: at most so many pieces, cut where pages are.

        end  of the file that is read, in the layer that key names; with key it names the file
        """
        stream = self._followed((key, end), extent)
        if stream.read < START_BYTES:
            return []
        target = min(stream.end + min(2 * stream.read, WINDOW_BYTES), end)
        pieces: list[Extent] = []
        start = max(stream.ahead, stream.end)
        while len(pieces) < most and start < end:
            stop = min((start // PIECE_BYTES + 1) * PIECE_BYTES, end)
            if stop > target:
                break
            pieces.append(Extent(start, stop - start))
            start = stop
        stream.ahead = start
        return pieces

    def _followed(self, file: tuple[str, int], extent: Extent) -> _Stream:
        """The stream that a read of the file goes on with, or begins."""
        stream = self._streams.pop(file, None)
        if stream is None or not -BACK_BYTES <= extent.offset - stream.end <= GAP_BYTES:
            stream = _Stream(read=0, end=extent.offset, ahead=0)
        stream.read += max(0, extent.end - max(extent.offset, stream.end))
        stream.end = max(stream.end, extent.end)
        self._streams[file] = stream
        if len(self._streams) > MAX_STREAMS:
            self._streams.popitem(last=False)
        return stream


class ReadAhead:
    """Reads through `chain`; what is ahead is brought in `nursery`, which its owner cancels."""

    def __init__(self, chain: TierChain, nursery: trio.Nursery) -> None:
        self._chain = chain
        self._nursery = nursery
        self._streams = Streams()
        self._pieces = 0

    async def read(self, layer: IndexedLayer, extent: Extent, *, follows: int = 0) -> Payload:
        """As the chain's.

        follows  so many bytes of the same file come behind extent, in this layer
        """
        if follows and not self._chain.has_all(layer):
            pieces = self._streams.next_pieces(
                layer.cache_key,
                extent,
                end=extent.end + follows,
                most=MAX_PIECES - self._pieces,
            )
            for piece in pieces:
                self._pieces += 1
                self._nursery.start_soon(self._bring, layer, piece)
        return await self._chain.read(layer, extent)

    async def _bring(self, layer: IndexedLayer, piece: Extent) -> None:
        try:
            await self._chain.bring_ahead(layer, piece.chunks())
        except errors.ClipError as error:
            log.debug("nothing came ahead", cache_key=layer.cache_key, error=str(error))
        except Exception:  # a bug, which the reader meets himself; the mount lives on
            log.exception("nothing came ahead", cache_key=layer.cache_key)
        finally:
            self._pieces -= 1
